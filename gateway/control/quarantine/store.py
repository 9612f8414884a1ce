"""What waits for review, and what was decided: a small database beside the log, the supervisor's alone.

It holds nothing that is not in the log: which entries somebody has to look at, and what was said of them. Payloads stay
where they are, encrypted. It may be deleted; then the newest entries of the log are looked through again.

Rules:
- At most `WAITING_MAX` wait, and `TENANT_MAX` of one tenant. What a tenant has beyond its share is not taken: it could
  push out what was seen of it before. When all is full, the tenant with the most gives up its oldest. Both are counted.
- Of what is decided the newest `DECIDED_MAX` are remembered. All of it is in the log.
- An entry is decided once.
"""

from __future__ import annotations

import json
import sqlite3
import threading
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ops.process.sqlite import held, transaction

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

QUARANTINE = "quarantine.db"
WAITING_MAX = 10_000
TENANT_MAX = 1_000
DECIDED_MAX = 50_000
LISTED_MAX = 1_000
BUSY_TIMEOUT_S = 5.0

_SCHEMA = """
CREATE TABLE IF NOT EXISTS item (
    entry INTEGER PRIMARY KEY, request TEXT NOT NULL, time_ns INTEGER NOT NULL, tenant TEXT NOT NULL,
    principal TEXT NOT NULL, model TEXT NOT NULL, version TEXT NOT NULL, decision TEXT NOT NULL, found TEXT NOT NULL,
    payload INTEGER NOT NULL, state TEXT NOT NULL DEFAULT 'waiting', administrator TEXT NOT NULL DEFAULT '',
    reason TEXT NOT NULL DEFAULT '', decided_ns INTEGER NOT NULL DEFAULT 0
) STRICT;
CREATE INDEX IF NOT EXISTS item_state ON item (state, tenant);
CREATE TABLE IF NOT EXISTS mark (name TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT;
"""
_COLUMNS = "entry, request, time_ns, tenant, principal, model, version, decision, found, payload"
_DECIDED = "state, administrator, reason, decided_ns"


class QuarantineError(Exception):
    """The database cannot be used."""


@dataclass(frozen=True, slots=True)
class Finding:
    """A request that a screen did not let pass. `found` has a line a screen; `principal` is a pseudonym."""

    entry: int
    request: str
    time_ns: int
    tenant: str
    principal: str
    model: str
    version: str
    decision: str
    found: tuple[str, ...]
    payload: bool


@dataclass(frozen=True, slots=True)
class Decided:
    """What became of it: "waiting", "released" or "rejected", by whom, why and when."""

    state: str
    administrator: str
    reason: str
    decided_ns: int


Item = tuple[Finding, Decided]


