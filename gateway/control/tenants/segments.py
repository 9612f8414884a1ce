"""Keeps callers out of a whole host, or lets them in again: in the supervisor, at an operator's word.

Order of a change: it is in the audit log, then in the file that outlives restarts, then in force in every process.
Whoever asked is told once every worker that runs has said that it follows; one that has not is named, and told until
it does.

Rules:
- All subjects of one act, or none.
- A change runs to its end also when whoever asked for it has gone. Two that come at once come one after the other.
- An act never cuts another one short: a subject that is kept out for longer stays so until that is lifted.
- Nobody keeps himself out, nor his own tenant: one operator at least is left who can lift it.
- Without the log nothing is changed. Then no answer leaves the gateway either.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from gateway.auth.isolation import Isolation, IsolationRefused
from gateway.control.orders import Order
from gateway.control.undisturbed import undisturbed
from gateway.errors import AuditUnavailable
from ops.audit.log.entry import pseudonym
from ops.process.durable import keep_file

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from gateway.auth.isolation import Isolations, Subject
    from gateway.control.desk import Fleet, Worker

PATIENCE_S = 5.0
LOOK_EVERY_S = 0.005
FORGIVEN_AT_ONCE = 500  # names in one command to a worker, whose lines are short


@dataclass(slots=True)
class Segments:
    """Who is kept out of this host. `file` is where it is written down."""

    fleet: Fleet
    file: Path
    isolations: Isolations
    changing: asyncio.Lock = field(default_factory=asyncio.Lock)
    tasks: set[asyncio.Task[Any]] = field(default_factory=set)

    async def isolate(self, subjects: Sequence[Subject], order: Order, until_ns: int = 0) -> list[Isolation]:
        """Keep these out until then, 0 for good. Returns what is in force of them now.

        Raises:
            IsolationRefused: it cannot be done, and nothing has changed.
            AuditUnavailable: it could not be recorded, and nothing has changed.
        """
        for tenant, principal in subjects:
            if (tenant == order.tenant and not principal) or principal == order.principal:
                raise IsolationRefused("nobody isolates himself, nor his own tenant: ask another operator")
        return await undisturbed(self._isolate(subjects, order, until_ns), self.tasks, self._failed)

    async def lift(self, ids: Sequence[str], order: Order) -> list[Isolation]:
        """Let those in again that were isolated under these ids. Returns them. Raises as `isolate`."""
        return await undisturbed(self._lift(ids, order), self.tasks, self._failed)

    async def forgive(self, subjects: Sequence[Subject], order: Order) -> int:
        """Have what is held against accounts forgotten, in every worker that runs. Returns how many principals that is.

        Raises AuditUnavailable, and then nothing has changed. A worker that dies within half a minute of it may still
        remember (`gateway.request.watching`).
        """
        control = self.fleet.control
        assert control is not None, "operators are known by the control plane"
        entries = [await asyncio.to_thread(self._forgiven, subject, order) for subject in subjects]
        await control.record_together("admin", entries)
        meant = set(subjects)
        policy = self.fleet.policy.principals.items()
        names = [name for name, one in policy if {(one.tenant, name), (one.tenant, "")} & meant]
        for start in range(0, len(names), FORGIVEN_AT_ONCE):
            for worker in self.fleet.workers:
                worker.tell(do="forgive", principals=names[start : start + FORGIVEN_AT_ONCE])
        return len(names)

    async def expire(self) -> None:
        """Take off the list, and record, what has run out. It keeps nobody out since then."""
        if self.fleet.control is None or self.changing.locked() or not any(self.isolations.over(self._now_ns())):
            return  # while the host starts there is no log to record it in
        async with self.changing:
            over = list(self.isolations.over(self._now_ns()))
            left, _ = self.isolations.without([one.id for one in over])
            try:
                await self._record("expired", over, None)
                await self._keep(left)
            except (AuditUnavailable, OSError) as problem:  # it is tried again in a second
                self.fleet.log("isolation-not-expired", level="error", problem=type(problem).__name__)

    async def say_what_holds(self) -> None:
        """Record what is in force when the host starts. Raises AuditUnavailable."""
        if held := [one for one in self.isolations.listed if one.holds(self._now_ns())]:
            await self._record("holds", held, None)

    def tell(self, workers: Sequence[Worker]) -> None:
        """Tell those workers that do not follow yet."""
        for worker in workers:
            if worker.facts.get("isolations") != self.isolations.digest:
                worker.tell(do="isolate", isolations=str(self.file))

    async def behind(self) -> list[int]:
        """Wait for every worker that runs, not for long. Returns the numbers of those that do not follow yet."""

        def late() -> list[int]:
            running = enumerate(self.fleet.workers)
            digest = self.isolations.digest
            return [number for number, child in running if child.alive and child.facts.get("isolations") != digest]

        try:
            async with asyncio.timeout(PATIENCE_S):
                while late():  # noqa: ASYNC110  workers answer on their own time; what they said is looked at
                    await asyncio.sleep(LOOK_EVERY_S)
        except TimeoutError:
            self.fleet.log("isolation-not-everywhere", level="error", workers=len(late()))
        return late()

    async def _isolate(self, subjects: Sequence[Subject], order: Order, until_ns: int) -> list[Isolation]:
        async with self.changing:
            made = [self._made(subject, order, until_ns) for subject in dict.fromkeys(subjects)]
            await self._put(self.isolations.with_these(made), "isolated", made, order)
            return made

    async def _lift(self, ids: Sequence[str], order: Order) -> list[Isolation]:
        async with self.changing:
            left, gone = self.isolations.without(ids)
            await self._put(left, "released", gone, order)
            return gone

    async def _put(self, after: Isolations, action: str, changed: Sequence[Isolation], order: Order) -> None:
        """Record what an order changes, and then put it in force; what cannot be kept is recorded as failed."""
        await self._record(action, changed, order)
        try:
            await self._keep(after)
        except OSError as problem:
            await self._record("failed", changed, order)
            raise IsolationRefused(f"it cannot be written down: {problem}") from problem
        self._log(f"callers-{action}", changed, order)

    def _made(self, subject: Subject, order: Order, until_ns: int) -> Isolation:
        assert self.fleet.control is not None, "operators are known by the control plane"
        now_ns, known = self._now_ns(), self.isolations.by_subject.get(subject)
        since_ns = now_ns
        if known is not None and known.holds(now_ns):
            since_ns = known.since_ns
            until_ns = 0 if 0 in (known.until_ns, until_ns) else max(known.until_ns, until_ns)
        made = self.fleet.control.gw.new_id().hex()
        return Isolation(made, *subject, order.administrator, order.reason, since_ns, until_ns, order.incident)

    async def _keep(self, isolations: Isolations) -> None:
        """Write them down, and put them in force in every process. Raises OSError, and then nothing has changed."""
        await asyncio.to_thread(keep_file, self.file, isolations.to_json())
        self.isolations = isolations
        if self.fleet.control is not None:
            self.fleet.control.gw.isolations = isolations
        self.tell(self.fleet.workers)

    async def _record(self, action: str, isolations: Sequence[Isolation], order: Order | None) -> None:
        """Append an entry for each, all at once. Raises AuditUnavailable."""
        control = self.fleet.control
        assert control is not None, "the log is written by the control plane"
        entries = [await asyncio.to_thread(self._entry, action, one, order) for one in isolations]
        await control.record_together("isolation", entries)

    def _entry(self, action: str, one: Isolation, order: Order | None) -> dict[str, Any]:
        entry: dict[str, Any] = {"action": action, "isolation": one.id, "tenant": one.tenant}
        if one.principal:
            entry["principal"] = self._pseudonym(one.tenant, one.principal)
        said = order or Order(one.administrator, "", "", "", one.reason, one.incident)
        more = {"administrator": said.administrator, "reason": said.reason, "incident": said.incident}
        more |= {"request": said.request, "until_ns": str(one.until_ns) if one.until_ns else ""}
        return {**entry, **{key: value for key, value in more.items() if value}}

    def _forgiven(self, subject: Subject, order: Order) -> dict[str, Any]:
        tenant, principal = subject
        about = {"tenant": tenant, "reason": order.reason, "request": order.request, "incident": order.incident}
        if principal:
            about["principal"] = self._pseudonym(tenant, principal)
        detail = {key: value for key, value in about.items() if value}
        return {
            "action": "account-forgiven",
            "administrator": order.administrator,
            "detail": detail,
            "outcome": "done",
        }

    def _pseudonym(self, tenant: str, principal: str) -> str:
        assert self.fleet.control is not None, "it was there a moment ago"
        return pseudonym(self.fleet.control.keys.tenant_key(tenant), principal)

    def _log(self, event: str, isolations: Sequence[Isolation], order: Order) -> None:
        """Say that it was done; who was meant stands in the audit log."""
        facts = {"count": len(isolations), "credential": order.administrator, "request_id": order.request or None}
        self.fleet.log(event, level="warning", **facts)

    def _now_ns(self) -> int:
        assert self.fleet.control is not None, "nothing is changed before there is a log"
        return self.fleet.control.gw.wall_ns()

    def _failed(self, problem: BaseException) -> None:
        self.fleet.log("isolation-not-changed", level="error", error=type(problem).__name__, problem=str(problem))
