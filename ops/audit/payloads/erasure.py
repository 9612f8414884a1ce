"""What is asked, agreed and done about destroying keys, and what must not be destroyed: crypto-shredding, and holds.

It stands in the key database, beside the keys: that no hold covers a key, and that it is to go, are one transaction.

    requested ─► approved ─► deleting ─► destroyed ─► done

    approved     the intent: it names its keys, and two administrators. From here on it is completed, whatever happens
    deleting     the keys' rows are gone, and so is the subject's name
    destroyed    the file was searched: neither end of a wrapped key is anywhere in it
    done         the log has the `erasure` entry

Every arrow is durable when its method returns (synchronous=FULL), and each method may be called again after a crash.
SQLite's secure_delete zeroes what it deletes. That nothing else has left a copy, such as a tool that edited the file
without it, is looked at: the whole file is read, and rebuilt (VACUUM) where it has one.

What this does not reach: blocks that the filesystem or the disk has given up and not overwritten. What stands there is
wrapped by the master key. And the keys in the memory of a worker, which drops them within a second (`keys`).

See NIST SP 800-88 Rev. 1, section 2.5 (cryptographic erase), GDPR Art. 17(1) and 17(3)(e).
"""

import json
import sqlite3
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from ops.audit.errors import ErasureRefused, KeyStoreError
from ops.audit.payloads.erasure_rows import (
    Erasure,
    Hold,
    Owed,
    Word,
    add_erasure,
    add_hold,
    erasures_where,
    holds_where,
    one_erasure,
)
from ops.audit.payloads.keys import failed, open_database, traces
from ops.process.sqlite import held, transaction

KEYS_MAX = 128  # of one erasure: as many as its entry may name
WAITING_MAX = 1_000
HOLDS_MAX = 10_000
REMEMBERED_MAX = 10_000
VALID_NS = 30 * 86_400 * 1_000_000_000
"""How long a request waits for its second administrator: what was right a month ago is asked for again."""


