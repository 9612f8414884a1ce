"""The one runner: start a server, load it, see what it spent, and say what came of it.

Rules:
- Every server has a process group of its own, its output in a file, and is stopped by number in `finally`: SIGTERM to
  the group, after a grace SIGKILL to whatever of its tree still lives. It counts as started when a gRPC client got a
  prediction from it and read it.
- Nothing is counted that is not a prediction: h2load must report no error, the bytes it received must be those of as
  many replies, and a server that counts calls by status must agree.
- A measure (measures.py) gets a `Bench` and returns a `Result`; the date, the machine and the versions are added here.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import signal
import statistics
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import grpc
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from gateway.tools.bench import load as h2load
from gateway.tools.bench.load import FRAME_HEADER_BYTES, METHOD, SHAPES, Endpoint, H2loadFailed, Load, NotAnAnswer
from gateway.tools.bench.machine import (
    ProcessTree,
    children_cpu_us,
    enter_private_network,
    h2load_missing,
    machine_busy_us,
    machine_facts,
    our_versions,
    workspace,
)
from gateway.tools.samples import bundles_directory
from gateway.tools.terminal import EX_UNUSABLE, fail, print_json, terminal
from ops.audit.errors import AuditError

PROBE_TIMEOUT_S = 5.0
METRICS_TIMEOUT_S = 5.0
POLL_S = 0.1
TERM_GRACE_S = 15.0
LOG_TAIL_BYTES = 1000
ANSWERED_MIN = 0.999
"""Of what h2load calls done: its count ends a moment before its byte count does."""
IDLE_CORES_MAX = 0.15
SETTLE_S_MAX = 3.0
COUNT_LAG_S_MAX = 2.0
_HANDLED = re.compile(
    r'^grpc_server_handled_total\{(?=[^}]*grpc_method="ModelInfer")[^}]*grpc_code="(\w+)"[^}]*\} (\S+)', re.MULTILINE
)


class NotMeasured(Exception):
    """There is no figure: a run was not served, or a server or cluster did not become what it should."""


class StartFailed(NotMeasured):
    """The server did not answer. The message ends with what it printed last, `log_tail`."""

    def __init__(self, problem: str, log_tail: str) -> None:
        super().__init__(f"{problem}: {log_tail}" if log_tail else problem)
        self.log_tail = log_tail


UNMEASURED = (NotMeasured, H2loadFailed, AuditError, grpc.RpcError, subprocess.SubprocessError, OSError)


@dataclass(frozen=True, slots=True)
class Bench:
    """What a measure works with. `alone` is None in a private network, else the sentence why there is none."""

    options: SimpleNamespace
    directory: Path
    progress: Progress
    machine: Mapping[str, Any]
    alone: str | None

    @property
    def bundles(self) -> Path:
        return self.options.bundles or bundles_directory()

    def step(self, text: str, done: int | None = None, total: int | None = None) -> None:
        """Show what is happening now, and how much of it is done."""
        self.progress.update(self.progress.task_ids[0], description=text, completed=done, total=total)

    def advance(self, count: int) -> None:
        self.progress.advance(self.progress.task_ids[0], count)

    def parts(self, parts: Iterable[tuple[str, Any]]) -> dict[str, Any]:
        """Collect the parts of a report, and say when each is measured."""
        report = {}
        for name, part in parts:
            self.progress.console.print(f"measured {name}")
            report[name] = part
        return report


class Result(NamedTuple):
    """What a measure found: the report, how people see it, and the exit code."""

    report: dict[str, Any]
    show: Callable[[Console], None]
    code: int = 0


def run_measure(measure: Callable[[Bench], Result], options: SimpleNamespace, *, load: bool, private: bool) -> int:
    """Run a verb: `load` needs h2load, `private` a network of its own where there may be one. Returns the exit code."""
    if load and (sentence := h2load_missing()):
        return fail(sentence)
    alone = enter_private_network() if private else "none was asked for"
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    console = Console(stderr=True, highlight=False)
    report: dict[str, Any] = {"measured_at": datetime.now(UTC).isoformat(timespec="seconds")}
    try:
        with workspace(getattr(options, "workspace", None)) as directory:
            report |= {"machine": machine_facts(directory), "versions": our_versions()}
            with Progress(*columns, console=console, transient=True) as progress:
                progress.add_task("starting", total=None)
                result = measure(Bench(options, directory, progress, report["machine"], alone))
    except UNMEASURED as problem:
        console.print(f"[red]stockade:[/red] {escape(str(problem))}", soft_wrap=True)
        return EX_UNUSABLE
    report |= result.report
    if options.report:
        options.report.parent.mkdir(parents=True, exist_ok=True)
        options.report.write_text(json.dumps(report, indent=2) + "\n")
    if options.json:
        print_json(report)
    else:
        result.show(terminal)
    return result.code


def table(headings: Sequence[str], rows: Iterable[Sequence[str]], title: str | None = None, **style: Any) -> Table:
    """A table whose first column is text and whose others are figures."""
    made = Table(title=title, title_justify="left", **style)
    for place, heading in enumerate(headings):
        made.add_column(heading, justify="right" if place else "left")
    for row in rows:
        made.add_row(*row)
    return made


def medians(rounds: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """The median of each figure over rounds."""
    return {name: statistics.median(each[name] for each in rounds) for name in rounds[0]}


@dataclass(frozen=True, slots=True)
class Launch:
    """How to start a server. `environment` is added to ours; `attempts` is above 1 where starting fails at times."""

    command: Sequence[str]
    endpoint: Endpoint
    directory: Path
    environment: Mapping[str, str] = field(default_factory=dict)
    start_seconds_max: float = 180.0
    attempts: int = 1


@dataclass(frozen=True, slots=True)
class Running:
    """A server that answers. `reply_bytes` is the size of one reply, a real client's."""

    endpoint: Endpoint
    tree: ProcessTree
    reply_bytes: int


