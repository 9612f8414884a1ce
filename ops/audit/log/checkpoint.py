"""Signed notes and checkpoints: c2sp.org/signed-note, c2sp.org/tlog-checkpoint. Ed25519 (type 0x01).

A log's own signatures; those of witnesses are `ops.audit.log.cosignature`'s, whose keys open notes as well (`NoteKey`).

Pure: bytes in, values or `NoteError` out. Rules:

1. A note is text, a blank line, and one to 64 signature lines `— <name> <base64(key id || signature)>`, UTF-8 without
   control characters other than newline. The signed bytes are the text with its final newline.
2. Signatures by unknown keys (name and id) are ignored. A known key with a bad signature rejects the whole note,
   whatever else it carries. At least one known key must have signed.
3. Base64 is canonical: another spelling of the same bytes is refused.
4. A checkpoint is exactly three lines: origin, decimal size, base64 root. We write no extension lines and accept none
   in our own logs; a witness and a trust policy accept those of others.

It keeps no keys and reads no files.
"""

import base64
import binascii
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Protocol

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from ops.audit.errors import CheckpointError, NoteError, SignatureInvalid, SignatureMissing, VerifierKeyError
from ops.audit.log.merkle import HASH_BYTES

ED25519 = 0x01
SIGNATURES_MAX = 64
SIGNERS_NAMED_MAX = 3
NOTE_BYTES_MAX = 64 * 1024
SIZE_MAX = 2**63 - 1
_DASH = "— "
_SECRET = "PRIVATE+KEY+"  # noqa: S105 (the prefix that marks a signer key, not a secret)


def decode64(text: str) -> bytes | None:
    """Canonical base64, or None."""
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return None
    return data if base64.b64encode(data).decode() == text else None


def key_id(name: str, kind: int, public_key: bytes) -> bytes:
    """SHA-256(name || 0x0A || type || public key)[:4]."""
    return sha256(name.encode() + b"\n" + bytes([kind]) + public_key).digest()[:4]


def check_name(name: str) -> None:
    if not name or "+" in name or any(char.isspace() or not char.isprintable() for char in name):
        raise VerifierKeyError(f"not a key name: {name!r}")


class NoteKey(Protocol):
    """A public key that verifies signatures of notes: a log's, or a witness's."""

    @property
    def name(self) -> str: ...

    @property
    def id(self) -> bytes: ...

    def verify(self, text: bytes, signature: bytes) -> bool:
        """Say whether this key made the signature of a note with this text."""


def format_key(name: str, kind: int, public_key: bytes) -> str:
    """`name+id+base64(type || key)`."""
    return f"{name}+{key_id(name, kind, public_key).hex()}+{base64.b64encode(bytes([kind]) + public_key).decode()}"


def format_secret(name: str, kind: int, identity: bytes, seed: bytes) -> str:
    """`PRIVATE+KEY+name+id+base64(type || seed)`."""
    return f"{_SECRET}{name}+{identity.hex()}+{base64.b64encode(bytes([kind]) + seed).decode()}"


@dataclass(frozen=True, slots=True)
class VerifierKey:
    """A log's public key with its name, as `name+id+base64(type || key)`."""

    name: str
    public_key: bytes

    @property
    def id(self) -> bytes:
        return key_id(self.name, ED25519, self.public_key)

    def __str__(self) -> str:
        return format_key(self.name, ED25519, self.public_key)

    def verify(self, text: bytes, signature: bytes) -> bool:
        try:
            Ed25519PublicKey.from_public_bytes(self.public_key).verify(signature, text)
        except InvalidSignature:
            return False
        return True