class Erasures:
    """Erasures and holds of one key database. Thread-safe; for one process, the supervisor.

    Args:
        path: the key database.
        reached: told when a step is durable, by its name; tests end the process there.

    Every method raises KeyStoreError where the database cannot be used.
    """

    def __init__(self, path: Path, *, reached: Callable[[str], None] = lambda _point: None) -> None:
        self._path = path
        self._reached = reached
        self._lock = threading.Lock()
        self._db = open_database(path)

    def close(self) -> None:
        with self._lock:
            self._db.close()

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with held(self._lock, failed), transaction(self._db) as db:
            yield db

    def request(self, wanted: Erasure) -> Erasure:
        """Write down that somebody asks for it. Raises ErasureRefused: nothing to erase, held, or asked already."""
        with self._transaction() as db:
            oldest_ns = wanted.requested_ns - VALID_NS
            db.execute("DELETE FROM erasure WHERE state = 'requested' AND requested_ns < ?", (oldest_ns,))
            keys = _keys_of(db, wanted)
            _require_unheld(db, wanted)
            waiting = erasures_where(db, "state = 'requested'")
            if same := [one for one in waiting if _scope(one) == _scope(wanted)]:
                raise ErasureRefused(f"it is asked for already, as {same[0].id}, and waits for another administrator")
            if len(waiting) >= WAITING_MAX:
                raise ErasureRefused(f"{WAITING_MAX:,} wait already: have them approved first")
            add_erasure(db, wanted)
        return replace(wanted, keys=keys)

    def withdraw(self, erasure_id: str) -> None:
        """Take back what nobody has approved."""
        with self._transaction() as db:
            db.execute("DELETE FROM erasure WHERE id = ? AND state = 'requested'", (erasure_id,))

    def approve(self, erasure_id: str, word: Word) -> Erasure:
        """Write down the intent, with the keys that there are now. Returns it; from here on it is completed.

        Raises:
            ErasureRefused: not asked for, too long ago, by the same administrator, held, or nothing is left to erase.
        """
        with self._transaction() as db:
            asked = one_erasure(db, erasure_id)
            if asked.state != "requested":
                raise ErasureRefused(f"it was approved already, by {asked.approved_by}")
            if asked.requested_ns < word.time_ns - VALID_NS:
                raise ErasureRefused("it was asked for more than 30 days ago; ask again")
            if word.principal == asked.requester or word.administrator == asked.requested_by:
                raise ErasureRefused("it takes two administrators: who asked for it cannot approve it")
            keys = _keys_of(db, asked)
            _require_unheld(db, asked)
            db.execute(
                "UPDATE erasure SET state = 'approved', keys = ?, approved_by = ?, approved_ns = ?, approval = ? "
                "WHERE id = ?",
                (json.dumps(keys), word.administrator, word.time_ns, word.request, erasure_id),
            )
            agreed = one_erasure(db, erasure_id)
        self._reached("intended")
        return agreed

    def destroy(self, erasure_id: str) -> Erasure:
        """Destroy the keys of an approved erasure; returns it as destroyed. Again after a crash: it goes on.

        Raises:
            KeyStoreError: they could not be destroyed, or something of them is still in the file. Call it again.
        """
        with self._transaction() as db:
            agreed = one_erasure(db, erasure_id)
            wrapped = _delete(db, agreed.keys)
            db.execute("UPDATE erasure SET state = 'deleting', subject = '' WHERE id = ?", (erasure_id,))
        self._reached("deleted")
        self._scrub(wrapped, certain=agreed.state == "approved")
        with self._transaction() as db:
            db.execute("UPDATE erasure SET state = 'destroyed' WHERE id = ?", (erasure_id,))
            gone = one_erasure(db, erasure_id)
        self._reached("destroyed")
        return gone

    def done(self, erasure_id: str) -> None:
        """Write down that the log has the entry. The newest REMEMBERED_MAX stay listed; the log has them all."""
        with self._transaction() as db:
            db.execute("UPDATE erasure SET state = 'done' WHERE id = ?", (erasure_id,))
            db.execute(
                "DELETE FROM erasure WHERE state = 'done' AND id NOT IN "
                "(SELECT id FROM erasure WHERE state = 'done' ORDER BY approved_ns DESC, id LIMIT ?)",
                (REMEMBERED_MAX,),
            )

    def destroy_named(self, keys: Sequence[str], mark: str) -> int:
        """Destroy what the log says was destroyed: a backup of the database may have brought it back.

        `mark` is how far the log was read, written down once they are gone. Returns how many there were.
        """
        with self._transaction() as db:
            wrapped = _delete(db, keys)
        if wrapped:
            self._scrub(wrapped, certain=True)
        with self._transaction() as db:
            db.execute("INSERT OR REPLACE INTO mark VALUES ('erasures', ?)", (mark,))
        return len(wrapped)

    def hold_named(self, placed: Sequence[Hold], lifted: Sequence[str]) -> int:
        """Put holds in force that the log says were placed, and off those that it says were lifted.

        A backup of the database may lack the first and have the second. Returns how many there were of both.
        """
        with self._transaction() as db:
            before = db.total_changes
            for hold in placed:
                add_hold(db, hold, recorded=True)
            db.executemany("DELETE FROM hold WHERE id = ?", [(each,) for each in lifted])
            return db.total_changes - before

    def mark(self) -> str:
        """Return how far the log was read for erasures, as it was written down, or nothing."""
        with self._transaction() as db:
            row = db.execute("SELECT value FROM mark WHERE name = 'erasures'").fetchone()
        return str(row[0]) if row is not None else ""

    def listed(self) -> list[Erasure]:
        """Return all that are known, the newest first."""
        with self._transaction() as db:
            return erasures_where(db, "1")

    def erasure(self, erasure_id: str) -> Erasure:
        """Return one. Raises ErasureRefused where there is none."""
        with self._transaction() as db:
            found = one_erasure(db, erasure_id)
            return found if found.state != "requested" else replace(found, keys=_keys_of(db, found, empty=True))

    def unfinished(self) -> list[Erasure]:
        """Return those that are agreed and not done, the oldest first."""
        with self._transaction() as db:
            return erasures_where(db, "state IN ('approved', 'deleting', 'destroyed')")[::-1]

    def owed(self, now_ns: int) -> dict[str, Owed]:
        """Return what waits: "requested" for a second administrator, "agreed" to be completed."""
        waits = (
            "SELECT count(*), ifnull(min(requested_ns), 0) FROM erasure WHERE state = 'requested' AND requested_ns >= ?"
        )
        agreed = "SELECT count(*), ifnull(min(approved_ns), 0) FROM erasure WHERE state NOT IN ('requested', 'done')"
        with self._transaction() as db:
            return {
                "requested": Owed(*db.execute(waits, (now_ns - VALID_NS,)).fetchone()),
                "agreed": Owed(*db.execute(agreed).fetchone()),
            }

    def place(self, hold: Hold) -> None:
        """Write down a hold. Raises ErasureRefused: there are too many, or an agreed erasure is under way."""
        with self._transaction() as db:
            if any(hold.covers(one.tenant, one.pseudonym) for one in erasures_where(db, "state = 'approved'")):
                raise ErasureRefused("an erasure of it was approved and is under way: it comes too late")
            if db.execute("SELECT count(*) FROM hold").fetchone()[0] >= HOLDS_MAX:
                raise ErasureRefused(f"there are {HOLDS_MAX:,} holds; hold tenants as a whole, or release some")
            add_hold(db, hold)

    def placed(self, hold_id: str) -> None:
        """Write down that the log has the entry of a hold."""
        with self._transaction() as db:
            db.execute("UPDATE hold SET recorded = 1 WHERE id = ?", (hold_id,))

    def lift(self, hold_id: str) -> None:
        """Take a hold off."""
        with self._transaction() as db:
            db.execute("DELETE FROM hold WHERE id = ?", (hold_id,))

    def holds(self, *, unrecorded: bool = False) -> list[Hold]:
        """Return the holds that are in force, the newest first; or only those that the log does not have yet."""
        with self._transaction() as db:
            return holds_where(db, "recorded = 0" if unrecorded else "1")

    @contextmanager
    def standing(self) -> Iterator[list[Hold]]:
        """Give the holds that are in force, as `holds`; none is placed, and no key made, before the block ends."""
        with self._transaction() as db:
            yield holds_where(db, "1")

    def _scrub(self, wrapped: Sequence[bytes], *, certain: bool) -> None:
        """See to it that nothing of these is in the file. Not `certain`: there were more, before a crash."""
        with held(self._lock, failed):
            if certain and not traces(self._path, wrapped):
                return
            self._db.execute("VACUUM")
            if traces(self._path, wrapped):
                raise KeyStoreError("the key database still holds something of a destroyed key")


