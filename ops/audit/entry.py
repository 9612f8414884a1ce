"""The leaf: one canonical JSON object for each thing that happened, with a closed schema for each kind.

Pure. Canonical means RFC 8785 restricted to strings, booleans, integers of magnitude below 2^53, arrays and objects
with ASCII keys: no floats (scores are integer micro-units), no null (absent is absent), no duplicate keys. Times exceed
2^53 nanoseconds, so `time_ns` is a decimal string. The structs below list their fields in canonical order; an entry is
canonical exactly when decoding it and encoding it again gives the same bytes, which `check` does in one pass.

`kind` and `count` are reserved: no map inside an entry uses them as a key. Digests are SHA-256 in hex, and where they
cover personal data they cover the ciphertext (a bare hash of a plaintext can be guessed).
"""

import hmac
from collections.abc import Callable
from hashlib import sha256
from typing import Annotated, Any, Literal

import msgspec
import orjson
from msgspec import UNSET, Meta, Struct, UnsetType

from ops.audit.errors import EntryError

ENTRY_BYTES_MAX = 16_384
INTEGER_MAX = 2**53 - 1
DEPTH_MAX = 16
VERSION = 1

Text = Annotated[str, Meta(min_length=1, max_length=512)]
Name = Annotated[str, Meta(min_length=0, max_length=512)]
Hex32 = Annotated[str, Meta(min_length=32, max_length=32)]
Hex64 = Annotated[str, Meta(min_length=64, max_length=64)]
TimeNs = Annotated[str, Meta(min_length=1, max_length=19)]  # decimal; `check` sees to the digits
Count = Annotated[int, Meta(ge=0, le=INTEGER_MAX)]
Micro = Annotated[int, Meta(ge=-INTEGER_MAX, le=INTEGER_MAX)]
Key = Annotated[str, Meta(min_length=1, max_length=64)]
Counts = Annotated[dict[Key, Count], Meta(max_length=64)]
Details = Annotated[dict[Key, Name], Meta(max_length=64)]
V1 = Literal[1]


class Part(Struct, forbid_unknown_fields=True, omit_defaults=True, gc=False, frozen=True):
    """A part of an entry: unknown keys are refused, absent ones stay absent."""


class Auth(Part, kw_only=True, frozen=True):
    credential: Text
    method: Literal["api_key", "jwt", "mtls", "none"]
    principal: Hex32
    tenant: Text


class Batch(Part, kw_only=True, frozen=True):
    id: Count
    padded: Count
    position: Count
    rows: Count
    size: Count


class Limit(Part, kw_only=True, frozen=True):
    decision: Literal["admit", "refuse"]
    rule: Text
    tokens: Micro


class Model(Part, kw_only=True, frozen=True):
    digest: Hex64
    engine: Text
    name: Text
    version: Text


class Sealed(Part, kw_only=True, frozen=True):
    bytes: Count
    ciphertext_sha256: Hex64
    commitment: Hex64


class Payload(Part, kw_only=True, frozen=True):
    key: Annotated[str, Meta(min_length=2, max_length=64, pattern="^[0-9a-f]+$")]
    request: Sealed | UnsetType = UNSET
    response: Sealed | UnsetType = UNSET


class Screen(Part, kw_only=True, frozen=True):
    digest: Hex64
    mode: Literal["enforce", "shadow"]
    name: Text
    p_micro: Count
    score_micro: Micro
    technique: Text
    threshold_micro: Micro
    verdict: Literal["pass", "flag", "refuse"]


Decision = Literal["allow", "flag", "harden", "refuse", "error"]
Limits = Annotated[list[Limit], Meta(max_length=16)]
Screens = Annotated[list[Screen], Meta(max_length=16)]


class Request(Part, kw_only=True, frozen=True):
    """One request and its outcome."""

    auth: Auth | UnsetType = UNSET
    batch: Batch | UnsetType = UNSET
    build: Text
    config: Hex64
    deadline_us: Count | UnsetType = UNSET
    decision: Decision
    gateway: Text
    id: Hex32
    kind: Literal["served", "refused", "failed"]
    limits: Limits | UnsetType = UNSET
    method: Text
    model: Model | UnsetType = UNSET
    payload: Payload | UnsetType = UNSET
    peer: Text
    policy: Hex64
    reason: Text
    rows: Count | UnsetType = UNSET
    screens: Screens | UnsetType = UNSET
    seed: Count | UnsetType = UNSET
    status: Count
    time_ns: TimeNs
    timings_us: Counts | UnsetType = UNSET
    trace: Hex32 | UnsetType = UNSET
    v: V1


class RefusedAnonymous(Part, kw_only=True, frozen=True):
    """The refusals of callers without a credential, summed once a second so that nobody can fill the disk."""

    build: Text
    config: Hex64
    count: Count
    decision: Literal["refuse"] | UnsetType = UNSET
    gateway: Text
    id: Hex32
    kind: Literal["refused"]
    policy: Hex64
    reasons: Counts
    time_ns: TimeNs
    v: V1


