"""Requests and how they ended."""

from typing import Annotated, Literal

from msgspec import UNSET, Meta, Struct, UnsetType

INTEGER_MAX = 2**53 - 1

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
