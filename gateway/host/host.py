"""One gateway host: the policy and the models that its workers follow, and the one place that changes them.

How a policy reaches the workers is here, because it is the host that remembers the last good one
(`gateway.policy.file`). How the processes start and stop is in `serve`, how they are kept alive in `supervisor`.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from gateway.auth.isolation import ISOLATIONS, read_isolations
from gateway.config.document import FileRejected
from gateway.control.labels.evaluation import Evaluations
from gateway.control.promotions import newly_named, refusals
from gateway.control.release.releases import Releases
from gateway.control.release.rollout import Rollout
from gateway.control.repository import Asked, Repository
from gateway.control.tenants.segments import Segments
from gateway.control.versions import change, tell_promoted, tell_rejected
from gateway.host.supervisor import Child, Target, reload_everywhere
from gateway.models.model_set import Listed, ModelSet
from gateway.models.standings import RELEASES
from gateway.policy.file import Kept, awaits_signature, stamp
from gateway.policy.load import load_policy
from gateway.request.labels.store import FILE
from serving.errors import ServingError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from gateway.config.config import Config
    from gateway.config.place import Place
    from gateway.control.desk import Journal
    from gateway.host.neighbour import Neighbour
    from gateway.policy.policy import Policy
    from ops.audit.copies.replicator import EpochReplicator
    from ops.audit.log.trust_policy import TrustPolicy
    from ops.process.logging import Log
    from serving.registry.proof import Unproven

RELOAD_TIMEOUT_S = 45.0  # 65,536 principals take each worker ten seconds of a core
WATCH_EVERY_S = 1.0


@dataclass(slots=True)
class Host:
    """The processes of one host and the policy they follow; `problem` says why the file's policy is not in force."""

    config: Config
    place: Place
    log: Log
    repository: Repository
    kept: Kept
    policy: Policy
    started_ns: int
    recorder: Child | Neighbour
    workers: list[Child]
    witnesses: TrustPolicy | None = None
    replicator: EpochReplicator | None = None
    problem: str = ""
    told: tuple[tuple[int, int], str] | None = None
    seen: tuple[int, int] = (0, 0)
    control: Journal | None = None
    evaluations: Evaluations = field(init=False)
    rollout: Rollout = field(init=False)
    segments: Segments = field(init=False)
    reloading: asyncio.Lock = field(default_factory=asyncio.Lock)
    reloads: set[asyncio.Task[Any]] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.evaluations = Evaluations(self.place.memory.with_name(FILE))
        self.rollout = Rollout(self, Releases(self.place.memory.with_name(RELEASES)))
        isolations = self.place.memory.with_name(ISOLATIONS)
        self.segments = Segments(self, isolations, read_isolations(isolations))

    def ready(self) -> bool:
        """Say whether clients can be served: the recorder is up, and at least one worker says that it can serve."""
        return self.recorder.ready.is_set() and any(worker.ready.is_set() and worker.able for worker in self.workers)

    async def reload(self, *, expected_digest: str = "") -> bool:
        """Bring every worker to the policy in the file. False: it was refused, and `problem` says why.

        It goes on when whoever asked has gone: what the workers have taken over must come into force here as well.
        """
        task = asyncio.create_task(self._reload(expected_digest))
        self._keep(task)
        return await asyncio.shield(task)

    def _keep(self, task: asyncio.Task[Any]) -> None:
        self.reloads.add(task)
        task.add_done_callback(self._reloaded)

    def _reloaded(self, task: asyncio.Task[Any]) -> None:
        self.reloads.discard(task)
        if not task.cancelled() and (problem := task.exception()) is not None:  # maybe nobody else hears of it
            self.log("reload-failed", level="error", policy=self.policy.digest, error=type(problem).__name__)

    async def end_reloads(self, patience_s: float) -> None:
        """Before the host stops: let what has begun be recorded, but do not wait long for it."""
        if self.reloads:
            await asyncio.wait(self.reloads, timeout=patience_s)
        for task in self.reloads:
            task.cancel()
        await asyncio.gather(*self.reloads, return_exceptions=True)

    async def _reload(self, expected_digest: str) -> bool:
        async with self.reloading:
            self.seen = stamp(self.config.policy.file)
            try:
                policy = await asyncio.to_thread(self._read_policy)
                found = await asyncio.to_thread(self.repository.needed_by, policy)
                copied = self.kept.draft()
            except (FileRejected, ServingError, OSError) as problem:
                return await self._refused(str(problem))
            if expected_digest not in ("", policy.digest):
                return await self._refused(f"the file holds another policy, {policy.digest}")
            if policy.digest == self.policy.digest:
                self.problem = ""
                return True
            repository, before = self.repository, self.repository.models
            judged = await asyncio.to_thread(repository.judge, policy, repository.having(found).listed)
            if lacking := refusals(policy, judged):
                sentences = "\n".join(sentence for sentence, _, _ in lacking)
                return await self._refused(sentences, [(listed, unproven) for _, listed, unproven in lacking])
            models = repository.having(found, without=judged.unproven)

            def keep() -> None:
                repository.keep(models, found)
                self.kept.accept(copied, policy)

            refused = await self.bring(policy, copied, models, keep)
            if refused is not None:
                return await self._refused(refused)
            named = newly_named(policy, self.policy)
            self.policy, self.problem = policy, ""
            self.log("policy-loaded", policy=policy.digest, revision=policy.revision)
            await self.models_changed(before)
            await tell_rejected(self, judged.unproven.values())
            await tell_promoted(self, judged.proofs, named=named)
            if self.control is not None:
                await self.control.policy_changed(policy)
            await self.rollout.follow()
            return True

    async def bring(self, policy: Policy, policy_file: Path, models: ModelSet, keep: Callable[[], None]) -> str | None:
        """Bring every worker to this policy and these models, or none. Returns who refused and why, or None."""
        try:
            self.repository.draft.write_bytes(models.to_json())
        except OSError as problem:
            return str(problem)
        target = Target(str(policy_file), str(self.repository.draft), policy.digest, models.digest)
        running = [worker for worker in self.workers if worker.ready.is_set()]
        return await reload_everywhere(running, target, keep, RELOAD_TIMEOUT_S)

    async def models_changed(self, before: ModelSet, request: str = "") -> None:
        """Log and record which versions came into service or went out of it, and at whose request."""
        for action, listed in self.repository.models.changes(before):
            asked = request or None
            self.log(
                f"model-{action}", model=listed.name, version=listed.version, digest=listed.digest, request_id=asked
            )
            if self.control is not None:
                await self.control.model_changed(action, listed, request)

    def hear(self, worker: Child, question: dict[str, Any]) -> None:
        """Answer a worker, if it is still there when the answer is known."""
        process = worker.process

        async def answer() -> None:
            asked = Asked(*(question[key] for key in ("do", "model", "version", "principal", "request")))
            outcome = await change(asked, self)
            if worker.process is process:
                worker.tell(do="answer", number=question["number"], **outcome)

        self._keep(asyncio.create_task(answer()))

    def permits(self, asked: Asked, listed: Listed) -> bool:
        """Say whether a version is one that is meant, and that whoever asked has the right for."""
        rights = self.control.gw.active.rights if self.control is not None else None
        meant = listed.name == asked.model and asked.version in ("", listed.version)
        return meant and rights is not None and rights.permits(asked.principal, asked.right, *listed.key)

    def _read_policy(self) -> Policy:
        """Return the file's policy. In a thread: with many principals it takes seconds."""
        source = self.config.policy
        policy = load_policy(source.file, source.public_key, in_force=self.policy)
        if policy.digest == self.policy.digest:
            self.kept.refresh(policy)
        return policy

    async def _refused(self, problem: str, unproven: Sequence[tuple[Listed, Unproven]] = ()) -> bool:
        self.problem = problem
        if self.told == (self.seen, problem):  # the watcher saw it first, and now somebody asks
            return False
        self.told = self.seen, problem
        self.log("policy-refused", level="error", policy=self.policy.digest, problem=problem)
        if self.control is not None:
            await self.control.policy_refused(problem)
        await tell_rejected(self, unproven)
        return False

    async def bring_up_to_date(self) -> None:
        """Bring a worker along that was starting while the others took a new policy over; record what is still owed."""
        async with self.reloading:
            if self.control is not None:
                await self.control.record_owed()
            repository = self.repository
            target = Target(str(self.kept.copy), str(repository.file), self.policy.digest, repository.models.digest)
            behind = [worker for worker in self.workers if worker.ready.is_set() and not target.reached(worker.facts)]
            if behind:
                await reload_everywhere(behind, target, lambda: None, RELOAD_TIMEOUT_S)

    def mend_policy(self) -> None:
        """Before a worker starts: let it find an accepted policy that it can load."""
        self.kept.mend(self.policy)

    async def watch(self, hangup: asyncio.Event) -> None:
        """Reload when the policy file or its signature changes, and on SIGHUP. An edit may wait for its signature."""
        while True:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(hangup.wait(), WATCH_EVERY_S)
            found = stamp(self.config.policy.file)
            changed = found != self.seen and not awaits_signature(found, self.seen, time.time_ns())
            if hangup.is_set() or changed:
                hangup.clear()
                await self.reload()
            await self.bring_up_to_date()

    async def watch_releases(self) -> None:
        """Look at canaries and isolations. A task of its own: bringing every worker to a policy may take a minute."""
        while True:
            await asyncio.sleep(WATCH_EVERY_S)
            await self.rollout.look()
            self.segments.tell(self.workers)
            await self.segments.expire()
