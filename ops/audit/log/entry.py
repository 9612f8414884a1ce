"""The leaf: one canonical JSON object for each thing that happened, with a closed schema for each kind.

Pure. Canonical means RFC 8785 restricted to strings, booleans, integers of magnitude below 2^53, arrays and objects
with ASCII keys: no floats (scores are integer micro-units), no null (absent is absent), no duplicate keys. Times exceed
2^53 nanoseconds, so `time_ns` is a decimal string. The structs of `schemas` list their fields in canonical order; an
entry is canonical exactly when decoding it and encoding it again gives the same bytes, which `check` does in one pass.
"""

import hmac
from collections.abc import Callable
from hashlib import sha256
from typing import Any

import msgspec
import orjson
from msgspec import UnsetType

from ops.audit.errors import EntryError
from ops.audit.log.schemas import SCHEMAS, Entry, RefusalSum, Request
from ops.audit.log.schemas.requests import INTEGER_MAX

ENTRY_BYTES_MAX = 16_384
DEPTH_MAX = 16
VERSION = 1

KINDS = frozenset(kind.decode() for kind in SCHEMAS)
_DECODE: dict[bytes, Callable[[bytes], Entry]] = {
    kind: msgspec.json.Decoder(schema).decode for kind, schema in SCHEMAS.items()
}
_DECODE_SUM: Callable[[bytes], Entry] = msgspec.json.Decoder(RefusalSum).decode
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
    kind = data[start : data.find(b'"', start)]
    decode = _DECODE.get(kind)
    if decode is None or start < 8:
        raise EntryError("not an entry of a known kind")
    if kind != b"served" and data.find(b',"count":', 0, start) >= 0:  # a served entry has no such key, nor room for one
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