def probe(endpoint: Endpoint, request: bytes) -> bytes:
    """One call with an ordinary gRPC client. Raises grpc.RpcError, or NotAnAnswer when the reply is no prediction."""
    address = f"127.0.0.1:{endpoint.port}"
    options = [("grpc.enable_http_proxy", 0)]
    if endpoint.authority is None:
        channel = grpc.insecure_channel(address, options)
    else:
        channel = grpc.secure_channel(address, grpc.ssl_channel_credentials(endpoint.authority), options)
    with channel:
        call: grpc.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(METHOD)
        reply = call(request, metadata=endpoint.headers, timeout=PROBE_TIMEOUT_S)
    h2load.read_answer(reply)
    return reply


@contextlib.contextmanager
def running(launch: Launch, request: bytes) -> Iterator[Running]:
    """The server, from its first answer to its end. Raises StartFailed."""
    launch.directory.mkdir(parents=True, exist_ok=True)
    log = launch.directory / "output.log"
    for attempt in range(1, launch.attempts + 1):
        with log.open("ab") as output:
            process = subprocess.Popen(  # no shell; the commands are written in targets.py
                launch.command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=os.environ | dict(launch.environment),
                start_new_session=True,
            )
        tree = ProcessTree(process.pid)
        try:
            reply_bytes = _wait_until_it_answers(launch, process, request)
            if reply_bytes is None:
                if attempt < launch.attempts:
                    continue
                tail = log.read_bytes()[-LOG_TAIL_BYTES:].decode(errors="replace").strip()
                raise StartFailed(f"{launch.command[0]} did not answer", tail)
            yield Running(launch.endpoint, tree, reply_bytes)
            return
        finally:
            _stop(process, tree)


def _wait_until_it_answers(launch: Launch, process: subprocess.Popen[bytes], request: bytes) -> int | None:
    """The size of the first reply; None when the process ended or the time is up."""
    give_up = time.monotonic() + launch.start_seconds_max
    while process.poll() is None and time.monotonic() < give_up:
        try:
            return len(probe(launch.endpoint, request))
        except (grpc.RpcError, NotAnAnswer):
            time.sleep(POLL_S)
    return None


def _stop(process: subprocess.Popen[bytes], tree: ProcessTree) -> None:
    tree.living()  # know them all before their parents go
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(TERM_GRACE_S)
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)  # also those of the group that were started and orphaned unseen
    while living := tree.living():
        for pid in living:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        process.poll()
        time.sleep(POLL_S)
    process.wait()


def read_metrics(port: int) -> str:
    """A gateway's page of metrics. It opens a moment after the data port."""
    give_up = time.monotonic() + METRICS_TIMEOUT_S
    while True:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=METRICS_TIMEOUT_S)
        try:
            connection.request("GET", "/metrics")
            return connection.getresponse().read().decode()
        except ConnectionRefusedError:
            if time.monotonic() > give_up:
                raise
            time.sleep(POLL_S)
        finally:
            connection.close()


