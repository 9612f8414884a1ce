"""`stockade serve`: one gateway host, from its configuration file until SIGTERM.

Order of a start: recorder, workers, admin port, metrics page, then the line that says where clients find it. Stopping
goes the other way round.
"""

from __future__ import annotations

import asyncio
import contextlib
import resource
import signal
import sys
import time
from typing import TYPE_CHECKING, Any

from gateway.config.load import load_config
from gateway.config.place import PRIVATE, place_of
from gateway.control.repository import Repository
from gateway.host.admin import Control
from gateway.host.children import recorder_of, require_free, share_port, worker_child
from gateway.host.chores import chores
from gateway.host.elsewhere import keep_elsewhere
from gateway.host.host import Host
from gateway.host.occupancy import occupied
from gateway.host.recorder import RECORDER
from gateway.host.replication import open_replicator
from gateway.host.supervisor import Child, StartFailed, all_ready
from gateway.models.model_set import MODELS
from gateway.policy.file import Kept, Memory, stamp
from gateway.request.traces import require_tracing
from ops.audit.log.trust_policy import read_trust_policy
from ops.metrics import RETENTION, prepare_directory, serve_metrics
from ops.process.logging import configure
from serving.engines.ray.link import GRACE_S

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from gateway.config.config import Config
    from gateway.host.neighbour import Neighbour

DRAFT = "models.draft.json"
READY_TIMEOUT_S = 60.0
STOP_SLACK_S = 5.0
RECORDER_STOP_S = 30.0


class WentDown(Exception):
    """The host served and cannot go on. The message is for the person at the terminal."""


async def serve(config_file: Path, announce: Callable[[dict[str, Any]], None], profile: str | None = None) -> int:
    """Run the host until SIGTERM or SIGINT; returns the exit code.

    Raises:
        WentDown: it served, and cannot go on.
        FileRejected, ServingError, DirectoryInUse, StartFailed, ListenFailed: why it cannot start, for the person at
            the terminal.
    """
    config = load_config(config_file, profile)
    require_tracing(config)
    open_as_many_files_as_allowed()
    log = configure(config.log.level, sys.stderr, format=config.log.format, role="supervisor")
    place = place_of(config)
    with contextlib.ExitStack() as stack:
        stack.enter_context(occupied(config.state_dir))
        place.make_shared()
        place.policies.mkdir(mode=PRIVATE, exist_ok=True)
        keep = set() if config.audit.epochs is None else {RETENTION}  # it runs now and then, whoever else does
        if config.audit.recorder == "managed":
            prepare_directory(place.metrics, keep=keep)
            place.socket.unlink(missing_ok=True)  # a recorder whose supervisor was killed may still answer there
        else:
            prepare_directory(place.metrics, keep=keep | {RECORDER})
        repository = Repository(config, place.memory.with_name(MODELS), place.policies / DRAFT)
        repository.open(log)  # a bundle that would be refused is found before anything is started
        kept = Kept(config.policy, place.policies, Memory(place.memory))
        policy = kept.first(log, repository.require_proven)
        repository.admit(policy, log)
        for address in (config.listen.data_mtls, config.listen.admin, config.listen.metrics):
            if address is not None:
                require_free(address)
        data = share_port(config.listen.data, stack)
        witnesses = None if config.audit.witnesses is None else read_trust_policy(config.audit.witnesses.policy)
        replicator = open_replicator(config)
        recorder = recorder_of(config, place, log)
        workers = [
            worker_child(config_file, config.profile, kept, number=number, data=data, log=log)
            for number in range(config.workers)
        ]
        host = Host(
            config, place, log, repository, kept, policy, time.time_ns(), recorder, workers, witnesses, replicator
        )
        await host.rollout.follow()  # workers read where their canaries are when they start
        for worker in workers:
            worker.before_start, worker.asked = host.mend_policy, host.hear
        await run(host, announce)
    return 0


def open_as_many_files_as_allowed() -> None:
    """Raise the bound on open files, of this process and those it starts: a thousand connections would take all."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


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
        control, addresses = await open_control(host, stack)
        host.seen = stamp(host.config.policy.file)
        watching = [
            asyncio.create_task(host.watch(hangup), name="the watch of the policy"),
            asyncio.create_task(host.watch_releases(), name="the watch of releases"),
            *chores(host, control),
        ]
        elsewhere = list(keep_elsewhere(host, control))  # goes on until the last answer that waits for it has left
        for task in (*watching, *elsewhere):
            stack.callback(task.cancel)
        announce({**host.workers[0].facts, **addresses})
        try:
            await first_of(stop, [*keeping, *watching, *elsewhere])
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


async def open_control(host: Host, stack: contextlib.AsyncExitStack) -> tuple[Control, dict[str, Any]]:
    """Open the control plane and the metrics page, as far as they are configured."""
    host.control = control = Control(host)
    listening: dict[str, Any] = {"admin": await control.open(stack)}
    await host.rollout.move([])  # the control plane is there to record what the start has set
    if host.config.listen.metrics is not None:
        name, _, port = host.config.listen.metrics.rpartition(":")
        page = serve_metrics(name.strip("[]"), int(port), host.place.metrics, lambda: True, host.ready)
        stack.callback(page.close)
        listening["metrics"] = f"{name}:{page.port}"
    return control, listening
