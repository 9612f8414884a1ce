"""The erasure of a subject's payloads and the holds against it, in the order that survives a crash.

Order of an erasure: the intent is in the key database, the keys are gone from it, the entry is in the log, and then the
database knows that it is. What a crash leaves in between is completed at the next start, before the admin port opens,
and every minute; the entry may then be there twice, with the same `erasure`. A hold is in force before its entry is
written, and until after the entry says that it is lifted: what is in doubt is kept.

The log is also read for what it says of erasures and holds (`ops.audit.payloads.erasure_log`): a key database that was
restored from a backup loses again what is gone, and keeps what is held. Until all of it was read, nothing is agreed.

Rules:
- Without the log nothing begins. What was agreed is completed when the log is back.
- It takes two principals. Whether they are two people, only those who hand out certificates know.
- Nothing that is written into the log names the subject: it stands there under its pseudonym.
"""

from __future__ import annotations

import asyncio
import re
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from gateway.control.undisturbed import undisturbed
from gateway.errors import AuditUnavailable
from ops.audit.errors import AuditError, ErasureRefused, KeyStoreError, ReadError
from ops.audit.payloads.erasure_log import follow

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

    from gateway.control.orders import Order
    from ops.audit.payloads.erasure import Erasures
    from ops.audit.payloads.erasure_rows import Erasure, Hold, Word
    from ops.audit.reader.read import LogReader
    from ops.metrics.parts import ErasureMetrics
    from ops.process.logging import Log

    Record = Callable[[str, Sequence[Mapping[str, Any]]], Awaitable[None]]

EVERY_S = 60.0
CATCHING_UP_S = 1.0
PROBLEM_CHARACTERS_MAX = 500
CATCHING_UP = "the log is still being read for holds; ask again"


