"""`stockade serve`: one gateway host, from its configuration file until SIGTERM.

Order of a start: recorder, workers, admin port, metrics page, then the line that says where clients find it. Stopping
goes the other way round. What the processes are and how they are kept alive is in `gateway.supervisor`; how a policy
reaches the workers is here, because it is the host that remembers the last good one (`gateway.policy_file`).
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
import sys
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from gateway.admin import Control
from gateway.app import load_bundles
from gateway.config import load_config
from gateway.document import FileRejected
from gateway.neighbour import Neighbour, greets
from gateway.occupancy import PRIVATE, occupied
from gateway.place import place_of
from gateway.policy import load_policy
from gateway.policy_file import Kept, Memory, awaits_signature, stamp
from gateway.recorder import RECORDER, recorder_settings
from gateway.release_file import RELEASES
from gateway.releases import Releases
from gateway.rollout import Rollout
from gateway.supervisor import Child, StartFailed, all_ready, reload_everywhere
from gateway.traces import require_tracing
from ops.audit.errors import ForkRefused, LogCorrupted, Poisoned, RecorderError
from ops.logging import configure
from ops.metrics import prepare_directory, serve_metrics
from serving.ray_link import GRACE_S

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from gateway.config import Config
    from gateway.place import Place
    from gateway.policy import Policy
    from ops.logging import Log
    from serving.bundle import Bundle

READY_TIMEOUT_S = 60.0
RELOAD_TIMEOUT_S = 45.0  # 65,536 principals take each worker ten seconds of a core
WATCH_EVERY_S = 1.0
STOP_SLACK_S = 5.0
RECORDER_STOP_S = 30.0
RECORDER_FINAL = frozenset({LogCorrupted.exit_code, ForkRefused.exit_code})
RECORDER_FINAL_AT_START = frozenset({Poisoned.exit_code, RecorderError.exit_code})
"""What starting the recorder again would not change; its own last words say what it was."""


class WentDown(Exception):
    """The host served and cannot go on. The message is for the person at the terminal."""


@dataclass(slots=True)
class Host:
    """The processes of one host and the policy they follow; `problem` says why the file's policy is not in force."""

    config: Config
    place: Place
    log: Log
    bundles: list[Bundle]
    kept: Kept
    policy: Policy
    started_ns: int
    recorder: Child | Neighbour
    workers: list[Child]
    problem: str = ""
    told: tuple[tuple[int, int], str] | None = None
    seen: tuple[int, int] = (0, 0)
    control: Control | None = None
    rollout: Rollout = field(init=False)
    reloading: asyncio.Lock = field(default_factory=asyncio.Lock)
    reloads: set[asyncio.Task[bool]] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.rollout = Rollout(self, Releases(self.place.memory.with_name(RELEASES)))

    def ready(self) -> bool:
        """Say whether clients can be served: the recorder is up, and at least one worker says that it can serve."""
        return self.recorder.ready.is_set() and any(worker.ready.is_set() and worker.able for worker in self.workers)

    async def reload(self, *, expected_digest: str = "") -> bool:
        """Bring every worker to the policy in the file. False: it was refused, and `problem` says why.

        It goes on when whoever asked has gone: what the workers have taken over must come into force here as well.
        """
        task = asyncio.create_task(self._reload(expected_digest))
        self.reloads.add(task)
        task.add_done_callback(self._reloaded)
        return await asyncio.shield(task)

    def _reloaded(self, task: asyncio.Task[bool]) -> None:
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
                copied = self.kept.draft()
            except (FileRejected, OSError) as problem:
                return await self._refused(str(problem))
            if expected_digest not in ("", policy.digest):
                return await self._refused(f"the file holds another policy, {policy.digest}")
            if policy.digest == self.policy.digest:
                self.problem = ""
                return True
            running = [worker for worker in self.workers if worker.ready.is_set()]
            refused = await reload_everywhere(
                running, str(copied), policy.digest, lambda: self.kept.accept(copied, policy), RELOAD_TIMEOUT_S
            )
            if refused is not None:
                return await self._refused(refused)
            self.policy, self.problem = policy, ""
            self.log("policy-loaded", policy=policy.digest, revision=policy.revision)
            if self.control is not None:
                await self.control.policy_changed(policy)
            await self.rollout.follow()
            return True

    def _read_policy(self) -> Policy:
        """Return the file's policy. In a thread: with many principals it takes seconds."""
        source = self.config.policy
        policy = load_policy(source.file, source.public_key, in_force=self.policy)
        if policy.digest == self.policy.digest:
            self.kept.refresh(policy)
        return policy

    async def _refused(self, problem: str) -> bool:
        self.problem = problem
        if self.told == (self.seen, problem):  # the watcher saw it first, and now somebody asks
            return False
        self.told = self.seen, problem
        self.log("policy-refused", level="error", policy=self.policy.digest, problem=problem)
        if self.control is not None:
            await self.control.policy_refused(problem)
        return False

    async def bring_up_to_date(self) -> None:
        """Bring a worker along that was starting while the others took a new policy over; record what is still owed."""
        async with self.reloading:
            if self.control is not None:
                await self.control.record_owed()
            behind = [
                worker
                for worker in self.workers
                if worker.ready.is_set() and worker.facts.get("policy") != self.policy.digest
            ]
            if behind:
                await reload_everywhere(behind, str(self.kept.copy), self.policy.digest, lambda: None, RELOAD_TIMEOUT_S)

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
        """Look at canaries. A task of its own: bringing every worker to a new policy may take RELOAD_TIMEOUT_S."""
        while True:
            await asyncio.sleep(WATCH_EVERY_S)
            await self.rollout.look()