@dataclass(frozen=True, slots=True, repr=False)
class SignerKey:
    """A private key (32-byte seed) with its name. Its text form is that of Go's note package."""

    name: str
    seed: bytes

    def __post_init__(self) -> None:
        check_name(self.name)
        if len(self.seed) != 32:
            raise VerifierKeyError("an Ed25519 seed has 32 bytes")

    @property
    def verifier(self) -> VerifierKey:
        return VerifierKey(self.name, Ed25519PrivateKey.from_private_bytes(self.seed).public_key().public_bytes_raw())

    def secret(self) -> str:
        """`PRIVATE+KEY+name+id+base64(type || seed)`."""
        return format_secret(self.name, ED25519, self.verifier.id, self.seed)

    def sign(self, text: bytes) -> bytes:
        return Ed25519PrivateKey.from_private_bytes(self.seed).sign(text)


@dataclass(frozen=True, slots=True)
class KeyText:
    """The parts of a key's text form. The name is one, the id is not compared with the key yet."""

    name: str
    id: bytes
    kind: int
    material: bytes


def split_key(text: str, *, secret: bool = False) -> KeyText:
    """Read `name+id+base64(type || material)`, behind `PRIVATE+KEY+` for a secret one.

    Raises:
        VerifierKeyError: malformed; the message never holds the secret.
    """
    if secret != text.startswith(_SECRET):
        problem = (
            "not a signer key" if secret else "this is the private key: keep it secret, and bring the verifier key"
        )
        raise VerifierKeyError(problem)
    name, _, rest = text.removeprefix(_SECRET).partition("+")
    claimed, _, encoded = rest.partition("+")
    check_name(name)
    material = decode64(encoded)
    if not material:
        raise VerifierKeyError("the part behind the last + is not base64")
    if len(claimed) != 8 or claimed.strip("0123456789abcdef"):
        raise VerifierKeyError("a key id is eight lower-case hex digits")
    return KeyText(name, bytes.fromhex(claimed), material[0], material[1:])


def parse_vkey(text: str) -> VerifierKey:
    """Read a log's `name+id+base64`.

    Raises:
        VerifierKeyError: when it is malformed, of an unsupported type, or its id is not that of its key.
    """
    parts = _ed25519(split_key(text))
    key = VerifierKey(parts.name, parts.material)
    if key.id != parts.id:
        raise VerifierKeyError("the key id does not belong to the key")
    return key


def parse_skey(text: str) -> SignerKey:
    """Read a log's `PRIVATE+KEY+name+id+base64`.

    Raises:
        VerifierKeyError: as `parse_vkey`; the message never holds the secret.
    """
    parts = _ed25519(split_key(text, secret=True))
    key = SignerKey(parts.name, parts.material)
    if key.verifier.id != parts.id:
        raise VerifierKeyError("the key id does not belong to the key")
    return key


def _ed25519(parts: KeyText) -> KeyText:
    if parts.kind != ED25519 or len(parts.material) != HASH_BYTES:
        raise VerifierKeyError("not an Ed25519 key (type 0x01)")
    return parts


@dataclass(frozen=True, slots=True)
class Note:
    """A note that was opened: its text, and the known keys that signed it, with their signatures, in order."""

    text: str
    signatures: tuple[tuple[NoteKey, bytes], ...]

    @property
    def verified(self) -> tuple[str, ...]:
        """The names of the known keys that signed."""
        return tuple(key.name for key, _ in self.signatures)

    def signed_by_log(self, name: str) -> bool:
        """Say whether a log's key of this name signed."""
        return any(isinstance(key, VerifierKey) and key.name == name for key, _ in self.signatures)


def sign_note(text: str, signers: Sequence[SignerKey]) -> bytes:
    """The note over `text` (which ends in a newline), one signature line a signer."""
    if not text.endswith("\n"):
        raise NoteError("the text of a note ends in a newline")
    lines = [signature_line(signer.name, signer.verifier.id, signer.sign(text.encode())) for signer in signers]
    return f"{text}\n{''.join(lines)}".encode()


def signature_line(name: str, identity: bytes, signature: bytes) -> str:
    """`— <name> <base64(key id || signature)>` and a newline."""
    return f"{_DASH}{name} {base64.b64encode(identity + signature).decode()}\n"


