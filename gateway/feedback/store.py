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
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

__all__ = [
    "ALLOWED",
    "FILE",
    "STATES",
    "AnswerKept",
    "Bounds",
    "Draft",
    "FeedbackStore",
    "Held",
]

FILE = "feedback.sqlite"
BUSY_TIMEOUT_S = 10.0
DRAFT_NS = 120 * 1_000_000_000  # longer than any append to the log may take; an older draft was left by a crash
TENANT_ITEMS_SHARE = 10  # of the items of a model, one part of this many is the most that a tenant may hold
STATES = ("accepted", "quarantined", "released", "rejected", "taken", "learned", "dropped")
ALLOWED = ("accepted", "released")
FINAL = ("rejected", "learned", "dropped")

_SCHEMA = """
CREATE TABLE IF NOT EXISTS answers (
    request BLOB NOT NULL, row INTEGER NOT NULL, tenant TEXT NOT NULL, model TEXT NOT NULL, version TEXT NOT NULL,
    class INTEGER NOT NULL, decision TEXT NOT NULL, latent BLOB NOT NULL, time_ns INTEGER NOT NULL,
    PRIMARY KEY (request, row)) STRICT, WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS answers_by_tenant ON answers (model, tenant, time_ns);
CREATE TABLE IF NOT EXISTS items (
    id INTEGER PRIMARY KEY AUTOINCREMENT, request BLOB NOT NULL, row INTEGER NOT NULL, tenant TEXT NOT NULL,
    principal TEXT NOT NULL, model TEXT NOT NULL, version TEXT NOT NULL, label INTEGER NOT NULL, name TEXT NOT NULL,
    answered INTEGER NOT NULL, latent BLOB NOT NULL, p_micro INTEGER NOT NULL, outcome_ns INTEGER NOT NULL,
    received_ns INTEGER NOT NULL, key TEXT NOT NULL, trusted INTEGER NOT NULL, state TEXT NOT NULL,
    reason TEXT NOT NULL, recorded INTEGER NOT NULL, batch INTEGER NOT NULL,
    UNIQUE (request, row, principal)) STRICT;
CREATE INDEX IF NOT EXISTS items_by_state ON items (model, state, tenant);
CREATE TABLE IF NOT EXISTS batches (
    id INTEGER PRIMARY KEY AUTOINCREMENT, model TEXT NOT NULL, version TEXT NOT NULL, items INTEGER NOT NULL,
    state TEXT NOT NULL, reason TEXT NOT NULL, candidate TEXT NOT NULL, time_ns INTEGER NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS agreement (
    model TEXT NOT NULL, version TEXT NOT NULL, right INTEGER NOT NULL, labels INTEGER NOT NULL,
    PRIMARY KEY (model, version)) STRICT, WITHOUT ROWID;
"""
_ANSWER = "tenant, model, version, class, decision, latent, time_ns"
_HELD = (
    "id, state, reason, request, row, model, version, tenant, principal, name, label, answered, latent, p_micro, "
    "outcome_ns, received_ns, key, batch"
)


class AnswerKept(NamedTuple):
    """One row that was answered. `latent` is float16, little-endian; `label` the place of the class."""

    request: bytes
    row: int
    tenant: str
    model: str
    version: str
    label: int
    decision: str
    latent: bytes
    time_ns: int


class Draft(NamedTuple):
    """An item before it is recorded. `label` and `answered` are places of classes, `name` is the label's."""

    request: bytes
    row: int
    tenant: str
    principal: str
    model: str
    version: str
    label: int
    name: str
    answered: int
    latent: bytes
    p_micro: int
    outcome_ns: int
    received_ns: int
    key: str
    trusted: bool
    state: str
    reason: str


class Held(NamedTuple):
    """An item that is recorded."""

    id: int
    state: str
    reason: str
    request: bytes
    row: int
    model: str
    version: str
    tenant: str
    principal: str
    name: str
    label: int
    answered: int
    latent: bytes
    p_micro: int
    outcome_ns: int
    received_ns: int
    key: str
    batch: int