class OutcomeUnknown(Part, kw_only=True, frozen=True):
    """A request that was in flight when its worker died: what the in-flight ring still knew of it."""

    auth: Auth | UnsetType = UNSET
    build: Text
    config: Hex64 | UnsetType = UNSET
    decision: Literal["error"]
    gateway: Text
    id: Hex32
    kind: Literal["outcome-unknown"]
    method: Text | UnsetType = UNSET
    model: Model | UnsetType = UNSET
    peer: Text | UnsetType = UNSET
    policy: Hex64 | UnsetType = UNSET
    reason: Text
    rows: Count | UnsetType = UNSET
    time_ns: TimeNs
    trace: Hex32 | UnsetType = UNSET
    v: V1


class Genesis(Part, kw_only=True, frozen=True):
    """Leaf 0: which log this is, and the key that signs it."""

    build: Text
    id: Hex32
    kind: Literal["genesis"]
    origin: Text
    previous: Text | UnsetType = UNSET  # the final checkpoint of the epoch before
    time_ns: TimeNs
    v: V1
    vkey: Text


class Heartbeat(Part, kw_only=True, frozen=True):
    """Every few seconds, idle or busy: silence is evidence. `sequence` counts over the whole log."""

    build: Text
    id: Hex32
    interval_ms: Count
    kind: Literal["heartbeat"]
    sequence: Count
    size: Count
    time_ns: TimeNs
    v: V1


class Loaded(Part, kw_only=True, frozen=True):
    """A configuration or policy that took effect, was refused or rolled back."""

    build: Text
    digest: Hex64
    gateway: Text | UnsetType = UNSET
    id: Hex32
    kind: Literal["config", "policy"]
    outcome: Literal["loaded", "rejected", "rolled-back"]
    reason: Name | UnsetType = UNSET
    time_ns: TimeNs
    v: V1


class ModelChange(Part, kw_only=True, frozen=True):
    action: Literal["loaded", "unloaded", "promoted", "rejected"]
    build: Text
    digest: Hex64
    gateway: Text | UnsetType = UNSET
    id: Hex32
    kind: Literal["model"]
    name: Text
    time_ns: TimeNs
    v: V1
    version: Text


class KeyChange(Part, kw_only=True, frozen=True):
    action: Literal["added", "retired"]
    build: Text
    gateway: Text | UnsetType = UNSET
    id: Hex32
    key: Text
    kind: Literal["key"]
    purpose: Text
    time_ns: TimeNs
    v: V1


class Erasure(Part, kw_only=True, frozen=True):
    """Data keys destroyed, without the name of the subject; two administrators."""

    administrators: Annotated[list[Text], Meta(min_length=2, max_length=8)]
    build: Text
    gateway: Text | UnsetType = UNSET
    id: Hex32
    keys: Annotated[list[Text], Meta(max_length=128)]
    kind: Literal["erasure"]
    time_ns: TimeNs
    v: V1


class Hold(Part, kw_only=True, frozen=True):
    action: Literal["placed", "lifted"]
    administrator: Text
    build: Text
    gateway: Text | UnsetType = UNSET
    id: Hex32
    kind: Literal["hold"]
    matter: Text
    time_ns: TimeNs
    v: V1


class Gap(Part, kw_only=True, frozen=True):
    """Records were refused or lost between an `open` and a `close`; `dropped` counts them."""

    build: Text
    dropped: Count
    gateway: Text | UnsetType = UNSET
    id: Hex32
    kind: Literal["gap"]
    reason: Text
    state: Literal["open", "close"]
    time_ns: TimeNs
    v: V1


class Recover(Part, kw_only=True, frozen=True):
    """The recorder started on an existing log of this size and root, leaving out `cut_bytes` of unacknowledged tail."""

    build: Text
    cause: Literal["restart", "crash", "torn-tail"]
    cut_bytes: Count
    id: Hex32
    kind: Literal["recover"]
    root: Hex64
    size: Count
    time_ns: TimeNs
    v: V1


class EpochClose(Part, kw_only=True, frozen=True):
    build: Text
    id: Hex32
    kind: Literal["epoch-close"]
    next_origin: Text
    size: Count
    time_ns: TimeNs
    v: V1


class ReplayResult(Part, kw_only=True, frozen=True):
    build: Text
    checked: Count
    differing: Count
    first: Count
    gateway: Text | UnsetType = UNSET
    id: Hex32
    kind: Literal["replay-result"]
    level: Literal["R0", "R1", "R2", "R3"]
    time_ns: TimeNs
    v: V1


class Admin(Part, kw_only=True, frozen=True):
    action: Text
    administrator: Text
    build: Text
    detail: Details | UnsetType = UNSET
    gateway: Text | UnsetType = UNSET
    id: Hex32
    kind: Literal["admin"]
    outcome: Literal["done", "refused", "failed"]
    time_ns: TimeNs
    v: V1


class Feedback(Part, kw_only=True, frozen=True):
    auth: Auth
    build: Text
    gateway: Text | UnsetType = UNSET
    id: Hex32
    kind: Literal["feedback"]
    label: Name
    request: Hex32
    time_ns: TimeNs
    v: V1


