"""One cell of the table: one server, one number of requests in flight, one round.

Rules: first a closed loop, which gives throughput, latency and CPU time; then half of that rate, paced, which gives the
latency people see from a server that is not overloaded. Nothing is counted that is not a prediction: h2load must report
no error, the bytes it received must be those of as many replies, and a server that counts calls by status must agree.
What else the machine did meanwhile stands beside each figure.
"""

from __future__ import annotations

import resource
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from gateway.tools.bench import h2load
from gateway.tools.bench.frame import FRAME_HEADER_BYTES
from gateway.tools.bench.h2load import H2loadReport, InFlight, Load
from gateway.tools.bench.procfs import machine_busy_us
from gateway.tools.bench.running import Running

HALF = 0.5
ANSWERED_MIN = 0.999
"""Of what h2load calls done: its count ends a moment before its byte count does."""

IDLE_CORES_MAX = 0.15
POLL_S = 0.1
SETTLE_S_MAX = 3.0
COUNT_LAG_S_MAX = 2.0


class NotServed(Exception):
    """A run that must not be counted: not everything was answered with a prediction."""


@dataclass(frozen=True, slots=True)
class Cell:
    """What one round gave. `foreign_cores` is the CPU that neither the server nor the load generator used."""

    rps: float
    p50_ms: float
    p99_ms: float
    cpu_us: float
    half_load_rps: float
    half_load_p50_ms: float
    half_load_p99_ms: float
    foreign_cores: float


def warm_up(load: Load, seconds: float, directory: Path) -> None:
    """Make it busy once, so that what is made on first use exists; answers do not matter yet. Raises H2loadFailed."""
    h2load.run(h2load.closed(load, h2load.SHAPES[-1], seconds, directory / "warm-up.log"), seconds)


def measure(server: Running, load: Load, shape: InFlight, seconds: float, directory: Path) -> Cell:
    """Measure one cell. Raises NotServed, H2loadFailed."""
    log = directory / "closed.log"
    log.unlink(missing_ok=True)  # h2load appends
    settle(server)
    busy_us, server_us, load_us = machine_busy_us(), server.tree.cpu_us(), _load_generator_us()
    report = run_checked(server, h2load.closed(load, shape, seconds, log), seconds)
    server_us = server.tree.cpu_us() - server_us
    foreign_us = machine_busy_us() - busy_us - server_us - (_load_generator_us() - load_us)
    latency = _latency(log)
    half_log = directory / "half.log"
    half_log.unlink(missing_ok=True)
    settle(server)
    half = run_checked(server, h2load.paced(load, shape, report.requests_per_s * HALF, seconds, half_log), 4 * seconds)
    half_latency = _latency(half_log)
    return Cell(
        rps=report.requests_per_s,
        p50_ms=latency.p50_ms,
        p99_ms=latency.p99_ms,
        cpu_us=server_us / report.done,
        half_load_rps=half.requests_per_s,
        half_load_p50_ms=half_latency.p50_ms,
        half_load_p99_ms=half_latency.p99_ms,
        foreign_cores=max(0.0, foreign_us / 1e6 / report.seconds),
    )


def run_checked(server: Running, command: list[str], seconds_max: float) -> H2loadReport:
    """Run h2load and believe it only as far as `require_answers` does. Raises NotServed, H2loadFailed."""
    count = server.endpoint.answered or _no_count
    before = count()
    report = h2load.run(command, seconds_max)
    give_up = time.monotonic() + COUNT_LAG_S_MAX
    handled = _since(before, count())
    while handled and handled.get("OK", 0) < report.done and time.monotonic() < give_up:
        time.sleep(POLL_S)  # a server counts a call after it has answered it
        handled = _since(before, count())
    require_answers(report, server.reply_bytes, handled)
    return report


def _since(before: Mapping[str, int], after: Mapping[str, int]) -> dict[str, int]:
    return {code: total - before.get(code, 0) for code, total in after.items()}


def require_answers(report: H2loadReport, reply_bytes: int, handled: Mapping[str, int]) -> None:
    """Raise NotServed unless every request h2load calls done was a prediction.

    `handled` is the server's own count of what it answered meanwhile, by gRPC status; empty when it keeps none. Calls
    that were in flight when h2load hung up may stand there as OK or CANCELLED.
    """
    lost = report.failed + report.errored + report.timeout
    if lost or report.succeeded != report.done or report.done == 0:
        raise NotServed(f"{report.done} requests done, {lost} of them failed, {report.succeeded} with HTTP status 200")
    answered = report.data_bytes / (reply_bytes + FRAME_HEADER_BYTES)
    if answered < ANSWERED_MIN * report.done:
        raise NotServed(f"{report.done} requests done, but the bytes received are those of {answered:.0f} replies")
    refused = {code: count for code, count in handled.items() if code not in {"OK", "CANCELLED"} and count}
    if refused or (handled and handled.get("OK", 0) < report.done):
        counted = {code: count for code, count in handled.items() if count}
        raise NotServed(f"{report.done} requests done, but the server counts {counted}")


def _no_count() -> Mapping[str, int]:
    return {}


def _latency(log: Path) -> h2load.Percentiles:
    with log.open() as lines:
        return h2load.parse_log(lines)


def _load_generator_us() -> int:
    """CPU time of the children that ended: h2load, while no server does."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return round((usage.ru_utime + usage.ru_stime) * 1e6)


def settle(server: Running, clock: Callable[[], float] = time.monotonic) -> None:
    """Wait until the server has done with what the last run left in its queues, and has gone quiet."""
    give_up = clock() + SETTLE_S_MAX
    spent_us = server.tree.cpu_us()
    while clock() < give_up:
        time.sleep(POLL_S)
        spent_us, before_us = server.tree.cpu_us(), spent_us
        if spent_us - before_us < IDLE_CORES_MAX * POLL_S * 1e6:
            return
