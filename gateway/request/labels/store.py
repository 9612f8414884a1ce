"""What was answered, and what was said of it later: one SQLite file a host, which all its processes share.

`answers` is what labels may still come for: a row of a request, the class that was answered and the latent, for as long
as the policy says. `items` are labels, `batches` what candidates were trained on, `agreement` how often a
version answered what trusted principals said later.

Rules:
- Bounded: answers and items of a model, and of them a tenant's part. Answers that are too many push out the oldest of
  the tenant that holds most, so nobody's flood forgets another's. Items that are too many are refused.
- An item that is not recorded yet (`recorded = 0`) counts for nothing: it is in no list, no batch and no agreement, and
  once it is withdrawn, or DRAFT_NS old, the same may be sent again. Only `confirm`, after its entry in the audit log is
  durable, makes it one.
- Every change is one transaction (`BEGIN IMMEDIATE`), and durable when it returns (synchronous=FULL), but for answers:
  one that is lost costs a label, not a decision.
- No clock: times are Unix nanoseconds and arguments. It blocks, so it is used from threads.

The file is private to the gateway's user. It holds latents and labels and no inputs; what a latent gives away, it
gives away.
"""

from __future__ import annotations

import os
import sqlite3
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from gateway.models.rules import Bounds
from gateway.request.labels.rows import CONFIDENCE_BINS, FINAL, HELD, AnswerKept, Held, Outcomes
from gateway.request.labels.transaction import Transaction
from ops.process.sqlite import transaction

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

FILE = "feedback.sqlite"
BUSY_TIMEOUT_S = 10.0

_SCHEMA = """
CREATE TABLE IF NOT EXISTS answers (
    request BLOB NOT NULL, row INTEGER NOT NULL, tenant TEXT NOT NULL, model TEXT NOT NULL, version TEXT NOT NULL,
    class INTEGER NOT NULL, decision TEXT NOT NULL, latent BLOB NOT NULL, time_ns INTEGER NOT NULL,
    confidence_micro INTEGER NOT NULL DEFAULT -1, PRIMARY KEY (request, row)) STRICT, WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS answers_by_tenant ON answers (model, tenant, time_ns);
CREATE TABLE IF NOT EXISTS items (
    id INTEGER PRIMARY KEY AUTOINCREMENT, request BLOB NOT NULL, row INTEGER NOT NULL, tenant TEXT NOT NULL,
    principal TEXT NOT NULL, model TEXT NOT NULL, version TEXT NOT NULL, label INTEGER NOT NULL, name TEXT NOT NULL,
    answered TEXT NOT NULL, latent BLOB NOT NULL, p_micro INTEGER NOT NULL, outcome_ns INTEGER NOT NULL,
    received_ns INTEGER NOT NULL, key TEXT NOT NULL, trusted INTEGER NOT NULL, state TEXT NOT NULL,
    reason TEXT NOT NULL, recorded INTEGER NOT NULL, batch INTEGER NOT NULL,
    confidence_micro INTEGER NOT NULL DEFAULT -1, counted INTEGER NOT NULL DEFAULT 0,
    UNIQUE (request, row, principal)) STRICT;
CREATE INDEX IF NOT EXISTS items_by_state ON items (model, state, tenant);
CREATE TABLE IF NOT EXISTS batches (
    id INTEGER PRIMARY KEY AUTOINCREMENT, model TEXT NOT NULL, version TEXT NOT NULL, items INTEGER NOT NULL,
    state TEXT NOT NULL, reason TEXT NOT NULL, candidate TEXT NOT NULL, time_ns INTEGER NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS agreement (
    model TEXT NOT NULL, version TEXT NOT NULL, right INTEGER NOT NULL, labels INTEGER NOT NULL,
    PRIMARY KEY (model, version)) STRICT, WITHOUT ROWID;
"""

_ADDED = (("answers", "confidence_micro", -1), ("items", "confidence_micro", -1), ("items", "counted", 0))
"""Columns that files of before do not have, and what their rows have there."""


