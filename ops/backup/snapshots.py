"""A SQLite database as it is between two transactions, read through SQLite: a live file must never be copied.

The copy is taken by the backup API (sqlite.org/backup.html) into memory, so that nothing of it lies on a disk unsealed.
"""

import sqlite3
from contextlib import closing
from pathlib import Path

from ops.backup.errors import SourceRefused

MAGIC = b"SQLite format 3\x00"
ROLLBACK_JOURNAL = b"\x01\x01"  # at byte 18 of the header (sqlite.org/fileformat2.html, section 1.3.3)
SNAPSHOT_BYTES_MAX = 1 << 30
BUSY_TIMEOUT_S = 10.0
MENTIONED_MAX = 3


def is_sqlite(path: Path) -> bool:
    """Whether a file is a SQLite database. OSError: it cannot be read."""
    with path.open("rb") as file:
        return file.read(len(MAGIC)) == MAGIC


def snapshot(path: Path) -> bytes:
    """The database as one transaction left it. Raises SourceRefused: it is too large, locked, or damaged."""
    if path.stat().st_size > SNAPSHOT_BYTES_MAX:
        raise SourceRefused(f"{path} is larger than {SNAPSHOT_BYTES_MAX} bytes")
    try:
        with (
            closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=BUSY_TIMEOUT_S)) as source,
            closing(sqlite3.connect(":memory:")) as copy,
        ):
            source.backup(copy)
            data = copy.serialize()
    except sqlite3.Error as error:
        raise SourceRefused(f"{path}: {error}") from error
    if problem := problem_of(data):
        raise SourceRefused(f"{path}: {problem}")
    return data


def problem_of(data: bytes) -> str:
    """What SQLite finds wrong with a database, in a few words; nothing where it is whole."""
    try:
        with closing(sqlite3.connect(":memory:")) as db:
            db.deserialize(data[:18] + ROLLBACK_JOURNAL + data[20:])  # memory has no write-ahead log
            found = [row[0] for row in db.execute("PRAGMA integrity_check")]
    except sqlite3.Error as error:
        return str(error)
    return "" if found == ["ok"] else "; ".join(found[:MENTIONED_MAX])
