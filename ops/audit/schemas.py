"""The closed schema of each kind of entry, as structs whose fields stand in canonical order.

`kind` and `count` are reserved: no map inside an entry uses them as a key. Digests are SHA-256 in hex, and where they
cover personal data they cover the ciphertext (a bare hash of a plaintext can be guessed).
"""

from collections.abc import Mapping
from typing import Annotated, Literal

from msgspec import UNSET, Meta, Struct, UnsetType

INTEGER_MAX = 2**53 - 1
EPOCH_DROPPED = "epoch-dropped"  # an administrator's action; its detail has the number of the `epoch`

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


class Account(Part, kw_only=True, frozen=True):
    """What the account's questions, taken together, look like: the natural logarithm of the evidence against it.

    `repeats` counts the rows that lie close to an earlier question; `step` is where the account stands.
    """

    evidence_milli: Micro
    mode: Literal["enforce", "shadow"]
    repeats: Count
    step: Literal["allow", "flag", "harden", "neighbour", "proof_of_work", "top1", "cool_down", "refuse"]


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
    """What one spend came to. `clock_ns` is the gateway's monotonic clock at it: with that, it can be done again."""

    clock_ns: TimeNs | UnsetType = UNSET
    decision: Literal["admit", "refuse"]
    rule: Text
    tokens: Micro


class Model(Part, kw_only=True, frozen=True):
    digest: Hex64
    engine: Text
    name: Text
    version: Text


class Budget(Part, kw_only=True, frozen=True):
    """What the answer took of the model's budget, in thousandths of a unit, and what the account owed after it."""

    cost_milli: Count
    debt_millidays: Count
    mode: Literal["enforce", "shadow"]
    step: Literal["full", "top1", "proof_of_work", "refuse"]


class Sealed(Part, kw_only=True, frozen=True):
    bytes: Count
    ciphertext_sha256: Hex64
    commitment: Hex64


class Output(Part, kw_only=True, frozen=True):
    """What the policy kept back: rows that got no answer, and rows that got another class than the model's first."""

    abstained: Count
    moved: Count


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


Decision = Literal["allow", "flag", "harden", "neighbour", "proof_of_work", "top1", "refuse", "error"]
Limits = Annotated[list[Limit], Meta(max_length=16)]
Screens = Annotated[list[Screen], Meta(max_length=16)]


class Request(Part, kw_only=True, frozen=True):
    """One request and its outcome. `cached` is the id of the request whose answer it was given again.

    `pinned`: the client named the version of the model; otherwise the gateway chose it.
    """

    account: Account | UnsetType = UNSET
    auth: Auth | UnsetType = UNSET
    batch: Batch | UnsetType = UNSET
    budget: Budget | UnsetType = UNSET
    build: Text
    cached: Hex32 | UnsetType = UNSET
    config: Hex64
    deadline_us: Count | UnsetType = UNSET
    decision: Decision
    gateway: Text
    id: Hex32
    kind: Literal["served", "refused", "failed"]
    limits: Limits | UnsetType = UNSET
    method: Text
    model: Model | UnsetType = UNSET
    output: Output | UnsetType = UNSET
    payload: Payload | UnsetType = UNSET
    peer: Text
    pinned: bool | UnsetType = UNSET
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


class RefusalSum(Part, kw_only=True, frozen=True):
    """Refusals summed once a second so that nobody can fill the disk: of strangers, or many of one caller (`auth`)."""

    auth: Auth | UnsetType = UNSET
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
    """A version came into service or went out of it; `request` is the id of the request that asked for it.

    `promoted`: it has the proof that the policy asks for: an `evaluation` (the digest of its file) that `approvers`
    signed, or their `override` with its reasons, or it is `exempt` by the policy. `rejected`: it has not, and `reason`
    says why.
    """

    action: Literal["loaded", "unloaded", "promoted", "rejected"]
    approvers: Annotated[list[Text], Meta(max_length=64)] | UnsetType = UNSET
    build: Text
    digest: Hex64
    evaluation: Hex64 | UnsetType = UNSET
    exempt: bool | UnsetType = UNSET
    gateway: Text | UnsetType = UNSET
    id: Hex32
    kind: Literal["model"]
    name: Text
    override: Name | UnsetType = UNSET
    reason: Name | UnsetType = UNSET
    request: Hex32 | UnsetType = UNSET
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
    """Data keys destroyed, without the name of the subject; two administrators, who asked and who agreed.

    `keys` are references as in `payload.key`, `subject` is the pseudonym, `request` the id of the request that agreed.
    After a crash there may be two with the same `erasure`.
    """

    administrators: Annotated[list[Text], Meta(min_length=2, max_length=8)]
    build: Text
    erasure: Hex32 | UnsetType = UNSET
    gateway: Text | UnsetType = UNSET
    id: Hex32
    keys: Annotated[list[Text], Meta(max_length=128)]
    kind: Literal["erasure"]
    months: Annotated[list[Text], Meta(max_length=128)] | UnsetType = UNSET
    reason: Name | UnsetType = UNSET
    request: Hex32 | UnsetType = UNSET
    subject: Hex32 | UnsetType = UNSET
    tenant: Text | UnsetType = UNSET
    time_ns: TimeNs
    v: V1