class Quarantine:
    """The database of one host. Thread-safe; every method raises QuarantineError where it cannot be used."""

    def __init__(self, path: Path) -> None:
        self._lock = threading.Lock()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._db = sqlite3.connect(path, timeout=BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False)
            path.chmod(0o600)
            self._db.execute("PRAGMA synchronous=FULL")
            self._db.executescript(_SCHEMA)
        except (sqlite3.Error, OSError) as problem:
            raise QuarantineError(f"{path}: {problem}") from problem

    def close(self) -> None:
        with self._lock:
            self._db.close()

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with held(self._lock, lambda error: QuarantineError(str(error))), transaction(self._db) as db:
            yield db

    def mark(self, name: str) -> str:
        """Return what was written down under this name, or nothing."""
        with self._transaction() as db:
            return mark_of(db, name)

    def take(self, findings: Iterable[Finding], marks: dict[str, str]) -> None:
        """Take in what was found, and write down how far the log was read; both, or neither."""
        with self._transaction() as db:
            for finding in findings:
                add(db, finding)
            db.executemany("INSERT OR REPLACE INTO mark VALUES (?, ?)", marks.items())

    def forget(self) -> None:
        """Begin anew: the log is another one."""
        with self._transaction() as db:
            db.execute("DELETE FROM item")
            db.execute("DELETE FROM mark")

    def items(self, *, state: str = "", tenant: str = "", model: str = "", count_max: int = LISTED_MAX) -> list[Item]:
        """Return items, the newest first; empty means all."""
        wanted = {name: value for name, value in (("state", state), ("tenant", tenant), ("model", model)) if value}
        where = "".join(f" AND {name} = ?" for name in wanted)
        query = f"SELECT {_COLUMNS}, {_DECIDED} FROM item WHERE 1{where} ORDER BY entry DESC LIMIT ?"  # noqa: S608  names of ours
        with self._transaction() as db:
            return [item_of(row) for row in db.execute(query, (*wanted.values(), min(count_max, LISTED_MAX)))]

    def item(self, entry: int) -> Item | None:
        """Return one of them."""
        query = f"SELECT {_COLUMNS}, {_DECIDED} FROM item WHERE entry = ?"  # noqa: S608  names of ours
        with self._transaction() as db:
            row = db.execute(query, (entry,)).fetchone()
        return item_of(row) if row is not None else None

    def waiting(self) -> int:
        """Return how many wait."""
        with self._transaction() as db:
            return count(db)

    def dropped(self) -> int:
        """Return how many were given up unseen."""
        return int(self.mark("dropped") or 0)

    def decide(self, entries: Sequence[int], decided: Decided) -> None:
        """Write down what was decided about these, all of which wait."""
        with self._transaction() as db:
            values = decided.state, decided.administrator, decided.reason, decided.decided_ns
            db.executemany(
                "UPDATE item SET state = ?, administrator = ?, reason = ?, decided_ns = ? WHERE entry = ?",
                [(*values, entry) for entry in entries],
            )
            db.execute(
                "DELETE FROM item WHERE state != 'waiting' AND entry NOT IN "
                "(SELECT entry FROM item WHERE state != 'waiting' ORDER BY decided_ns DESC, entry DESC LIMIT ?)",
                (DECIDED_MAX,),
            )


def add(db: sqlite3.Connection, finding: Finding) -> None:
    """Let one wait, as far as there is room."""
    if count(db, finding.tenant) >= TENANT_MAX:
        drop(db)
        return
    if count(db) >= WAITING_MAX:
        db.execute(
            "DELETE FROM item WHERE entry = (SELECT min(entry) FROM item WHERE state = 'waiting' AND tenant = "
            "(SELECT tenant FROM item WHERE state = 'waiting' GROUP BY tenant ORDER BY count(*) DESC, tenant LIMIT 1))"
        )
        drop(db)
    row = (
        finding.entry,
        finding.request,
        finding.time_ns,
        finding.tenant,
        finding.principal,
        finding.model,
        finding.version,
        finding.decision,
        json.dumps(finding.found),
        int(finding.payload),
    )
    db.execute(f"INSERT OR IGNORE INTO item ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", row)  # noqa: S608  names of ours


def count(db: sqlite3.Connection, tenant: str = "") -> int:
    """Return how many wait, of a tenant or of all."""
    where, values = ("AND tenant = ?", (tenant,)) if tenant else ("", ())
    (found,) = db.execute(f"SELECT count(*) FROM item WHERE state = 'waiting' {where}", values).fetchone()  # noqa: S608  as above
    return int(found)


def drop(db: sqlite3.Connection) -> None:
    """Count one that was given up."""
    db.execute("INSERT OR REPLACE INTO mark VALUES ('dropped', ?)", (str(int(mark_of(db, "dropped") or 0) + 1),))


def mark_of(db: sqlite3.Connection, name: str) -> str:
    """Return a mark, or nothing."""
    row = db.execute("SELECT value FROM mark WHERE name = ?", (name,)).fetchone()
    return str(row[0]) if row is not None else ""


def item_of(row: Sequence[object]) -> Item:
    """Return an item from its row."""
    entry, request, time_ns, tenant, principal, model, version, decision, found, payload, *decided = row
    texts = tuple(json.loads(str(found)))
    finding = Finding(
        int(str(entry)),
        str(request),
        int(str(time_ns)),
        str(tenant),
        str(principal),
        str(model),
        str(version),
        str(decision),
        texts,
        bool(payload),
    )
    state, administrator, reason, decided_ns = decided
    return finding, Decided(str(state), str(administrator), str(reason), int(str(decided_ns)))
