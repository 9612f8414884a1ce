"""What the recorder writes of the log itself."""

from typing import Literal

from msgspec import UNSET, UnsetType

from ops.audit.log.schemas.requests import V1, Count, Hex32, Hex64, Part, Text, TimeNs


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
