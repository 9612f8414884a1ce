"""The closed schema of each kind of entry, as structs whose fields stand in canonical order.

`kind` and `count` are reserved: no map inside an entry uses them as a key. Digests are SHA-256 in hex, and where they
cover personal data they cover the ciphertext (a bare hash of a plaintext can be guessed).
"""

from collections.abc import Mapping

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
