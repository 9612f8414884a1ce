"""How a repository is encrypted: one key file, a key of its own for each chunk, nothing that depends on a counter.

    master key (32 bytes, a file, kept elsewhere) ─► name key, chunk key, manifest key          HKDF-SHA256 by purpose
    name of a chunk  = HMAC-SHA256(name key, length of salt || salt || plaintext)
    key of a chunk   = HKDF-SHA256(chunk key, salt = its name)
    sealed chunk     = AES-256-GCM(key of the chunk, nonce = 0, plaintext, associated data = its name)

Nonces (NIST SP 800-38D, section 8: no key meets two messages under one nonce): a chunk's key follows from its name,
which is a MAC of its plaintext. So each key encrypts exactly one plaintext, and the nonce may be fixed. The same
plaintext gives the same file, which is what makes backups incremental and their writing idempotent; whoever reads the
repository without the key learns sizes and which chunks backups share, and cannot test a guess. A manifest's key
follows from the random 128-bit id of its backup, which is used once.

Pure: bytes in, bytes out.
"""

import hmac
from hashlib import sha256

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from ops.backup.errors import BackupDamaged, BackupKeyRefused

KEY_BYTES = 32
ID_BYTES = 16
CHUNK_BYTES_MAX = 1 << 20
_NONCE = bytes(12)  # see above: each key has one message


def _derive(key: bytes, salt: bytes, info: bytes) -> bytes:
    return HKDF(SHA256(), KEY_BYTES, salt, b"stockade backup 1 " + info).derive(key)


class BackupKey:
    """The keys of one repository. BackupKeyRefused unless the master key has 32 bytes."""

    def __init__(self, master: bytes) -> None:
        if len(master) != KEY_BYTES:
            raise BackupKeyRefused(f"a backup key has {KEY_BYTES} bytes, not {len(master)}")
        self._names = _derive(master, b"", b"name")
        self._chunks = _derive(master, b"", b"chunk")
        self._manifests = _derive(master, b"", b"manifest")
        self.mark = _derive(master, b"", b"mark").hex()  # says which key a repository has, and nothing of it

    def name(self, plaintext: bytes, salt: bytes = b"") -> str:
        """The name of a chunk, hex. A salt keeps what is stored under it apart from everything else."""
        return hmac.digest(self._names, len(salt).to_bytes(4, "big") + salt + plaintext, sha256).hex()

    def seal(self, name: str, plaintext: bytes) -> bytes:
        """Encrypt a chunk under its own name."""
        return AESGCM(self._key(name)).encrypt(_NONCE, plaintext, name.encode())

    def open(self, name: str, sealed: bytes, salt: bytes = b"") -> bytes:
        """Decrypt a chunk. Raises BackupDamaged: it is not what was stored under this name."""
        try:
            plaintext = AESGCM(self._key(name)).decrypt(_NONCE, sealed, name.encode())
        except (InvalidTag, ValueError):
            raise BackupDamaged([f"chunk {name} does not open"]) from None
        if not hmac.compare_digest(self.name(plaintext, salt), name):
            raise BackupDamaged([f"chunk {name} is another one"])
        return plaintext

    def seal_manifest(self, identity: bytes, plaintext: bytes) -> bytes:
        """Encrypt a manifest under the id of its backup, which must be new and random."""
        return AESGCM(self._manifest_key(identity)).encrypt(_NONCE, plaintext, identity)

    def open_manifest(self, identity: bytes, sealed: bytes) -> bytes:
        """Decrypt a manifest. Raises BackupDamaged."""
        try:
            return AESGCM(self._manifest_key(identity)).decrypt(_NONCE, sealed, identity)
        except (InvalidTag, ValueError):
            raise BackupDamaged([f"the manifest of {identity.hex()} does not open"]) from None

    def _key(self, name: str) -> bytes:
        return _derive(self._chunks, bytes.fromhex(name), b"one chunk")

    def _manifest_key(self, identity: bytes) -> bytes:
        return _derive(self._manifests, identity, b"one manifest")
