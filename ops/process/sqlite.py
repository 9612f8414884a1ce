"""SQLite as the stores of this project use it."""

import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def held(lock: threading.Lock, failed: Callable[[sqlite3.Error], Exception]) -> Iterator[None]:
    """Hold the lock of a connection that threads share. What SQLite raises meanwhile is raised as `failed` makes it."""
    with lock:
        try:
            yield
        except sqlite3.Error as error:
            raise failed(error) from error


@contextmanager
def transaction(db: sqlite3.Connection) -> Iterator[sqlite3.Connection]:
    """One transaction that writes, on a connection in autocommit: all of it is committed at the end, or nothing is.

    Raises:
        sqlite3.Error: it could not be begun or committed.
    """
    db.execute("BEGIN IMMEDIATE")
    try:
        yield db
        db.execute("COMMIT")
    except BaseException:
        if db.in_transaction:  # a full disk ends it by itself
            db.execute("ROLLBACK")
        raise
