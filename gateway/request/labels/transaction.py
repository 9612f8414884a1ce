"""What is done to the file of labels in one transaction: looked up, drafted, confirmed, moved, taken as a batch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gateway.request.labels.rows import ALLOWED, HELD, AnswerKept, Held

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Sequence

    from gateway.models.rules import Bounds
    from gateway.request.labels.rows import Draft

DRAFT_NS = 120 * 1_000_000_000  # longer than any append to the log may take; an older draft was left by a crash
TENANT_ITEMS_SHARE = 10  # of the items of a model, one part of this many is the most that a tenant may hold
_ANSWER = "tenant, model, version, class, decision, latent, time_ns, confidence_micro"


class Transaction:
    """What is done together."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db
        self._held: dict[tuple[str, str], tuple[int, int]] = {}

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

    def room(self, model: str, tenant: str, bounds: Bounds, more: int) -> bool:
        """Say whether a tenant may have one item of a model beside those that it had at first and `more`."""
        if (model, tenant) not in self._held:  # counted once: it reads all, and is asked for each item of a call
            query = "SELECT COUNT(*), COALESCE(SUM(tenant = ?), 0) FROM items WHERE model = ?"
            self._held[model, tenant] = self._db.execute(query, (tenant, model)).fetchone()
        of_model, of_tenant = self._held[model, tenant]
        of_tenant_max = max(1, bounds.items_max // TENANT_ITEMS_SHARE)
        return bool(of_model + more < bounds.items_max and of_tenant + more < of_tenant_max)

    def draft(self, item: Draft) -> int:
        """Write an item that is not recorded yet; returns its id."""
        self._db.execute(
            "DELETE FROM items WHERE request = ? AND row = ? AND principal = ? AND recorded = 0",
            (item.request, item.row, item.principal),
        )
        marks = ", ".join("?" for _ in item)
        names = "request, row, tenant, principal, model, version, label, name, answered, latent, p_micro, outcome_ns, "
        names += "received_ns, key, trusted, state, reason, confidence_micro"
        query = f"INSERT INTO items ({names}, recorded, batch) VALUES ({marks}, 0, 0) RETURNING id"  # noqa: S608  names of ours
        return int(self._db.execute(query, item).fetchone()[0])

    def confirm(self, ids: Sequence[int]) -> None:
        """As `FeedbackStore.confirm`.

        A trusted principal's label measures also where trusted rows contradict it: were it left out, a version would
        look the better the stranger the rows are that it errs on. And where others of its tenant do: or one of them
        could hide what a version errs on.
        """
        for each in ids:
            row = self._db.execute(
                "UPDATE items SET recorded = 1, counted = trusted AND reason != 'FLAGGED_ANSWER' "
                "WHERE id = ? AND recorded = 0 RETURNING model, version, name = answered, counted",
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
        which = f"id = ? AND recorded = 1 AND state IN ({marks})"
        query = f"UPDATE items SET state = ?, reason = ?, batch = COALESCE(?, batch) WHERE {which}"  # noqa: S608  marks alone
        return sum(self._db.execute(query, (to, reason, batch, each, *states)).rowcount for each in ids)

    def reject(self, ids: Sequence[int], reason: str) -> int:
        """Throw items away that wait or may be learned from, and what they said of versions; returns how many."""
        states = (*ALLOWED, "quarantined")
        moved = 0
        for each in ids:
            rejected = self.move([each], states=states, to="rejected", reason=reason)
            moved += rejected
            query = "UPDATE items SET counted = 0 WHERE id = ? AND counted RETURNING model, version, name = answered"
            said = self._db.execute(query, (each,)).fetchone() if rejected else None
            if said is not None:
                model, version, right = said
                self._db.execute(
                    "UPDATE agreement SET right = right - ?, labels = labels - 1 WHERE model = ? AND version = ?",
                    (right, model, version),
                )
        return moved

    def allowed(self, model: str, version: str) -> list[Held]:
        """Return the items of a version that a batch may be made of."""
        which = "recorded = 1 AND model = ? AND version = ? AND state IN (?, ?)"
        query = f"SELECT {HELD} FROM items WHERE {which} ORDER BY id"  # noqa: S608  names of ours
        return [Held(*row) for row in self._db.execute(query, (model, version, *ALLOWED))]

    def rates(self, model: str, version: str) -> list[tuple[str, str, int]]:
        """Return (tenant, principal, p_micro) of all items of a version, but for those that people released."""
        which = "recorded = 1 AND model = ? AND version = ? AND reason != 'FLAGGED_ANSWER' AND state != 'released'"
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