class Hold(Part, kw_only=True, frozen=True):
    """Nothing of a tenant, or of one `subject` of it (a pseudonym), is erased from `placed` to `lifted`."""

    action: Literal["placed", "lifted"]
    administrator: Text
    build: Text
    gateway: Text | UnsetType = UNSET
    hold: Hex32 | UnsetType = UNSET
    id: Hex32
    kind: Literal["hold"]
    matter: Text
    reason: Name | UnsetType = UNSET
    request: Hex32 | UnsetType = UNSET
    subject: Hex32 | UnsetType = UNSET
    tenant: Text | UnsetType = UNSET
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
    """The recorder started on an existing log of this size and root, leaving out `cut_bytes` of unacknowledged tail.

    `restored`: this log follows another one, `origin`, of which this size and root were brought back; its entries from
    there up to `lost_end` were not.
    """

    build: Text
    cause: Literal["restart", "crash", "torn-tail", "restored"]
    cut_bytes: Count
    id: Hex32
    kind: Literal["recover"]
    lost_end: Count | UnsetType = UNSET
    origin: Text | UnsetType = UNSET
    root: Hex64
    size: Count
    time_ns: TimeNs
    v: V1


class EpochClose(Part, kw_only=True, frozen=True):
    """The last entry of an epoch, which has `size` entries before it; the log goes on as `next_origin`."""

    build: Text
    id: Hex32
    kind: Literal["epoch-close"]
    next_origin: Text
    size: Count
    time_ns: TimeNs
    v: V1


class ReplayResult(Part, kw_only=True, frozen=True):
    """A level of a replay, as whoever ran it says: of `checked` comparisons so many were `differing`.

    What was replayed is the tree of `size` and `root`, from entry `first` on; `administrator` is the credential that
    said so, in the call with the id `request`.
    """

    administrator: Text | UnsetType = UNSET
    build: Text
    checked: Count
    differing: Count
    first: Count
    gateway: Text | UnsetType = UNSET
    id: Hex32
    kind: Literal["replay-result"]
    level: Literal["R0", "R1", "R2", "R3"]
    request: Hex32 | UnsetType = UNSET
    root: Hex64 | UnsetType = UNSET
    size: Count | UnsetType = UNSET
    time_ns: TimeNs
    v: V1


class Admin(Part, kw_only=True, frozen=True):
    """An administrator did something, or tried. `EPOCH_DROPPED` names an epoch whose entries were removed."""

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


class Release(Part, kw_only=True, frozen=True):
    """Which version of a model answers whom has changed: by the policy, or because a canary went on or back.

    `weights_micro` are the shares from now on; `counts` is what was seen before, and decided.
    """

    action: Literal["set", "started", "advanced", "promoted", "rolled-back", "ended"]
    build: Text
    counts: Counts | UnsetType = UNSET
    gateway: Text | UnsetType = UNSET
    id: Hex32
    kind: Literal["release"]
    name: Text
    policy: Hex64
    reason: Name | UnsetType = UNSET
    time_ns: TimeNs
    v: V1
    version: Text
    weights_micro: Annotated[dict[Key, Count], Meta(max_length=16)]


