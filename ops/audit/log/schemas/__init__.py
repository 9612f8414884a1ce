"""The closed schema of each kind of entry, as structs whose fields stand in canonical order.

`kind` and `count` are reserved: no map inside an entry uses them as a key. Digests are SHA-256 in hex, and where they
cover personal data they cover the ciphertext (a bare hash of a plaintext can be guessed).
"""

from collections.abc import Mapping
from typing import get_args

from ops.audit.log.schemas.log import EpochClose, Gap, Genesis, Heartbeat, KeyChange, Recover
from ops.audit.log.schemas.models import Evaluation, Feedback, Loaded, ModelChange, Release
from ops.audit.log.schemas.operators import (
    EPOCH_DROPPED,
    Admin,
    Erasure,
    Hold,
    Incident,
    Isolation,
    Quarantine,
    ReplayResult,
)
from ops.audit.log.schemas.requests import OutcomeUnknown, RefusalSum, Request

__all__ = [
    "EPOCH_DROPPED",
    "SCHEMAS",
    "Admin",
    "Entry",
    "EpochClose",
    "Erasure",
    "Evaluation",
    "Feedback",
    "Gap",
    "Genesis",
    "Heartbeat",
    "Hold",
    "Incident",
    "Isolation",
    "KeyChange",
    "Loaded",
    "ModelChange",
    "OutcomeUnknown",
    "Quarantine",
    "Recover",
    "RefusalSum",
    "Release",
    "ReplayResult",
    "Request",
]

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
    kind.encode(): schema
    for schema in get_args(Entry)
    if schema is not RefusalSum  # told from a refused request by its `count`
    for kind in get_args(schema.__annotations__["kind"])
}
"""The schema of each kind, by what stands in the field `kind`."""