async def serve(config_file: Path, announce: Callable[[dict[str, Any]], None]) -> int:
    """Run the host until SIGTERM or SIGINT; returns the exit code.

    Raises:
        WentDown: it served, and cannot go on.
        FileRejected, ServingError, DirectoryInUse, StartFailed, ListenFailed: why it cannot start, for the person at
            the terminal.
    """
    config = load_config(config_file)
    require_tracing(config)
    log = configure(config.log.level, sys.stderr, format=config.log.format, role="supervisor")
    place = place_of(config)
    with contextlib.ExitStack() as stack:
        stack.enter_context(occupied(config.state_dir))
        place.make_shared()
        place.policies.mkdir(mode=PRIVATE, exist_ok=True)
        if config.audit.recorder == "managed":
            prepare_directory(place.metrics)
            place.socket.unlink(missing_ok=True)  # a recorder whose supervisor was killed may still answer there
        else:
            prepare_directory(place.metrics, keep={RECORDER})
        bundles = load_bundles(config, log)  # a bundle that would be refused is found before anything is started
        kept = Kept(config.policy, place.policies, Memory(place.memory))
        policy = kept.first(log)
        data = share_port(config.listen.data, stack)
        recorder = recorder_of(config, place, log)
        workers = [worker_child(config_file, kept, number, data, log) for number in range(config.workers)]
        host = Host(config, place, log, bundles, kept, policy, time.time_ns(), recorder, workers)
        await host.rollout.follow()  # workers read where their canaries are when they start
        for worker in workers:
            worker.before_start = host.mend_policy
        await run(host, announce)
    return 0


async def run(host: Host, announce: Callable[[dict[str, Any]], None]) -> None:
    """Start everything, keep it running until a signal, stop everything."""
    stop, hangup = asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()
    for name, event in ((signal.SIGTERM, stop), (signal.SIGINT, stop), (signal.SIGHUP, hangup)):
        loop.add_signal_handler(name, event.set)
    drain_s = drain_time(host.config)
    async with contextlib.AsyncExitStack() as stack:
        keeping = [keep(host.recorder, stack, RECORDER_STOP_S)]
        await all_ready([host.recorder], keeping, READY_TIMEOUT_S)
        keeping += [keep(worker, stack, drain_s) for worker in host.workers]
        await all_ready(host.workers, keeping, READY_TIMEOUT_S)
        addresses = await open_control(host, stack)
        host.seen = stamp(host.config.policy.file)
        watching = [
            asyncio.create_task(host.watch(hangup), name="the watch of the policy"),
            asyncio.create_task(host.watch_releases(), name="the watch of releases"),
        ]
        for task in watching:
            stack.callback(task.cancel)
        announce({**host.workers[0].facts, **addresses})
        try:
            await first_of(stop, [*keeping, *watching])
        except StartFailed as problem:
            raise WentDown(str(problem)) from problem
        host.log("stopping")
        for task in watching:
            task.cancel()
        await asyncio.gather(*(worker.stop(drain_s) for worker in host.workers), host.end_reloads(STOP_SLACK_S))
        await host.rollout.end()


