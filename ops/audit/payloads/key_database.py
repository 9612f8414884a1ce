"""The file that the payload keys stand in: SQLite, made to forget.

Every commit is on the disk when it returns (synchronous=FULL), what is deleted is zeroed (secure_delete), and the
rollback journal, which holds pages as they were, is removed with the commit (journal_mode=DELETE; there is no WAL that
could keep a deleted key). All who open the file do it here. Several processes may; who has to wait, waits.
"""

import sqlite3
from collections.abc import Sequence
from pathlib import Path

from ops.audit.errors import KeyStoreError

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
