"""Keys of the payloads, and of the pseudonyms: what has to be destroyed so that a person is forgotten.

    master key (a file, outside) ─► KEK per tenant ─► DEK per (tenant, subject, month) ─► record key per (record, field)

The first two arrows are AES key wrap (RFC 3394), the last is HKDF-SHA256 with the record id as salt. A payload is
AES-256-GCM under its single-use record key, with origin, record id and field as associated data, as nonce (12) ||
ciphertext || tag. Beside it stands an HMAC commitment to the plaintext under another key derived from the record's:
it binds the plaintext without being guessable, and dies with the DEK.

The database is SQLite, made to forget: every commit is on the disk when it returns (synchronous=FULL), what is deleted
is zeroed (secure_delete), and the rollback journal, which holds pages as they were, is removed with the commit
(journal_mode=DELETE; there is no WAL that could keep a deleted key). All who open it do so by `open_database`. It is
never in the log's directory, and its backups live for seven days: that a DEK's row is gone (`erasure`) is what makes an
erasure final. Several worker processes share it; thread-safe. Keys are remembered until `forget_destroyed` sees that
somebody else has changed the database. What is sealed in between under a key that was destroyed is erased with it.
"""

import hmac
import secrets
import sqlite3
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.keywrap import InvalidUnwrap, aes_key_unwrap, aes_key_wrap

from ops.audit.errors import KeyMissing, KeyStoreError, SealBroken
from ops.process.sqlite import held, transaction

BUSY_TIMEOUT_S = 5.0
SEARCHED_BYTES = 16  # of either end of a secret
CHUNK_BYTES = 1 << 20

_SCHEMA = """
CREATE TABLE IF NOT EXISTS tenant (tenant TEXT PRIMARY KEY, wrapped BLOB NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS data_key (
    reference BLOB PRIMARY KEY, tenant TEXT NOT NULL, subject TEXT NOT NULL, month TEXT NOT NULL, wrapped BLOB NOT NULL,
    UNIQUE (tenant, subject, month)
) STRICT;
CREATE TABLE IF NOT EXISTS erasure (
    id TEXT PRIMARY KEY, tenant TEXT NOT NULL, subject TEXT NOT NULL, pseudonym TEXT NOT NULL, months TEXT NOT NULL,
    reason TEXT NOT NULL, state TEXT NOT NULL, keys TEXT NOT NULL, requested_by TEXT NOT NULL, requester TEXT NOT NULL,
    requested_ns INTEGER NOT NULL, approved_by TEXT NOT NULL, approved_ns INTEGER NOT NULL, approval TEXT NOT NULL
) STRICT;
CREATE TABLE IF NOT EXISTS hold (
    id TEXT PRIMARY KEY, tenant TEXT NOT NULL, subject TEXT NOT NULL, pseudonym TEXT NOT NULL, matter TEXT NOT NULL,
    administrator TEXT NOT NULL, request TEXT NOT NULL, since_ns INTEGER NOT NULL, recorded INTEGER NOT NULL DEFAULT 0
) STRICT;
CREATE TABLE IF NOT EXISTS mark (name TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT;
"""


def failed(error: sqlite3.Error) -> KeyStoreError:
    """Return what says so: the file is locked, read-only, damaged, or its disk is full."""
    return KeyStoreError(f"the key database: {error}")


def open_database(path: Path) -> sqlite3.Connection:
    """Open the key database, made when it is missing, for its owner alone. In autocommit; from any thread, with a lock.

    Raises:
        KeyStoreError: it is no such database, or cannot be used.
    """
    try:
        db = sqlite3.connect(path, timeout=BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False)
        path.chmod(0o600)
        db.execute("PRAGMA journal_mode=DELETE")
        db.execute("PRAGMA synchronous=FULL")
        db.execute("PRAGMA secure_delete=ON")
        db.executescript(_SCHEMA)
    except sqlite3.Error as error:
        raise KeyStoreError(f"the key database {path}: {error}") from error
    return db


def traces(path: Path, secrets: Sequence[bytes]) -> int:
    """Return how many ends (first and last 16 bytes) of these secrets a file holds. Reads all of it; raises OSError."""
    pieces = [piece for each in secrets for piece in (each[:SEARCHED_BYTES], each[-SEARCHED_BYTES:])]
    found: set[bytes] = set()
    kept = b""
    with path.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            window = kept + chunk
            found.update(piece for piece in pieces if piece in window)
            kept = window[-SEARCHED_BYTES:]
    return len(found)


