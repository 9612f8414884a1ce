"""Who may extend the log: a flock on this machine, and a compare-and-swap on the signed checkpoint.

The lock database holds, for each origin, the newest signed checkpoint. A checkpoint counts once it is swapped in:
whoever would publish must name the one it replaces, so of two appenders that both believe they own the log only one
can go on. SQLite in WAL mode with synchronous=FULL: when `swap` returns, the row and its file are durable.
"""

import fcntl
import os
import sqlite3
from pathlib import Path
from typing import Self

from ops.audit.errors import AppenderRunning

BUSY_TIMEOUT_S = 5.0


class AppenderFlock:
    """Exclusive for the life of the process that holds it; the kernel lets go when it dies."""

    def __init__(self, path: Path) -> None:
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(self._descriptor)
            raise AppenderRunning(f"another appender holds {path}") from error

    def close(self) -> None:
        os.close(self._descriptor)


class LockDatabase:
    """The newest signed checkpoint of one origin. Used from one thread."""

    def __init__(self, path: Path, origin: str) -> None:
        self._origin = origin
        self._db = sqlite3.connect(path, timeout=BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False)
        self._db.execute("PRAGMA journal_mode=WAL")
        self._db.execute("PRAGMA synchronous=FULL")
        self._db.execute("CREATE TABLE IF NOT EXISTS checkpoint (origin TEXT PRIMARY KEY, note BLOB NOT NULL) STRICT")

    def read(self) -> bytes | None:
        """The newest signed checkpoint, or None before the first."""
        row = self._db.execute("SELECT note FROM checkpoint WHERE origin = ?", (self._origin,)).fetchone()
        return None if row is None else bytes(row[0])

    def swap(self, old: bytes | None, new: bytes) -> None:
        """Replace `old` by `new`, durably.

        Raises:
            AppenderRunning: the newest checkpoint is not `old`, so somebody else extended the log.
        """
        if old is None:
            statement = "INSERT INTO checkpoint (note, origin) VALUES (?, ?) ON CONFLICT DO NOTHING"
            changed = self._db.execute(statement, (new, self._origin)).rowcount
        else:
            statement = "UPDATE checkpoint SET note = ? WHERE origin = ? AND note = ?"
            changed = self._db.execute(statement, (new, self._origin, old)).rowcount
        if changed != 1:
            raise AppenderRunning(f"another appender extended {self._origin}")

    def close(self) -> None:
        self._db.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