class Feedback(Part, kw_only=True, frozen=True):
    """Somebody said, in the call with the id `call`, what the right answer to a row of `request` was.

    `name` and `version` are the model's, as it was said; `key` are the first digits of the key that signed, `p_micro`
    how rarely a right label lies as far from trusted rows. `reason` says why it was not accepted.
    """

    auth: Auth
    build: Text
    call: Hex32 | UnsetType = UNSET
    disposition: Literal["accepted", "quarantined", "refused"] | UnsetType = UNSET
    gateway: Text | UnsetType = UNSET
    id: Hex32
    key: Text | UnsetType = UNSET
    kind: Literal["feedback"]
    label: Name
    name: Text | UnsetType = UNSET
    outcome_ns: TimeNs | UnsetType = UNSET
    p_micro: Count | UnsetType = UNSET
    reason: Text | UnsetType = UNSET
    request: Hex32
    row: Count | UnsetType = UNSET
    time_ns: TimeNs
    v: V1
    version: Text | UnsetType = UNSET


class Evaluation(Part, kw_only=True, frozen=True):
    """What labels that came since `since_ns` say of a version: how many, how many it had answered, its confidence.

    `calibration_error_micro` is the expected calibration error, in millionths. `source`: labels of the principals whom
    the policy trusts with that, or of others, as far as they passed the gate.
    """

    build: Text
    calibration_error_micro: Count
    gateway: Text | UnsetType = UNSET
    id: Hex32
    kind: Literal["evaluation"]
    labels: Count
    name: Text
    right: Count
    since_ns: TimeNs
    source: Literal["trusted", "others"]
    time_ns: TimeNs
    v: V1
    version: Text


class Isolation(Part, kw_only=True, frozen=True):
    """A tenant, or one `principal` of it, is kept out, or may come back; `isolation` is the same id from first to last.

    `isolated` is written before it takes force, and `failed` when it did not. `holds`: the host started, and it is
    still in force. `expired`: `until_ns` has passed. `administrator` is the credential that asked, in `request`.
    """

    action: Literal["isolated", "released", "expired", "holds", "failed"]
    administrator: Text | UnsetType = UNSET
    build: Text
    gateway: Text | UnsetType = UNSET
    id: Hex32
    incident: Text | UnsetType = UNSET
    isolation: Hex32
    kind: Literal["isolation"]
    principal: Hex32 | UnsetType = UNSET
    reason: Name | UnsetType = UNSET
    request: Hex32 | UnsetType = UNSET
    tenant: Text
    time_ns: TimeNs
    until_ns: TimeNs | UnsetType = UNSET
    v: V1


class Incident(Part, kw_only=True, frozen=True):
    """What people did about an incident: it began, something was done or noted, it is over.

    `suspects` are "tenant:T", "principal:PSEUDONYM" and "model:NAME/VERSION"; the range is what is looked at.
    """

    action: Literal["opened", "noted", "closed"]
    administrator: Text
    build: Text
    detail: Details | UnsetType = UNSET
    from_ns: TimeNs | UnsetType = UNSET
    gateway: Text | UnsetType = UNSET
    id: Hex32
    incident: Text
    kind: Literal["incident"]
    reason: Name | UnsetType = UNSET
    request: Hex32 | UnsetType = UNSET
    suspects: Annotated[list[Text], Meta(max_length=64)] | UnsetType = UNSET
    time_ns: TimeNs
    until_ns: TimeNs | UnsetType = UNSET
    v: V1


class Quarantine(Part, kw_only=True, frozen=True):
    """Somebody has looked at what a screen found: `released` was honest, `rejected` was not. `entry` is its index."""

    action: Literal["released", "rejected"]
    administrator: Text
    build: Text
    entry: Count
    gateway: Text | UnsetType = UNSET
    id: Hex32
    incident: Text | UnsetType = UNSET
    kind: Literal["quarantine"]
    reason: Name | UnsetType = UNSET
    request: Hex32 | UnsetType = UNSET
    subject: Hex32
    time_ns: TimeNs
    v: V1


Entry = (
    Request
    | RefusalSum
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
    | Evaluation
    | Release
    | Isolation
    | Incident
    | Quarantine
)

SCHEMAS: Mapping[bytes, type[Entry]] = {
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
    b"evaluation": Evaluation,
    b"release": Release,
    b"isolation": Isolation,
    b"incident": Incident,
    b"quarantine": Quarantine,
}