Entry = (
    Request
    | RefusedAnonymous
    | OutcomeUnknown
    | Genesis
    | Heartbeat
    | Loaded
    | ModelChange
    | KeyChange
    | Erasure
    | Hold
    | Gap
    | Recover
    | EpochClose
    | ReplayResult
    | Admin
    | Feedback
)
_SCHEMAS: dict[bytes, type[Entry]] = {
    b"served": Request,
    b"refused": Request,
    b"failed": Request,
    b"outcome-unknown": OutcomeUnknown,
    b"genesis": Genesis,
    b"heartbeat": Heartbeat,
    b"config": Loaded,
    b"policy": Loaded,
    b"model": ModelChange,
    b"key": KeyChange,
    b"erasure": Erasure,
    b"hold": Hold,
    b"gap": Gap,
    b"recover": Recover,
    b"epoch-close": EpochClose,
    b"replay-result": ReplayResult,
    b"admin": Admin,
    b"feedback": Feedback,
}
KINDS = frozenset(kind.decode() for kind in _SCHEMAS)
_DECODE: dict[bytes, Callable[[bytes], Entry]] = {
    kind: msgspec.json.Decoder(schema).decode for kind, schema in _SCHEMAS.items()
}
_DECODE_SUM: Callable[[bytes], Entry] = msgspec.json.Decoder(RefusedAnonymous).decode
_ENCODE = msgspec.json.Encoder(order="deterministic").encode


def check(data: bytes) -> Entry:
    """Decode an entry, refusing what is not canonical: the hot path of the recorder and of verify.

    Raises:
        EntryError: unless `data` is one canonical entry of a known kind within its limits.
    """
    if len(data) > ENTRY_BYTES_MAX:
        raise EntryError(f"an entry has at most {ENTRY_BYTES_MAX} bytes")
    # In canonical JSON a quote inside a string is escaped, so these bytes can only be a key.
    start = data.find(b'"kind":"') + 8
    decode = _DECODE.get(data[start : data.find(b'"', start)])
    if decode is None or start < 8:
        raise EntryError("not an entry of a known kind")
    if data.find(b',"count":', 0, start) >= 0:
        decode = _DECODE_SUM
    try:
        entry = decode(data)
        same = _ENCODE(entry) == data
        if not data.isascii():  # rare, and the only case in which keys could be other than ASCII
            _restrict(orjson.loads(data), 0)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise EntryError(f"not an entry: {error}") from error
    if not same:
        raise EntryError("not canonical JSON")
    time_ns = entry.time_ns
    if not (time_ns.isascii() and time_ns.isdigit()) or (time_ns[0] == "0" and time_ns != "0"):
        raise EntryError("time_ns is not a decimal number")
    return entry


def parse(data: bytes) -> dict[str, Any]:
    """`check`, then the entry as plain values.

    Raises:
        EntryError: as `check`.
    """
    check(data)
    value: dict[str, Any] = orjson.loads(data)
    return value


def _restrict(value: object, depth: int) -> None:
    """Refuse what canonical JSON of this log does not have."""
    if depth > DEPTH_MAX:
        raise EntryError(f"nested deeper than {DEPTH_MAX}")
    match value:
        case bool() | str():
            return
        case int():
            if abs(value) > INTEGER_MAX:
                raise EntryError("an integer of 2^53 or more")
        case list() | tuple():
            for item in value:
                _restrict(item, depth + 1)
        case dict():
            for key, item in value.items():
                if not isinstance(key, str) or not key.isascii():
                    raise EntryError("a key that is not an ASCII string")
                _restrict(item, depth + 1)
        case _:
            raise EntryError(f"{type(value).__name__} has no canonical form")


def canonical(value: object) -> bytes:
    """Canonical JSON of plain values (str, bool, int, list, tuple, dict).

    Raises:
        EntryError: for floats, None, integers of 2^53 or more, keys that are not ASCII, lone surrogates.
    """
    _restrict(value, 0)
    try:
        return orjson.dumps(value, option=orjson.OPT_SORT_KEYS)
    except orjson.JSONEncodeError as error:
        raise EntryError(str(error)) from error


def payload_hashes(entry: Entry) -> tuple[bytes, ...]:
    """SHA-256 of the ciphertexts that a checked entry names, in the order request, response.

    Raises:
        EntryError: when one of them is not hex.
    """
    if not isinstance(entry, Request) or isinstance(entry.payload, UnsetType):
        return ()
    sealed = (entry.payload.request, entry.payload.response)
    try:
        return tuple(bytes.fromhex(each.ciphertext_sha256) for each in sealed if not isinstance(each, UnsetType))
    except ValueError as error:
        raise EntryError("a ciphertext digest is not hex") from error


def pseudonym(tenant_key: bytes, principal: str) -> str:
    """A principal's stable name in the log of its tenant: HMAC-SHA-256 cut to 128 bits, hex."""
    return hmac.digest(tenant_key, principal.encode(), sha256)[:16].hex()
