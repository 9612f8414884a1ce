"""Erasures and holds as they stand in the key database, and as everybody else sees them."""

import json
import sqlite3
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from ops.audit.errors import ErasureRefused

_ERASURE = (
    "id, tenant, subject, pseudonym, months, reason, state, keys, "
    "requested_by, requester, requested_ns, approved_by, approved_ns, approval"
)
_HOLD = "id, tenant, subject, pseudonym, matter, administrator, request, since_ns"


@dataclass(frozen=True, slots=True)
class Word:
    """Who says so, and when: a credential, the principal it proves, the id of the request, Unix nanoseconds."""

    administrator: str
    principal: str
    request: str
    time_ns: int


@dataclass(frozen=True, slots=True)
class Erasure:
    """One erasure. `subject` is empty once the keys are gone; `pseudonym` is what the log calls the subject.

    No months: all of them. `keys` are hex references, as entries have them in `payload.key`; `approval` is the id of
    the request that approved it.
    """

    id: str
    tenant: str
    subject: str
    pseudonym: str
    months: tuple[str, ...]
    reason: str
    state: str = "requested"
    keys: tuple[str, ...] = ()
    requested_by: str = ""
    requester: str = ""
    requested_ns: int = 0
    approved_by: str = ""
    approved_ns: int = 0
    approval: str = ""


@dataclass(frozen=True, slots=True)
class Owed:
    """Erasures in one state: how many, and since when the oldest of them is (Unix nanoseconds, 0 for none)."""

    count: int = 0
    since_ns: int = 0


@dataclass(frozen=True, slots=True)
class Hold:
    """A legal hold: nothing of the subject is destroyed, or of the whole tenant where the pseudonym is empty.

    `subject` is empty where only the log knew of the hold, which names nobody.
    """

    id: str
    tenant: str
    subject: str
    pseudonym: str
    matter: str
    administrator: str
    request: str
    since_ns: int

    def covers(self, tenant: str, pseudonym: str) -> bool:
        """Say whether what a subject of this tenant left must be kept."""
        return self.tenant == tenant and self.pseudonym in ("", pseudonym)


def one_erasure(db: sqlite3.Connection, erasure_id: str) -> Erasure:
    """Return one. Raises ErasureRefused where there is none."""
    found = erasures_where(db, "id = ?", erasure_id)
    if not found:
        raise ErasureRefused(f"there is no erasure {erasure_id}; see `stockade audit erase list`")
    return found[0]


def erasures_where(db: sqlite3.Connection, where: str, *values: str) -> list[Erasure]:
    """Return those that a condition holds for, the newest first."""
    query = f"SELECT {_ERASURE} FROM erasure WHERE {where} ORDER BY requested_ns DESC, id"  # noqa: S608  words of ours
    return [_erasure(row) for row in db.execute(query, values)]


def _erasure(row: Sequence[object]) -> Erasure:
    named = dict(zip(_ERASURE.split(", "), row, strict=True))
    lists = {name: tuple(json.loads(str(named[name]))) for name in ("months", "keys")}
    return Erasure(**{**named, **lists})  # type: ignore[arg-type]  # STRICT tables hold what the columns say


def _row(erasure: Erasure) -> Iterator[object]:
    for name in _ERASURE.split(", "):
        value = getattr(erasure, name)
        yield json.dumps(value) if isinstance(value, tuple) else value


def holds_where(db: sqlite3.Connection, where: str) -> list[Hold]:
    """Return those that a condition holds for, the newest first."""
    query = f"SELECT {_HOLD} FROM hold WHERE {where} ORDER BY since_ns DESC, id"  # noqa: S608  words of ours
    return [Hold(*row) for row in db.execute(query)]


def add_erasure(db: sqlite3.Connection, erasure: Erasure) -> None:
    """Write down an erasure."""
    _insert(db, "INTO erasure", _ERASURE, tuple(_row(erasure)))


def add_hold(db: sqlite3.Connection, hold: Hold, *, recorded: bool = False) -> None:
    """Write down a hold, unless it is there; `recorded`: the log has it."""
    values = (*(getattr(hold, name) for name in _HOLD.split(", ")), int(recorded))
    _insert(db, "OR IGNORE INTO hold", f"{_HOLD}, recorded", values)


def _insert(db: sqlite3.Connection, into: str, columns: str, values: Sequence[object]) -> None:
    places = ", ".join("?" * len(values))
    db.execute(f"INSERT {into} ({columns}) VALUES ({places})", values)  # noqa: S608  words of ours