KEY_BYTES = 32
NONCE_BYTES = 12
REFERENCE_BYTES = 16
RECORD_ID_BYTES = 16
CACHED_KEYS_MAX = 4096


@dataclass(frozen=True, slots=True)
class Sealed:
    """A payload that may leave: `sha256`, `commitment` and `key_ref` are hex, as entries carry them."""

    ciphertext: bytes
    sha256: str
    commitment: str
    key_ref: str


def _derive(key: bytes, salt: bytes, info: bytes) -> bytes:
    return HKDF(SHA256(), KEY_BYTES, salt, info).derive(key)


class KeyStore:
    """The key database of one gateway.

    Args:
        path: the database; made when missing.
        master_key: 32 bytes that wrap the tenants' keys.
        origin: the log that the payloads belong to; part of their associated data.
        random: source of keys, references and nonces.
    """

    def __init__(
        self,
        path: Path,
        master_key: bytes,
        *,
        origin: str,
        random: Callable[[int], bytes] = secrets.token_bytes,
        cached_keys_max: int = CACHED_KEYS_MAX,
    ) -> None:
        if len(master_key) != KEY_BYTES:
            raise KeyStoreError(f"the master key has {len(master_key)} bytes, not {KEY_BYTES}")
        self._master_key = master_key
        self._origin = origin
        self._random = random
        self._cached_keys_max = cached_keys_max
        self._lock = threading.Lock()
        self._tenants: OrderedDict[str, bytes] = OrderedDict()
        self._data_keys: OrderedDict[tuple[str, str, str], tuple[bytes, bytes]] = OrderedDict()
        self._db = open_database(path)
        self._version = self._data_version()

    def close(self) -> None:
        with self._lock:
            self._db.close()

    def _data_version(self) -> int:
        """A number that changes whenever another connection, of this process or not, has committed."""
        (version,) = self._db.execute("PRAGMA data_version").fetchone()
        return int(version)

    def forget_destroyed(self) -> None:
        """Drop all remembered data keys if somebody else has changed the database. Call it once a second.

        Raises:
            KeyStoreError: the database cannot be read.
        """
        with self._database():
            version = self._data_version()
            if version != self._version:
                self._data_keys.clear()
                self._version = version

    def knows(self, tenant: str) -> bool:
        """Say whether a tenant has, or had, a key. Raises KeyStoreError."""
        with self._database():
            found = self._db.execute("SELECT 1 FROM tenant WHERE tenant = ?", (tenant,)).fetchone()
        return found is not None

    def _database(self) -> AbstractContextManager[None]:
        """Take the lock; what SQLite raises meanwhile is a KeyStoreError."""
        return held(self._lock, failed)

    def make_tenant_keys(self, tenants: Iterable[str]) -> None:
        """Make the keys of those who have none, all at once: at first use each would wait for the disk by itself.

        Raises:
            KeyStoreError: they could not be made. They are made at first use then.
        """
        with self._database(), transaction(self._db) as db:
            there = {tenant for (tenant,) in db.execute("SELECT tenant FROM tenant")}
            missing = [tenant for tenant in dict.fromkeys(tenants) if tenant not in there]
            fresh = ((tenant, aes_key_wrap(self._master_key, self._random(KEY_BYTES))) for tenant in missing)
            db.executemany("INSERT INTO tenant VALUES (?, ?)", fresh)

    def tenant_key(self, tenant: str) -> bytes:
        """The key of the tenant's pseudonyms. Raises KeyStoreError."""
        with self._database():
            return _derive(self._kek(tenant), b"", b"stockade pseudonym")

    def seal(  # noqa: PLR0917 (from the outermost key to the innermost, then what is sealed)
        self, tenant: str, subject: str, month: str, record_id: bytes, field: str, plaintext: bytes
    ) -> Sealed:
        """Encrypt one payload of one record. `month` as YYYY-MM; `field` is `request` or `response`.

        Raises:
            KeyStoreError: there is no key for it.
        """
        with self._database():
            reference, data_key = self._data_key(tenant, subject, month)
        key, committing = self._record_keys(data_key, record_id, field)
        nonce = self._random(NONCE_BYTES)
        ciphertext = nonce + AESGCM(key).encrypt(nonce, plaintext, self._associated(record_id, field))
        commitment = hmac.digest(committing, plaintext, sha256).hex()
        return Sealed(ciphertext, sha256(ciphertext).hexdigest(), commitment, reference.hex())

    def open(self, key_ref: str, record_id: bytes, field: str, ciphertext: bytes, commitment: str) -> bytes:
        """Decrypt a payload that an entry names.

        Raises:
            KeyMissing: its data key was erased, or never existed.
            SealBroken: it does not authenticate, or does not match the commitment.
        """
        with self._database():
            row = self._db.execute(
                "SELECT tenant, wrapped FROM data_key WHERE reference = ?", (_unhex(key_ref),)
            ).fetchone()
            if row is None:
                raise KeyMissing(key_ref)
            data_key = _unwrap(self._kek(row[0]), row[1])
        key, committing = self._record_keys(data_key, record_id, field)
        nonce, sealed = ciphertext[:NONCE_BYTES], ciphertext[NONCE_BYTES:]
        try:
            plaintext = AESGCM(key).decrypt(nonce, sealed, self._associated(record_id, field))
        except (InvalidTag, ValueError) as error:
            raise SealBroken(key_ref) from error
        if not hmac.compare_digest(hmac.digest(committing, plaintext, sha256), _unhex(commitment)):
            raise SealBroken(key_ref)
        return plaintext

    def _associated(self, record_id: bytes, field: str) -> bytes:
        parts = (self._origin.encode(), record_id, field.encode())
        return b"".join(len(part).to_bytes(4, "big") + part for part in parts)

    def _record_keys(self, data_key: bytes, record_id: bytes, field: str) -> tuple[bytes, bytes]:
        """(encryption key, commitment key): one of each for each record and field, so no key meets two plaintexts."""
        if len(record_id) != RECORD_ID_BYTES:
            raise KeyStoreError(f"a record id has {RECORD_ID_BYTES} bytes")
        seal = _derive(data_key, record_id, b"stockade seal " + field.encode())
        return seal, _derive(data_key, record_id, b"stockade commit " + field.encode())

    def _kek(self, tenant: str) -> bytes:
        """With the lock: the tenant's key, made at first use."""
        cached = self._tenants.get(tenant)
        if cached is not None:
            self._tenants.move_to_end(tenant)
            return cached
        query = "SELECT wrapped FROM tenant WHERE tenant = ?"
        stored = self._db.execute(query, (tenant,)).fetchone()
        if stored is None:  # whoever inserts first decides; everybody reads back what is there
            wrapped = aes_key_wrap(self._master_key, self._random(KEY_BYTES))
            self._db.execute("INSERT INTO tenant VALUES (?, ?) ON CONFLICT DO NOTHING", (tenant, wrapped))
            stored = self._db.execute(query, (tenant,)).fetchone()
        key = _unwrap(self._master_key, stored[0])
        self._tenants[tenant] = key
        if len(self._tenants) > self._cached_keys_max:
            self._tenants.popitem(last=False)
        return key

    def _data_key(self, tenant: str, subject: str, month: str) -> tuple[bytes, bytes]:
        """With the lock: (reference, key) of a subject's month, made at first use."""
        place = (tenant, subject, month)
        cached = self._data_keys.get(place)
        if cached is not None:
            self._data_keys.move_to_end(place)
            return cached
        kek = self._kek(tenant)
        fresh = (self._random(REFERENCE_BYTES), *place, aes_key_wrap(kek, self._random(KEY_BYTES)))
        self._db.execute("INSERT INTO data_key VALUES (?, ?, ?, ?, ?) ON CONFLICT DO NOTHING", fresh)
        query = "SELECT reference, wrapped FROM data_key WHERE tenant = ? AND subject = ? AND month = ?"
        reference, wrapped = self._db.execute(query, place).fetchone()
        found = (reference, _unwrap(kek, wrapped))
        self._data_keys[place] = found
        if len(self._data_keys) > self._cached_keys_max:
            self._data_keys.popitem(last=False)
        return found


def _unwrap(key: bytes, wrapped: bytes) -> bytes:
    try:
        return aes_key_unwrap(key, wrapped)
    except (InvalidUnwrap, ValueError) as error:
        raise KeyStoreError("a stored key does not unwrap: wrong master key, or a damaged database") from error


def _unhex(text: str) -> bytes:
    try:
        return bytes.fromhex(text)
    except ValueError as error:
        raise KeyStoreError("not hex") from error