@dataclass(frozen=True, slots=True)
class Bounds:
    """How much is kept of one model, and for how long."""

    answers_max: int
    items_max: int
    window_ns: int


class FeedbackStore:
    """The file. A connection for each transaction, so it serves threads and processes alike."""

    def __init__(self, path: Path) -> None:
        self._path = path
        if not path.exists():
            os.close(os.open(path, os.O_WRONLY | os.O_CREAT, 0o600))  # SQLite's other files take its permissions
        with self._open() as db:
            db.execute("PRAGMA journal_mode=WAL")
            db.executescript(_SCHEMA)

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
        with self._open() as db:
            db.execute("BEGIN IMMEDIATE")
            yield Transaction(db)
            db.execute("COMMIT")

    def remember(self, rows: Sequence[AnswerKept], bounds: Bounds, now_ns: int) -> None:
        """Keep answers of one model, forget what is too old, and the oldest of the largest tenants where it is full."""
        with self._open() as db:
            db.execute("PRAGMA synchronous=NORMAL")
            db.execute("BEGIN IMMEDIATE")
            db.executemany("INSERT OR IGNORE INTO answers VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", rows)
            for model in {row.model for row in rows}:
                _forget(db, model, bounds, now_ns)
            db.execute("COMMIT")

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
        query = f"SELECT {_HELD} FROM items WHERE recorded = 1 AND id > ?{where} ORDER BY id LIMIT ?"  # noqa: S608  names of ours
        with self._open() as db:
            found = db.execute(query, (after, *(value for _, value in chosen), count)).fetchall()
        return [Held(*row) for row in found]

    def item(self, item: int) -> Held | None:
        """Return one item."""
        with self._open() as db:
            row = db.execute(f"SELECT {_HELD} FROM items WHERE id = ? AND recorded = 1", (item,)).fetchone()  # noqa: S608  as above
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

    def batches(self) -> list[tuple[int, str, str, int, str, str, str]]:
        """Return (id, model, version, items, state, reason, candidate) of the newest hundred, the newest first."""
        query = "SELECT id, model, version, items, state, reason, candidate FROM batches ORDER BY id DESC LIMIT 100"
        with self._open() as db:
            return db.execute(query).fetchall()


