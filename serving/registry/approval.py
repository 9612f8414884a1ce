"""An approval: one person's Ed25519 signature under a statement about one bundle and one evaluation of it.

Signed are the bytes `stockade.approval/1`, a zero byte, and the statement in canonical JSON (keys sorted, no space,
text only). The first part is there so that a signature made for anything else can never pass for an approval. A file
holds the statement as it can be read, and the signature in base64.
No clock, and no file but the one of a new key.
"""

from __future__ import annotations

import base64
import binascii
import os
from typing import TYPE_CHECKING, Annotated, Literal

import msgspec
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)
from msgspec import Meta, Struct

from serving.registry.errors import EvidenceRejected, KeyRejected

if TYPE_CHECKING:
    from pathlib import Path

APPROVAL_BYTES_MAX = 16 * 1024
REASON_CHARACTERS_MAX = 200
DOMAIN = b"stockade.approval/1\0"

Decision = Literal["approve", "override"]
Name = Annotated[str, Meta(pattern=r"\A[A-Za-z0-9][A-Za-z0-9._-]{0,63}\Z")]


class Statement(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What is signed. `evaluation` is the SHA-256 of the evaluation's file; empty: there was none to look at."""

    approver: Name
    bundle: Annotated[str, Meta(pattern=r"\A[0-9a-f]{64}\Z")]
    decision: Decision
    evaluation: Annotated[str, Meta(pattern=r"\A([0-9a-f]{64})?\Z")]
    format: Literal["stockade.approval/1"] = "stockade.approval/1"
    model: Name
    reason: Annotated[str, Meta(max_length=REASON_CHARACTERS_MAX, pattern=r"\A[^\x00-\x1f\x7f-\x9f]*\Z")] = ""
    time: Annotated[str, Meta(pattern=r"\A[ -~]{1,64}\Z")]
    version: Name


class Approval(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A statement and its signature, base64."""

    signature: Annotated[str, Meta(max_length=128)]
    statement: Statement


def message_of(statement: Statement) -> bytes:
    """Return the bytes that are signed."""
    return DOMAIN + msgspec.json.encode(statement, order="sorted")


def sign(statement: Statement, key: Ed25519PrivateKey) -> bytes:
    """Return the file of an approval."""
    mark = base64.b64encode(key.sign(message_of(statement))).decode()
    data = msgspec.json.encode(Approval(signature=mark, statement=statement), order="sorted")
    return msgspec.json.format(data, indent=1) + b"\n"


def parse_approval(data: bytes) -> Approval:
    """Return the approval that these bytes are; whose it is, is not known yet.

    Raises:
        EvidenceRejected: they are none.
    """
    if len(data) > APPROVAL_BYTES_MAX:
        raise EvidenceRejected(f"is larger than {APPROVAL_BYTES_MAX} bytes")
    try:
        return msgspec.json.decode(data, type=Approval)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        raise EvidenceRejected("is not an approval of format 1") from None


def signed_by(approval: Approval, public_key: str) -> bool:
    """Say whether this key (raw, hex) signed it."""
    try:
        key = Ed25519PublicKey.from_public_bytes(bytes.fromhex(public_key))
        key.verify(base64.b64decode(approval.signature, validate=True), message_of(approval.statement))
    except (InvalidSignature, binascii.Error, ValueError):
        return False
    return True


def read_key(pem: bytes, file: str) -> Ed25519PrivateKey:
    """Return the private key of a PEM file. Raises KeyRejected."""
    try:
        key = load_pem_private_key(pem, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):  # TypeError: it is encrypted
        key = None
    if not isinstance(key, Ed25519PrivateKey):
        advice = "`stockade keys approver` makes one"
        raise KeyRejected(f"{file}: is not an unencrypted Ed25519 private key in PEM; {advice}")
    return key


def make_key(file: Path) -> Ed25519PrivateKey:
    """Make a key and put it into a new file, PEM, mode 0600. Raises OSError, also where there is such a file."""
    key = Ed25519PrivateKey.generate()
    handle = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(handle, "wb") as opened:
        opened.write(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return key


def key_hex(key: Ed25519PrivateKey | Ed25519PublicKey) -> str:
    """Return the public half, raw, as hex: what the policy names an approver by."""
    public = key.public_key() if isinstance(key, Ed25519PrivateKey) else key
    return public.public_bytes(Encoding.Raw, PublicFormat.Raw).hex()
