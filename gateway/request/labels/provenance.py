"""What a principal signs when it says what the right answer was, byte for byte.

A statement is the domain `stockade feedback 1` and the fields below, each behind its length (8 bytes, big-endian), in
this order: request id (16 bytes), row, model, version, label, confidence, outcome time, time of signing, principal.
Numbers are decimal ASCII, names UTF-8. The lengths make it the only reading of its bytes; the domain keeps a signature
for something else from ever counting here; the principal keeps it from counting as somebody else's.

Ed25519 (RFC 8032), raw 32-byte keys. Pure: keys and times are arguments.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from stockade.v1 import feedback_pb2

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

DOMAIN = b"stockade feedback 1"
KEY_BYTES = 32
SIGNATURE_BYTES = 64


@dataclass(frozen=True, slots=True)
class Statement:
    """What is said of one row. Times are Unix nanoseconds, confidence millionths (0: nothing is said of it)."""

    request: bytes
    row: int
    model: str
    version: str
    label: str
    confidence_micro: int
    outcome_ns: int
    signed_ns: int

    def signed_bytes(self, principal: str) -> bytes:
        """Return what this principal signs."""
        numbers = (self.confidence_micro, self.outcome_ns, self.signed_ns)
        names = (self.model, self.version, self.label)
        parts = [DOMAIN, self.request, b"%d" % self.row, *(name.encode() for name in names)]
        parts += [*(b"%d" % number for number in numbers), principal.encode()]
        return b"".join(len(part).to_bytes(8, "big") + part for part in parts)


def verifies(statement: Statement, principal: str, key: bytes, signature: bytes) -> bool:
    """Say whether the holder of this key, of KEY_BYTES, signed this statement as this principal."""
    try:
        Ed25519PublicKey.from_public_bytes(key).verify(signature, statement.signed_bytes(principal))
    except (InvalidSignature, ValueError):
        return False
    return True


def signed_item(statement: Statement, principal: str, key: Ed25519PrivateKey) -> feedback_pb2.FeedbackItem:
    """Return the statement as it is sent, signed: the client's side."""
    return feedback_pb2.FeedbackItem(
        request_id=statement.request.hex(),
        row=statement.row,
        model=statement.model,
        version=statement.version,
        label=statement.label,
        confidence_micro=statement.confidence_micro,
        outcome_unix_ns=statement.outcome_ns,
        signed_unix_ns=statement.signed_ns,
        key=key.public_key().public_bytes_raw(),
        signature=key.sign(statement.signed_bytes(principal)),
    )