def _parse_note(data: bytes) -> tuple[str, list[tuple[str, bytes, bytes]]]:
    """The text and (name, key id, signature) of every signature line."""
    if len(data) > NOTE_BYTES_MAX:
        raise NoteError("the note is too long")
    try:
        note = data.decode()
    except UnicodeDecodeError as error:
        raise NoteError("the note is not UTF-8") from error
    if any(ord(char) < 0x20 and char != "\n" for char in note):
        raise NoteError("the note holds control characters")
    body, gap, tail = note.rpartition("\n\n")
    if not gap or not tail.endswith("\n"):
        raise NoteError("the note has no signature block")
    lines = tail[:-1].split("\n")
    if len(lines) > SIGNATURES_MAX:
        raise NoteError(f"the note has more than {SIGNATURES_MAX} signatures")
    signatures = []
    for line in lines:
        name, space, encoded = line.removeprefix(_DASH).partition(" ")
        blob = decode64(encoded)
        if not line.startswith(_DASH) or not space or not name or "+" in name or blob is None or len(blob) < 5:
            raise NoteError("the note has a malformed signature line")
        signatures.append((name, blob[:4], blob[4:]))
    return body + "\n", signatures


def open_note(data: bytes, keys: Iterable[NoteKey]) -> Note:
    """Parse a note and verify every signature by a known key; of several by one key the first is kept.

    Raises:
        NoteError: malformed.
        SignatureInvalid: a known key with a bad signature.
        SignatureMissing: no known key signed.
    """
    text, signatures = _parse_note(data)
    known = {(key.name, key.id): key for key in keys}
    verified: dict[tuple[str, bytes], tuple[NoteKey, bytes]] = {}
    for name, identity, signature in signatures:
        key = known.get((name, identity))
        if key is None:
            continue
        if not key.verify(text.encode(), signature):
            raise SignatureInvalid(f"the signature by {name} does not verify")
        verified.setdefault((name, identity), (key, signature))
    if not verified:
        signers = ", ".join(f"{name}+{identity.hex()}" for name, identity, _ in signatures[:SIGNERS_NAMED_MAX])
        raise SignatureMissing(f"no signature by a known key, only by {signers}")
    return Note(text, tuple(verified.values()))


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A tree head: which log, how many entries, their root."""

    origin: str
    size: int
    root: bytes

    def text(self) -> str:
        return f"{self.origin}\n{self.size}\n{base64.b64encode(self.root).decode()}\n"


def parse_checkpoint(text: str, *, extensions: bool = False) -> Checkpoint:
    """Read the text of a note as a checkpoint, with `extensions` one that has further lines.

    Raises:
        CheckpointError: unless it begins with what `Checkpoint.text` writes, and is nothing else without `extensions`.
    """
    lines = text.split("\n")
    if len(lines) < 4 or lines.pop() or not all(lines[3:]):
        raise CheckpointError("a checkpoint has three lines or more, none of them empty")
    if len(lines) > 3 and not extensions:
        raise CheckpointError("a checkpoint has exactly three lines")
    origin, decimal, encoded = lines[:3]
    root = decode64(encoded)
    if not origin or root is None or len(root) != HASH_BYTES:
        raise CheckpointError("a checkpoint has an origin and a root of 32 bytes")
    if not (decimal.isascii() and decimal.isdigit()) or len(decimal) > 19 or str(int(decimal)) != decimal:
        raise CheckpointError("the size is not a decimal number")
    if int(decimal) > SIZE_MAX:
        raise CheckpointError("the size is too large")
    return Checkpoint(origin, int(decimal), root)


def open_checkpoint(data: bytes, keys: Iterable[NoteKey]) -> Checkpoint:
    """`open_note` and `parse_checkpoint` in one; the origin must be the name of a log's key that signed.

    Raises:
        NoteError: and its subclasses, as both.
    """
    note = open_note(data, keys)
    checkpoint = parse_checkpoint(note.text)
    if not note.signed_by_log(checkpoint.origin):
        raise SignatureMissing(f"no signature by the key of {checkpoint.origin}")
    return checkpoint