def parse_handled(page: str) -> Counter[str]:
    """ModelInfer calls by gRPC status, from a page of metrics."""
    counts: Counter[str] = Counter()
    for code, value in _HANDLED.findall(page):
        counts[code] += int(float(value))
    return counts


def handled_by(endpoint: Endpoint) -> Counter[str]:
    """The server's own count of its calls by gRPC status; empty where it keeps none."""
    return parse_handled(read_metrics(endpoint.metrics)) if endpoint.metrics else Counter()


def run_checked(server: Running, command: list[str], seconds_max: float) -> h2load.H2loadReport:
    """Run h2load and believe it only as far as `require_answers` does. Raises NotMeasured, H2loadFailed."""
    before = handled_by(server.endpoint)
    report = h2load.run(command, seconds_max)
    give_up = time.monotonic() + COUNT_LAG_S_MAX
    handled = handled_by(server.endpoint)
    while handled and handled["OK"] - before["OK"] < report.done and time.monotonic() < give_up:
        time.sleep(POLL_S)  # a server counts a call after it has answered it
        handled = handled_by(server.endpoint)
    require_answers(report, server.reply_bytes, {code: total - before[code] for code, total in handled.items()})
    return report


def require_answers(report: h2load.H2loadReport, reply_bytes: int, handled: Mapping[str, int]) -> None:
    """Raise NotMeasured unless every request h2load calls done was a prediction.

    `handled` is the server's own count of what it answered meanwhile, by gRPC status; empty when it keeps none. Calls
    that were in flight when h2load hung up may stand there as OK or CANCELLED.
    """
    lost = report.failed + report.errored + report.timeout
    if lost or report.succeeded != report.done or report.done == 0:
        raise NotMeasured(
            f"{report.done} requests done, {lost} of them failed, {report.succeeded} with HTTP status 200"
        )
    answered = report.data_bytes / (reply_bytes + FRAME_HEADER_BYTES)
    if answered < ANSWERED_MIN * report.done:
        raise NotMeasured(f"{report.done} requests done, but the bytes received are those of {answered:.0f} replies")
    refused = {code: count for code, count in handled.items() if code not in {"OK", "CANCELLED"} and count}
    if refused or (handled and handled.get("OK", 0) < report.done):
        counted = {code: count for code, count in handled.items() if count}
        raise NotMeasured(f"{report.done} requests done, but the server counts {counted}")


def warm_up(load: Load, seconds: float) -> None:
    """Make it busy once, so that what is made on first use exists; answers do not matter yet. Raises H2loadFailed."""
    h2load.run(h2load.closed(load, SHAPES[-1], seconds), seconds)


def settle(server: Running) -> None:
    """Wait until the server has done with what the last run left in its queues, and has gone quiet."""
    give_up = time.monotonic() + SETTLE_S_MAX
    spent_us = server.tree.cpu_us()
    while time.monotonic() < give_up:
        time.sleep(POLL_S)
        spent_us, before_us = server.tree.cpu_us(), spent_us
        if spent_us - before_us < IDLE_CORES_MAX * POLL_S * 1e6:
            return


class Run(NamedTuple):
    """One run of h2load and the CPU time it took meanwhile: of the server, by role, of h2load, of the whole machine."""

    report: h2load.H2loadReport
    latency: h2load.Percentiles
    seconds: float
    server_us: int
    roles_us: Counter[str]
    load_us: int
    machine_us: int


def timed(
    server: Running, load: Load, command: list[str], seconds_max: float, *, settled: bool = False, other: str = "server"
) -> Run:
    """Run h2load on a quiet server. `settled` counts until all is recorded and published, not only answered.

    `other` is the role of processes that are none of a gateway's. Raises NotMeasured, H2loadFailed.
    """

    def spent() -> tuple[int, Counter[str], int, int]:
        roles = server.tree.cpu_us_by_role(other)
        return server.tree.cpu_us(), roles, children_cpu_us(), machine_busy_us()

    load.log.unlink(missing_ok=True)  # h2load appends
    settle(server)
    (server_us, roles_us, load_us, machine_us), began_s = spent(), time.monotonic()
    report = run_checked(server, command, seconds_max)
    if settled:
        settle(server)
    after, took_s = spent(), time.monotonic() - began_s
    with load.log.open() as lines:
        latency = h2load.parse_log(lines)
    roles = Counter({role: after[1][role] - roles_us[role] for role in after[1]})
    return Run(report, latency, took_s, after[0] - server_us, roles, after[2] - load_us, after[3] - machine_us)
