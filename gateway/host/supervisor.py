"""Starts and keeps the processes of one gateway host: one recorder, N workers, the admin port, the metrics page.

Rules:
- The recorder is there before the first worker and after the last one.
- Children are started with exec, never forked. A child that dies is started again, after a pause that doubles.
- What takes the whole host down, with the child's own last words: `DEATHS_MAX` deaths without having been ready in
  between, or an exit code that says that starting it again would change nothing.
- A policy reload happens in two phases: every worker must have accepted the new policy before any of them uses it. What
  was accepted is kept in the state directory, and that copy, not the edited file, is what a restarted worker loads.
- SIGTERM drains: workers finish what they accepted, then the recorder publishes its last checkpoint. SIGHUP reloads.

The control channel of a worker is JSON lines: commands on its stdin, events on its stdout. Its stderr is the log. What
else stands on stdout, such as the print of a library, is no event and does no harm.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence

    from gateway.host.neighbour import Neighbour

DEATHS_MAX = 5
FINAL = frozenset({78})  # EX_CONFIG of sysexits
PAUSE_FIRST_S = 0.2
PAUSE_MAX_S = 5.0
PROBE_EVERY_S = 0.02
EVENT_BYTES_MAX = 1024 * 1024  # where the canaries of a thousand models stand is told in one
UNHEARD_BYTES_MAX = 4 * 1024 * 1024  # of commands that a child has not read
REPLIES_MAX = 16  # that nobody has asked for yet


class StartFailed(Exception):
    """A child did not come up. The message is for the person at the terminal."""


async def at_once() -> str:
    """Nothing is in the way of a start."""
    return ""


@dataclass(slots=True)
class Child:
    """One supervised process. `ready` is set while it is up: by its own `ready` event, or when `probe` says so. `able`
    is what it said last of whether it can do its work; one that is up and says nothing can. `asked` is called with its
    questions.

    `before_start` runs before each start; it does not raise. `may_start` is asked before that, and again after a pause
    while it says why not; it raises StartFailed where that will not change. `ended` hears each exit code. `final` and,
    where it has not been ready, `final_at_start` are those after which it is not started again. `problem` is what it
    said last of why it ends. What stands in `environment` it finds in its own, unless that says otherwise already.
    """

    name: str
    argv: Sequence[str]
    log: Callable[..., None]
    probe: Callable[[], bool] | None = None
    before_start: Callable[[], None] = lambda: None
    may_start: Callable[[], Awaitable[str]] = at_once
    ended: Callable[[int], None] = lambda _code: None
    final: frozenset[int] = frozenset()
    final_at_start: frozenset[int] = frozenset()
    environment: Mapping[str, str] = field(default_factory=dict)
    problem: str = ""
    starts: int = 0
    ready: asyncio.Event = field(default_factory=asyncio.Event)
    replies: asyncio.Queue[dict[str, Any]] = field(default_factory=lambda: asyncio.Queue(REPLIES_MAX))
    facts: dict[str, Any] = field(default_factory=dict)
    able: bool = True
    process: asyncio.subprocess.Process | None = None
    stopping: asyncio.Event = field(default_factory=asyncio.Event)
    asked: Callable[[Child, dict[str, Any]], None] = lambda _child, _question: None

    @property
    def alive(self) -> bool:
        """Whether it has a process, ready or not."""
        return self.process is not None and self.process.returncode is None

    async def run(self) -> None:
        """Keep the process running until `stopping`; returns when it has stopped, raises StartFailed when it cannot."""
        deaths = 0
        pause_s = PAUSE_FIRST_S
        while not self.stopping.is_set():  # it may be told so in the pause, when there is no process to tell
            if held := await self.may_start():
                self.log("child-held", level="error", child=self.name, problem=held)
                pause_s = await self._pause(pause_s)
                continue
            code = await self._run_once()
            self.ended(code)
            final = FINAL | self.final
            if self.ready.is_set():
                deaths, pause_s = 0, PAUSE_FIRST_S
            else:
                final |= self.final_at_start
            self.ready.clear()
            if self.stopping.is_set():
                return
            deaths += 1
            if deaths >= DEATHS_MAX or code in final:
                times = f", {deaths} times in a row" if deaths > 1 else ""
                raise StartFailed(f"{self.name} ended with exit code {code}{times}: {self.problem or 'see its log'}")
            self.log("child-ended", level="error", child=self.name, exit_code=code, restart_in_ms=int(pause_s * 1000))
            pause_s = await self._pause(pause_s)

    async def _pause(self, pause_s: float) -> float:
        """Wait, unless told to stop; returns how long to wait the next time."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self.stopping.wait(), pause_s)
        return min(2 * pause_s, PAUSE_MAX_S)

    async def _run_once(self) -> int:
        self.before_start()
        self.problem, self.able = "", True
        self.process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-P",  # no module comes from the folder that the gateway was started in
            *self.argv,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            env={**self.environment, **os.environ},
            start_new_session=True,  # Ctrl-C is for the supervisor, which stops its children in order
        )
        self.starts += 1
        self.log("child-started", child=self.name, pid=self.process.pid)
        if self.stopping.is_set():  # told so while it was being started
            with contextlib.suppress(ProcessLookupError):
                self.process.terminate()
        assert self.process.stdout is not None, "a pipe was asked for"
        probing = asyncio.create_task(self._probe_until_ready())
        try:
            async for line in lines(self.process.stdout, EVENT_BYTES_MAX):
                if line is None:
                    self.log("event-too-large", level="error", child=self.name, size=EVENT_BYTES_MAX)
                elif (event := event_in(line)) is not None:
                    self._heard(event)
            return await self.process.wait()
        finally:
            probing.cancel()

    async def _probe_until_ready(self) -> None:
        while self.probe is not None and not self.ready.is_set():
            if self.probe():
                self.ready.set()
            await asyncio.sleep(PROBE_EVERY_S)

    def _heard(self, event: dict[str, Any]) -> None:
        match event.get("event"):
            case "ready":
                self.facts = event
                self.ready.set()
            case "health":
                self.able = event.get("able") is True
            case "moved":
                self.facts["canaries"] = event.get("canaries")
            case "isolated":
                self.facts["isolations"] = event.get("digest")
            case "asked":
                self.asked(self, event)
            case "failed":
                self.problem = str(event.get("problem", ""))
            case _:
                if event.get("event") == "committed":
                    self.facts |= {"policy": event.get("policy"), "models": event.get("models")}
                with contextlib.suppress(asyncio.QueueFull):  # `ask` forgets what was said before it asked
                    self.replies.put_nowait(event)

    def tell(self, **command: Any) -> None:
        """Send a command. A child that is gone hears nothing; its successor starts with the accepted policy.

        One that has long read nothing is ended: it hangs, and what it does not hear would pile up here.
        """
        if self.process is None or self.process.stdin is None or not self.alive:
            return
        if self.process.stdin.transport.get_write_buffer_size() > UNHEARD_BYTES_MAX:
            self.log("child-hears-nothing", level="error", child=self.name, size=UNHEARD_BYTES_MAX)
            self.process.kill()
            return
        with contextlib.suppress(ConnectionError):
            self.process.stdin.write(json.dumps(command).encode() + b"\n")

    async def ask(self, timeout_s: float, **command: Any) -> dict[str, Any]:
        """Send a command and wait for the next event; `{"event": "silent"}`: none in time, or it ended."""
        while not self.replies.empty():
            self.replies.get_nowait()
        self.tell(**command)
        process = self.process
        if process is None:
            return {"event": "silent"}
        reply, ended = asyncio.create_task(self.replies.get()), asyncio.create_task(process.wait())
        try:
            await asyncio.wait({reply, ended}, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
            return reply.result() if reply.done() else {"event": "silent"}
        finally:
            reply.cancel()
            ended.cancel()

    async def stop(self, timeout_s: float) -> None:
        """Send SIGTERM, wait, and kill what is still there after `timeout_s`."""
        self.stopping.set()
        process = self.process
        if process is None or process.returncode is not None:
            return
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(signal.SIGTERM)
        try:
            await asyncio.wait_for(process.wait(), timeout_s)
        except TimeoutError:
            self.log("child-killed", level="error", child=self.name, waited_s=timeout_s)
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()


async def lines(stream: asyncio.StreamReader, bytes_max: int) -> AsyncIterator[bytes | None]:
    """Yield each line of a stream without its end; None for a longer one, of which no more than that is kept."""
    line, too_long = b"", False
    while chunk := await stream.read(bytes_max):
        for number, piece in enumerate(chunk.split(b"\n")):
            if number:  # a line has ended before this piece
                yield None if too_long else line
                line, too_long = b"", False
            too_long = too_long or len(line) + len(piece) > bytes_max
            line = b"" if too_long else line + piece
    if line or too_long:
        yield None if too_long else line


def event_in(line: bytes) -> dict[str, Any] | None:
    """Return the event that a line holds, or None."""
    try:
        event = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return event if isinstance(event, dict) else None


async def all_ready(
    children: Sequence[Child | Neighbour], tasks: Sequence[asyncio.Task[None]], timeout_s: float
) -> None:
    """Wait until every child is ready; raises StartFailed when one gives up or the time is over."""

    async def every_child() -> None:
        await asyncio.gather(*(child.ready.wait() for child in children))

    waiting = asyncio.create_task(every_child())
    try:
        done, _ = await asyncio.wait({waiting, *tasks}, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
    finally:
        waiting.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await waiting
    for task in tasks:
        if task in done:
            await task  # raises what ended it
            raise StartFailed(f"{task.get_name()} stopped while starting")
    if not done:
        late = ", ".join(child.name for child in children if not child.ready.is_set())
        raise StartFailed(f"not ready after {timeout_s:.0f} s: {late}")


@dataclass(frozen=True, slots=True)
class Target:
    """What workers are to follow: the files of a policy and of the models, each with the digest of what it says."""

    policy_file: str
    models_file: str
    policy: str
    models: str

    def reached(self, facts: Mapping[str, Any]) -> bool:
        """Say whether these facts are those of a worker that follows it."""
        return facts.get("policy") == self.policy and facts.get("models") == self.models


async def reload_everywhere(
    workers: Sequence[Child], target: Target, commit: Callable[[], None], timeout_s: float
) -> str | None:
    """Bring these workers to the target, or none. Returns None when done, otherwise who refused and why.

    `commit` keeps what the target is, once all will have it; where it raises OSError, nobody uses it. A worker that
    does not say in time that it follows, because it just died, is one to be brought along later.
    """
    files = {"policy": target.policy_file, "models": target.models_file}
    answers = await asyncio.gather(*(worker.ask(timeout_s, do="prepare", **files) for worker in workers))
    for worker, reply in zip(workers, answers, strict=True):
        if reply.get("event") != "prepared" or not target.reached(reply):
            return forget(workers, f"{worker.name}: {reply.get('problem', reply.get('event'))}")
    try:
        commit()
    except OSError as problem:
        return forget(workers, str(problem))
    await asyncio.gather(*(worker.ask(timeout_s, do="commit") for worker in workers))
    return None


def forget(workers: Sequence[Child], why: str) -> str:
    """Let no worker use what it prepared."""
    for worker in workers:
        worker.tell(do="forget")
    return why