def _delete(db: sqlite3.Connection, keys: Sequence[str]) -> list[bytes]:
    """Delete data keys by their hex references; returns the wrapped keys that there were."""
    wrapped: list[bytes] = []
    for key in keys:
        wrapped += [
            row[0]
            for row in db.execute("DELETE FROM data_key WHERE reference = ? RETURNING wrapped", (bytes.fromhex(key),))
        ]
    return wrapped


def _keys_of(db: sqlite3.Connection, wanted: Erasure, *, empty: bool = False) -> tuple[str, ...]:
    """Return the references of what would be destroyed. Raises ErasureRefused: none, unless `empty`, or too many."""
    query = "SELECT reference, month FROM data_key WHERE tenant = ? AND subject = ? ORDER BY month"
    rows = db.execute(query, _subject(wanted)).fetchall()
    keys = tuple(reference.hex() for reference, month in rows if not wanted.months or month in wanted.months)
    if not keys and not empty:
        raise ErasureRefused("there is nothing to erase: no payload of this subject was kept, or its keys are gone")
    if len(keys) > KEYS_MAX:
        raise ErasureRefused(f"it has {len(keys)} keys, of which one erasure takes {KEYS_MAX}: name months")
    return keys


def _require_unheld(db: sqlite3.Connection, wanted: Erasure) -> None:
    for hold in holds_where(db, "1"):
        if hold.covers(wanted.tenant, wanted.pseudonym):
            raise ErasureRefused(f"a legal hold covers it: {hold.id}, {hold.matter}, by {hold.administrator}")


def _subject(wanted: Erasure) -> tuple[str, str]:
    return wanted.tenant, wanted.subject


def _scope(wanted: Erasure) -> tuple[str, str, frozenset[str]]:
    return wanted.tenant, wanted.subject, frozenset(wanted.months)
