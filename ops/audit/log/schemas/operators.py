"""What people did: to data, to callers, about incidents."""

from typing import Annotated, Literal

from msgspec import UNSET, Meta, UnsetType

from ops.audit.log.schemas.requests import V1, Count, Details, Hex32, Hex64, Name, Part, Text, TimeNs

EPOCH_DROPPED = "epoch-dropped"  # an administrator's action; its detail has the number of the `epoch`


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