class FeedbackStore:
    """The file. A connection for each transaction, so it serves threads and processes alike."""

    def __init__(self, path: Path) -> None:
        self._path = path
        if not path.exists():
            os.close(os.open(path, os.O_WRONLY | os.O_CREAT, 0o600))  # SQLite's other files take its permissions
        with self._open() as db:
            db.execute("PRAGMA journal_mode=WAL")
            db.executescript(_SCHEMA)
            for table, column, default in _ADDED:
                _add_column(db, table, column, default)

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        db = sqlite3.connect(self._path, timeout=BUSY_TIMEOUT_S, isolation_level=None)
        try:
            db.execute("PRAGMA synchronous=FULL")
            yield db
        finally:
            db.close()

    @contextmanager
    def transaction(self) -> Iterator[Transaction]:
        """One transaction; what is raised inside leaves everything as it was."""
        with self._open() as db, transaction(db):
            yield Transaction(db)

    def remember(self, rows: Sequence[AnswerKept], bounds: Bounds, now_ns: int) -> None:
        """Keep answers of one model, forget what is too old, and the oldest of the largest tenants where it is full."""
        marks = ", ".join("?" for _ in AnswerKept._fields)
        with self._open() as db:
            db.execute("PRAGMA synchronous=NORMAL")
            with transaction(db):
                db.executemany(f"INSERT OR IGNORE INTO answers VALUES ({marks})", rows)  # noqa: S608  marks alone
                for model in {row.model for row in rows}:
                    _forget(db, model, bounds, now_ns)

    def confirm(self, ids: Sequence[int]) -> None:
        """Make items of drafts: their entries are durable."""
        with self.transaction() as step:
            step.confirm(ids)

    def withdraw(self, ids: Sequence[int]) -> None:
        """Take drafts back: no entry of theirs is known to be durable."""
        with self._open() as db:
            db.executemany("DELETE FROM items WHERE id = ? AND recorded = 0", [(each,) for each in ids])

    def listed(self, *, model: str, tenant: str, state: str, after: int, count: int) -> list[Held]:
        """Return items in the order of their ids; an empty name is any."""
        wanted = [("model", model), ("tenant", tenant), ("state", state)]
        chosen = [(column, value) for column, value in wanted if value]
        where = "".join(f" AND {column} = ?" for column, _ in chosen)
        query = f"SELECT {HELD} FROM items WHERE recorded = 1 AND id > ?{where} ORDER BY id LIMIT ?"  # noqa: S608  names of ours
        with self._open() as db:
            found = db.execute(query, (after, *(value for _, value in chosen), count)).fetchall()
        return [Held(*row) for row in found]

    def item(self, item: int) -> Held | None:
        """Return one item."""
        with self._open() as db:
            row = db.execute(f"SELECT {HELD} FROM items WHERE id = ? AND recorded = 1", (item,)).fetchone()  # noqa: S608  as above
        return Held(*row) if row is not None else None

    def counts(self) -> list[tuple[str, str, int]]:
        """Return (model, state, items)."""
        query = (
            "SELECT model, state, COUNT(*) FROM items WHERE recorded = 1 GROUP BY model, state ORDER BY model, state"
        )
        with self._open() as db:
            return [(model, state, items) for model, state, items in db.execute(query)]

    def answers(self) -> int:
        """Return for how many rows labels may still come."""
        with self._open() as db:
            return int(db.execute("SELECT COUNT(*) FROM answers").fetchone()[0])

    def agreements(self) -> dict[tuple[str, str], tuple[int, int]]:
        """Return how often each (model, version) answered what trusted principals said: (right, labels)."""
        with self._open() as db:
            found = db.execute("SELECT model, version, right, labels FROM agreement ORDER BY model, version").fetchall()
        return {(model, version): (right, labels) for model, version, right, labels in found}

    def outcomes(self, model: str, since_ns: int) -> list[Outcomes]:
        """Return what labels that came since then say of answers, by version, source and bin of confidence.

        A trusted label counts unless a person rejected it, or it was held back for another reason than that somebody
        or trusted rows contradict it; any other one while it may be learned from.
        """
        counts = "state != 'rejected' AND (state != 'quarantined' OR reason IN ('CONTRADICTED', 'INCONSISTENT'))"
        counts = f"CASE WHEN trusted THEN {counts} ELSE state IN ('accepted', 'released', 'taken', 'learned') END"
        query = (
            "SELECT version, trusted, COUNT(*), SUM(name = answered), SUM(confidence_micro) FROM items "  # noqa: S608  words of ours
            f"WHERE model = ? AND recorded = 1 AND confidence_micro >= 0 AND received_ns >= ? AND {counts} "
            "GROUP BY version, trusted, MIN(confidence_micro * ? / 1000000, ? - 1) ORDER BY version, trusted"
        )
        with self._open() as db:
            found = db.execute(query, (model, since_ns, CONFIDENCE_BINS, CONFIDENCE_BINS)).fetchall()
        return [Outcomes(version, bool(trusted), *sums) for version, trusted, *sums in found]

    def batches(self) -> list[tuple[int, str, str, int, str, str, str]]:
        """Return (id, model, version, items, state, reason, candidate) of the newest hundred, the newest first."""
        query = "SELECT id, model, version, items, state, reason, candidate FROM batches ORDER BY id DESC LIMIT 100"
        with self._open() as db:
            return db.execute(query).fetchall()


def _add_column(db: sqlite3.Connection, table: str, column: str, default: int) -> None:
    """Give a table of before there was such a column one, with this value in its rows."""
    there = f"SELECT COUNT(*) FROM pragma_table_info('{table}') WHERE name = '{column}'"  # noqa: S608  names of ours
    if db.execute(there).fetchone()[0]:
        return
    with transaction(db):
        if not db.execute(there).fetchone()[0]:  # no other process was faster
            db.execute(f"ALTER TABLE {table} ADD COLUMN {column} INTEGER NOT NULL DEFAULT {default}")


def _forget(db: sqlite3.Connection, model: str, bounds: Bounds, now_ns: int) -> None:
    """Let go of answers that are too old or too many, and of items that are done with and as old."""
    before: Any = now_ns - bounds.window_ns
    db.execute("DELETE FROM answers WHERE model = ? AND time_ns < ?", (model, before))
    db.execute(
        "DELETE FROM items WHERE model = ? AND received_ns < ? AND (recorded = 0 OR state IN (?, ?, ?))",
        (model, before, *FINAL),
    )
    query = "SELECT tenant, COUNT(*) FROM answers WHERE model = ? GROUP BY tenant"
    held = dict(db.execute(query, (model,)).fetchall())
    excess = sum(held.values()) - bounds.answers_max
    while excess > 0:
        largest = max(held, key=lambda tenant: held[tenant])
        second = max((count for tenant, count in held.items() if tenant != largest), default=0)
        some = min(excess, max(1, held[largest] - second))
        db.execute(
            "DELETE FROM answers WHERE (request, row) IN (SELECT request, row FROM answers "
            "WHERE model = ? AND tenant = ? ORDER BY time_ns LIMIT ?)",
            (model, largest, some),
        )
        held[largest] -= some
        excess -= some