def drain_time(config: Config) -> float:
    """Return the seconds that a worker has to stop: a batch may have gone to a silent server in the last moment."""
    drain_s = config.transport.drain_timeout_ms / 1000 + STOP_SLACK_S
    if config.engine.oip is not None:
        drain_s += config.engine.oip.call_timeout_ms / 1000
    if config.engine.ray is not None:
        drain_s += config.engine.ray.call_timeout_ms / 1000 + GRACE_S
    return drain_s


def keep(child: Child | Neighbour, stack: contextlib.AsyncExitStack, stop_s: float) -> asyncio.Task[None]:
    """Start keeping a child; the stack stops it."""
    task = asyncio.create_task(child.run(), name=child.name)

    async def end() -> None:
        await child.stop(stop_s)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    stack.push_async_callback(end)
    return task


async def first_of(stop: asyncio.Event, tasks: list[asyncio.Task[None]]) -> None:
    """Wait for the signal to stop, or raise what made a task give up."""
    waiting = asyncio.create_task(stop.wait())
    done, _ = await asyncio.wait({waiting, *tasks}, return_when=asyncio.FIRST_COMPLETED)
    waiting.cancel()
    for task in tasks:
        if task in done:
            await task
            raise StartFailed(f"{task.get_name()} stopped")


async def open_control(host: Host, stack: contextlib.AsyncExitStack) -> dict[str, Any]:
    """Open the control plane and the metrics page, as far as they are configured."""
    host.control = Control(host)
    listening: dict[str, Any] = {"admin": await host.control.open(stack)}
    await host.rollout.move([])  # the control plane is there to record what the start has set
    if host.config.listen.metrics is not None:
        name, _, port = host.config.listen.metrics.rpartition(":")
        page = serve_metrics(name.strip("[]"), int(port), host.place.metrics, lambda: True, host.ready)
        stack.callback(page.close)
        listening["metrics"] = f"{name}:{page.port}"
    return listening


def recorder_of(config: Config, place: Place, log: Log) -> Child | Neighbour:
    """Return the recorder: our own, or one that somebody else keeps."""
    if config.audit.recorder == "managed":
        return recorder_child(config, place, log)
    patience_s = config.audit.append_timeout_ms / 1000  # one that is slower than that can record nothing either
    return Neighbour(RECORDER, lambda: greets(place.socket, patience_s), log)


def recorder_child(config: Config, place: Place, log: Log) -> Child:
    """Return the recorder, told by a file what it needs to know."""
    file = config.state_dir / "recorder.json"
    file.write_bytes(recorder_settings(config, place).to_json())
    return Child(
        RECORDER,
        ["-m", "ops.audit.recorder_main", str(file)],
        log,
        probe=lambda: accepts(place.socket),
        final=RECORDER_FINAL,
        final_at_start=RECORDER_FINAL_AT_START,
    )


def worker_child(config_file: Path, kept: Kept, number: int, data: str, log: Log) -> Child:
    """Return one worker."""
    argv = ["-m", "gateway.worker", str(config_file), str(kept.copy), str(number), data]
    return Child(f"worker-{number}", argv, log)


def share_port(address: str, stack: contextlib.ExitStack) -> str:
    """Return the address with a port that all workers can share: for port 0 one that is held, not listened on."""
    name, _, port = address.rpartition(":")
    if port != "0":
        return address
    holder = stack.enter_context(socket.socket(socket.AF_INET6 if ":" in name else socket.AF_INET))
    holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    holder.bind((name.strip("[]"), 0))
    return f"{name}:{holder.getsockname()[1]}"


def accepts(path: Path) -> bool:
    """Say whether something listens on a unix socket."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as caller:
        try:
            caller.connect(str(path))
        except OSError:
            return False
        return True
