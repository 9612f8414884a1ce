"""What answers requests, and what labels say of it."""

from typing import Annotated, Literal

from msgspec import UNSET, Meta, UnsetType

from ops.audit.log.schemas.requests import V1, Auth, Count, Counts, Hex32, Hex64, Key, Name, Part, Text, TimeNs


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