class Transaction:
    """What is done together."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db

    def answered(self, request: bytes, row: int, tenant: str) -> AnswerKept | None:
        """Return what this tenant was answered there, if anything was."""
        query = f"SELECT {_ANSWER} FROM answers WHERE request = ? AND row = ? AND tenant = ?"  # noqa: S608  names of ours
        found = self._db.execute(query, (request, row, tenant)).fetchone()
        return AnswerKept(request, row, *found) if found is not None else None

    def has_said(self, request: bytes, row: int, principal: str, now_ns: int) -> bool:
        """Say whether this principal has said something of this row, or is about to: its draft is young."""
        own = "request = ? AND row = ? AND principal = ? AND (recorded = 1 OR received_ns > ?)"
        query = f"SELECT COUNT(*) FROM items WHERE {own}"  # noqa: S608  marks alone
        found = self._db.execute(query, (request, row, principal, now_ns - DRAFT_NS)).fetchone()
        return bool(found[0])

    def contradicted(self, request: bytes, row: int, label: int, states: Sequence[str]) -> bool:
        """Say whether somebody gave the row another label; those items of these states go into quarantine."""
        others = "request = ? AND row = ? AND recorded = 1 AND label != ?"
        query = f"SELECT id FROM items WHERE {others}"  # noqa: S608  marks alone
        found = [item for (item,) in self._db.execute(query, (request, row, label))]
        self.move(found, states=states, to="quarantined", reason="CONTRADICTED")
        return bool(found)

    def room(self, model: str, tenant: str, bounds: Bounds) -> bool:
        """Say whether a tenant may have one more item of a model."""
        query = "SELECT COUNT(*), COALESCE(SUM(tenant = ?), 0) FROM items WHERE model = ?"
        of_model, of_tenant = self._db.execute(query, (tenant, model)).fetchone()
        return bool(of_model < bounds.items_max and of_tenant < max(1, bounds.items_max // TENANT_ITEMS_SHARE))

    def draft(self, item: Draft) -> int:
        """Write an item that is not recorded yet; returns its id."""
        self._db.execute(
            "DELETE FROM items WHERE request = ? AND row = ? AND principal = ? AND recorded = 0",
            (item.request, item.row, item.principal),
        )
        marks = ", ".join("?" for _ in item)
        names = "request, row, tenant, principal, model, version, label, name, answered, latent, p_micro, outcome_ns, "
        names += "received_ns, key, trusted, state, reason"
        query = f"INSERT INTO items ({names}, recorded, batch) VALUES ({marks}, 0, 0) RETURNING id"  # noqa: S608  names of ours
        return int(self._db.execute(query, item).fetchone()[0])

    def confirm(self, ids: Sequence[int]) -> None:
        """As `FeedbackStore.confirm`.

        A trusted principal's label measures also where trusted rows contradict it: were it left out, a version would
        look the better the stranger the rows are that it errs on.
        """
        for each in ids:
            row = self._db.execute(
                "UPDATE items SET recorded = 1 WHERE id = ? AND recorded = 0 "
                "RETURNING model, version, label = answered, trusted AND reason IN ('', 'INCONSISTENT')",
                (each,),
            ).fetchone()
            if row is not None and row[3]:
                self._db.execute(
                    "INSERT INTO agreement VALUES (?, ?, ?, 1) ON CONFLICT (model, version) "
                    "DO UPDATE SET right = right + excluded.right, labels = labels + 1",
                    row[:3],
                )

    def move(self, ids: Sequence[int], *, states: Sequence[str], to: str, reason: str, batch: int | None = None) -> int:
        """Give items that are in one of these states another; returns how many."""
        marks = ", ".join("?" for _ in states)
        new, which = (
            "state = ?, reason = ?, batch = COALESCE(?, batch)",
            f"id = ? AND recorded = 1 AND state IN ({marks})",
        )
        query = f"UPDATE items SET {new} WHERE {which}"  # noqa: S608  marks alone
        return sum(self._db.execute(query, (to, reason, batch, each, *states)).rowcount for each in ids)

    def allowed(self, model: str, version: str) -> list[Held]:
        """Return the items of a version that a batch may be made of."""
        which = "recorded = 1 AND model = ? AND version = ? AND state IN (?, ?)"
        query = f"SELECT {_HELD} FROM items WHERE {which} ORDER BY id"  # noqa: S608  names of ours
        return [Held(*row) for row in self._db.execute(query, (model, version, *ALLOWED))]

    def rates(self, model: str, version: str) -> list[tuple[str, str, int]]:
        """Return (tenant, principal, p_micro) of all items of a version, whatever became of them."""
        which = "recorded = 1 AND model = ? AND version = ? AND reason != 'FLAGGED_ANSWER'"
        query = f"SELECT tenant, principal, p_micro FROM items WHERE {which}"  # noqa: S608  marks alone
        return self._db.execute(query, (model, version)).fetchall()

    def open_batch(self, model: str, version: str, items: int, now_ns: int) -> int:
        """Begin a batch; returns its id."""
        query = (
            "INSERT INTO batches (model, version, items, state, reason, candidate, time_ns) "
            "VALUES (?, ?, ?, 'taken', '', '', ?) RETURNING id"
        )
        return int(self._db.execute(query, (model, version, items, now_ns)).fetchone()[0])

    def close_batch(self, batch: int, state: str, reason: str, candidate: str) -> int:
        """End a batch that is open, and with it its items; returns how many, -1 where there is no such batch."""
        query = "UPDATE batches SET state = ?, reason = ?, candidate = ? WHERE id = ? AND state = 'taken'"
        if self._db.execute(query, (state, reason, candidate, batch)).rowcount == 0:
            return -1
        query = "UPDATE items SET state = ?, reason = ? WHERE batch = ? AND state = 'taken'"
        return self._db.execute(query, (state, reason, batch)).rowcount


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
