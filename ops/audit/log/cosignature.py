"""Cosignatures: what a witness says of a log's checkpoint (c2sp.org/tlog-cosignature), Ed25519 and ML-DSA-44.

A cosignature is a signature line of the checkpoint's note: u64 seconds since 1970 || signature. It says that at this
time the checkpoint was the largest of this log that the witness had seen, and that it extends all that it saw before.

| type | key | signed message |
|---|---|---|
| 0x04 | Ed25519, 32 bytes | `cosignature/v1`, `time <seconds>`, the text of the checkpoint |
| 0x06 | ML-DSA-44 (FIPS 204), 1,312 bytes | label, witness, time, origin, range and root hash, length-prefixed |

Pure; it keeps no keys and reads no clock.
"""

import struct
from dataclasses import dataclass

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.mldsa import MLDSA44PrivateKey, MLDSA44PublicKey

from ops.audit.errors import CheckpointError, VerifierKeyError
from ops.audit.log.checkpoint import (
    check_name,
    format_key,
    format_secret,
    key_id,
    parse_checkpoint,
    signature_line,
    split_key,
)

COSIGN_ED25519 = 0x04
COSIGN_ML_DSA_44 = 0x06
SEED_BYTES = 32
NAME_BYTES_MAX = 255
TIME_MAX = 2**63 - 1
_PUBLIC: dict[int, type[Ed25519PublicKey] | type[MLDSA44PublicKey]] = {
    COSIGN_ED25519: Ed25519PublicKey,
    COSIGN_ML_DSA_44: MLDSA44PublicKey,
}
_PUBLIC_BYTES = {COSIGN_ED25519: 32, COSIGN_ML_DSA_44: 1312}
_TIME = struct.Struct(">Q")
_RANGE = struct.Struct(">QQ")
_LABEL = b"subtree/v1\n\0"


@dataclass(frozen=True, slots=True)
class CosignerKey:
    """A witness's public key with its name. `kind` is COSIGN_ED25519 or COSIGN_ML_DSA_44."""

    name: str
    kind: int
    public_key: bytes

    @property
    def id(self) -> bytes:
        return key_id(self.name, self.kind, self.public_key)

    def __str__(self) -> str:
        return format_key(self.name, self.kind, self.public_key)

    def verify(self, text: bytes, signature: bytes) -> bool:
        """Say whether this is the witness's cosignature of a checkpoint with this text."""
        if len(signature) <= _TIME.size or time_of(signature) > TIME_MAX:
            return False
        try:
            message = _message(self.name, self.kind, text, time_of(signature))
            _PUBLIC[self.kind].from_public_bytes(self.public_key).verify(signature[_TIME.size :], message)
        except (CheckpointError, InvalidSignature):
            return False
        return True


@dataclass(frozen=True, slots=True, repr=False)
class Cosigner:
    """A witness's private key (a seed of 32 bytes) with its name."""

    name: str
    kind: int
    seed: bytes

    def __post_init__(self) -> None:
        check_name(self.name)
        if self.kind not in _PUBLIC or len(self.seed) != SEED_BYTES or len(self.name.encode()) > NAME_BYTES_MAX:
            raise VerifierKeyError(
                "a witness has an Ed25519 (0x04) or ML-DSA-44 (0x06) seed of 32 bytes and a short name"
            )

    def _private(self) -> Ed25519PrivateKey | MLDSA44PrivateKey:
        if self.kind == COSIGN_ED25519:
            return Ed25519PrivateKey.from_private_bytes(self.seed)
        return MLDSA44PrivateKey.from_seed_bytes(self.seed)

    @property
    def key(self) -> CosignerKey:
        return CosignerKey(self.name, self.kind, self._private().public_key().public_bytes_raw())

    def secret(self) -> str:
        """`PRIVATE+KEY+name+id+base64(type || seed)`."""
        return format_secret(self.name, self.kind, self.key.id, self.seed)

    def cosign(self, text: bytes, time_s: int) -> str:
        """The signature line for a checkpoint with this text, said at `time_s` seconds since 1970 (from 1).

        Raises:
            CheckpointError: the text is not a checkpoint.
        """
        if not 0 < time_s <= TIME_MAX:
            raise ValueError(f"no time of a cosignature: {time_s}")
        parse_checkpoint(text.decode(), extensions=True)
        signature = self._private().sign(_message(self.name, self.kind, text, time_s))
        return signature_line(self.name, self.key.id, _TIME.pack(time_s) + signature)


def time_of(signature: bytes) -> int:
    """Seconds since 1970 at which a cosignature was made."""
    return int(_TIME.unpack_from(signature)[0])


def _message(name: str, kind: int, text: bytes, time_s: int) -> bytes:
    if kind == COSIGN_ED25519:
        return b"cosignature/v1\ntime %d\n%s" % (time_s, text)
    head = parse_checkpoint(text.decode(), extensions=True)
    origin = head.origin.encode()
    if len(origin) > NAME_BYTES_MAX:
        raise CheckpointError("an origin of more than 255 bytes cannot be cosigned with ML-DSA-44")
    cosigner = name.encode()
    return b"".join(
        (
            _LABEL,
            bytes([len(cosigner)]),
            cosigner,
            _TIME.pack(time_s),
            bytes([len(origin)]),
            origin,
            _RANGE.pack(0, head.size),
            head.root,
        )
    )


def parse_cosigner(text: str) -> CosignerKey:
    """Read a witness's `name+id+base64(type || key)`.

    Raises:
        VerifierKeyError: malformed, of another type, or its id is not that of its key.
    """
    parts = split_key(text)
    if _PUBLIC_BYTES.get(parts.kind) != len(parts.material) or len(parts.name.encode()) > NAME_BYTES_MAX:
        raise VerifierKeyError("not a witness's key: neither Ed25519 (type 0x04) nor ML-DSA-44 (type 0x06)")
    key = CosignerKey(parts.name, parts.kind, parts.material)
    if key.id != parts.id:
        raise VerifierKeyError("the key id does not belong to the key")
    return key


def parse_cosigner_secret(text: str) -> Cosigner:
    """Read a witness's `PRIVATE+KEY+name+id+base64(type || seed)`.

    Raises:
        VerifierKeyError: as `parse_cosigner`; the message never holds the secret.
    """
    parts = split_key(text, secret=True)
    cosigner = Cosigner(parts.name, parts.kind, parts.material)
    if cosigner.key.id != parts.id:
        raise VerifierKeyError("the key id does not belong to the key")
    return cosigner