@dataclass(slots=True)
class Custody:
    """Erasures and holds of a host. `caught_up`: all that the log says of them has taken force in the key database."""

    erasures: Erasures
    record: Record
    reader_from: Callable[[str, int], LogReader]
    log: Log
    reached: Callable[[str], None] = lambda _point: None
    metrics: ErasureMetrics | None = None
    wall_ns: Callable[[], int] = time.time_ns
    caught_up: bool = False
    changing: asyncio.Lock = field(default_factory=asyncio.Lock)
    tasks: set[asyncio.Task[Any]] = field(default_factory=set)

    async def request(self, wanted: Erasure) -> Erasure:
        """Write down what is asked for, and record it.

        Raises:
            ErasureRefused, KeyStoreError: it cannot be asked for.
            AuditUnavailable: it could not be recorded, and is not asked for.
        """
        return await undisturbed(self._request(wanted), self.tasks, self._failed)

    async def approve(self, erasure_id: str, word: Word) -> Erasure:
        """Agree, destroy the keys, and record it. Returns it as done.

        Raises:
            ErasureRefused: nothing was destroyed. That somebody tried is recorded, once the log was read.
            KeyStoreError, AuditUnavailable: it is agreed, and will be completed without anybody asking again.
        """
        return await undisturbed(self._approve(erasure_id, word), self.tasks, self._failed)

    async def place(self, hold: Hold) -> None:
        """Put a hold in force, and record it. Raises ErasureRefused, KeyStoreError, AuditUnavailable: it is not."""
        await undisturbed(self._place(hold), self.tasks, self._failed)

    async def lift(self, hold: Hold, order: Order) -> None:
        """Record that a hold is lifted, and lift it. Raises AuditUnavailable, KeyStoreError: it is still in force."""
        await undisturbed(self._lift(hold, order), self.tasks, self._failed)

    async def finish(self) -> None:
        """Complete what was agreed and what the log does not say yet, as far as that can be done now."""
        async with self.changing:
            try:
                for hold in await asyncio.to_thread(self.erasures.holds, unrecorded=True):
                    await self._placed(hold)
                for erasure in await asyncio.to_thread(self.erasures.unfinished):
                    await self._complete(erasure)
            except (AuditUnavailable, KeyStoreError) as problem:
                self.log("erasure-not-finished", level="error", problem=f"{type(problem).__name__}: {problem}")

    async def keep(self) -> None:
        """Complete what is owed and follow the log, for as long as the host runs."""
        while True:
            await self.finish()
            try:
                await asyncio.to_thread(self._measure)
                more = await asyncio.to_thread(self.follow)
            except (AuditError, OSError) as problem:
                more, told = False, not isinstance(problem, ReadError)  # it has nothing yet, or is being written
                if told:
                    self.log("erasures-not-read", level="error", problem=f"{type(problem).__name__}: {problem}")
            else:
                self.caught_up = not more
            await asyncio.sleep(0 if more else EVERY_S if self.caught_up else CATCHING_UP_S)

    def follow(self) -> bool:
        """Let the next part of the log take force; returns whether there is more. Blocks.

        Raises:
            KeyStoreError: the key database cannot be used.
            ReadError, NoteError, OSError: the log cannot be read.
        """
        found = follow(self.erasures, self.reader_from)
        if found.keys:
            self.log("erased-keys-had-come-back", level="warning", count=found.keys)
        if found.holds:
            self.log("holds-had-gone", level="warning", count=found.holds)
        return found.more

    def _measure(self) -> None:
        if self.metrics is not None:
            owed = self.erasures.owed(self.wall_ns())
            self.metrics.owed({state: (each.count, each.since_ns) for state, each in owed.items()})

    async def _request(self, wanted: Erasure) -> Erasure:
        async with self.changing:
            asked = await asyncio.to_thread(self.erasures.request, wanted)
            try:
                await self._admin("erasure-requested", asked.requested_by, "done", about(asked))
            except AuditUnavailable:
                await asyncio.to_thread(self.erasures.withdraw, asked.id)
                raise
            return asked

    async def _approve(self, erasure_id: str, word: Word) -> Erasure:
        if not self.caught_up:
            raise ErasureRefused(CATCHING_UP)
        async with self.changing:
            try:
                agreed = await asyncio.to_thread(self.erasures.approve, erasure_id, word)
            except ErasureRefused as problem:
                said = {"erasure": erasure_id, "reason": str(problem)[:PROBLEM_CHARACTERS_MAX], "request": word.request}
                await self._admin("erasure-approved", word.administrator, "refused", said)
                raise
            return await self._complete(agreed)

    async def _complete(self, erasure: Erasure) -> Erasure:
        """Bring an agreed erasure to its end, from wherever it stands."""
        if erasure.state != "destroyed":
            erasure = await asyncio.to_thread(self.erasures.destroy, erasure.id)
        await self.record("erasure", [erasure_entry(erasure)])
        self.reached("recorded")
        await asyncio.to_thread(self.erasures.done, erasure.id)
        self.log("payloads-erased", level="warning", count=len(erasure.keys), request_id=erasure.approval)
        return await asyncio.to_thread(self.erasures.erasure, erasure.id)

    async def _place(self, hold: Hold) -> None:
        async with self.changing:
            await asyncio.to_thread(self.erasures.place, hold)
            self.reached("held")
            try:
                await self._placed(hold)
            except AuditUnavailable:
                await asyncio.to_thread(self.erasures.lift, hold.id)
                raise

    async def _placed(self, hold: Hold) -> None:
        word = {"administrator": hold.administrator, "request": hold.request}
        await self.record("hold", [{"action": "placed", **word, **hold_facts(hold)}])
        await asyncio.to_thread(self.erasures.placed, hold.id)

    async def _lift(self, hold: Hold, order: Order) -> None:
        async with self.changing:
            word = {"administrator": order.administrator, "request": order.request, "reason": order.reason}
            await self.record("hold", [{"action": "lifted", **word, **hold_facts(hold)}])
            await asyncio.to_thread(self.erasures.lift, hold.id)

    async def _admin(self, action: str, administrator: str, outcome: str, detail: Mapping[str, str]) -> None:
        entry = {"action": action, "administrator": administrator, "detail": detail, "outcome": outcome}
        await self.record("admin", [entry])

    def _failed(self, problem: BaseException) -> None:
        self.log("custody-not-changed", level="error", problem=type(problem).__name__)


def names(subject: str, text: str) -> bool:
    """Say whether a text names a subject: as a word of it, in any case."""
    return bool(subject) and re.search(rf"(?<!\w){re.escape(subject)}(?!\w)", text, re.IGNORECASE) is not None


def about(erasure: Erasure) -> dict[str, str]:
    """Return what the entry of a request says of it."""
    facts = {"erasure": erasure.id, "subject": erasure.pseudonym, "tenant": erasure.tenant, "reason": erasure.reason}
    return {**facts, "keys": str(len(erasure.keys))}


def erasure_entry(erasure: Erasure) -> dict[str, Any]:
    """Return what the log says of an erasure."""
    entry: dict[str, Any] = {
        "administrators": [erasure.requested_by, erasure.approved_by],
        "erasure": erasure.id,
        "keys": list(erasure.keys),
        "reason": erasure.reason,
        "request": erasure.approval,
        "subject": erasure.pseudonym,
        "tenant": erasure.tenant,
    }
    return {**entry, **({"months": list(erasure.months)} if erasure.months else {})}


def hold_facts(hold: Hold) -> dict[str, str]:
    """Return what every entry of a hold says of it."""
    facts = {"hold": hold.id, "matter": hold.matter, "tenant": hold.tenant}
    return {**facts, **({"subject": hold.pseudonym} if hold.pseudonym else {})}
