"""nghttp2's h2load as the load generator: its command line, its report, its log of every request.

Rules:
- `closed` keeps a fixed number of requests in flight (throughput); `paced` sends at a fixed rate (latency under load).
- h2load sees the HTTP status, which is 200 also when gRPC refuses. Only what carried a reply counts: a refusal has no
  DATA frame, so `answered` is the DATA bytes divided by the size of a reply that a real client got and read.
- Latency percentiles come from the log of single requests; h2load itself prints only the mean and the extremes.
- Parsing is pure; `run` is the only function that starts something, and it ends what it started.
"""

from __future__ import annotations

import math
import re
import shutil
import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

PACED_RPS_PER_CONNECTION_MAX = 100
"""Above this h2load sends several requests per tick of its 10 ms timer, and would measure its own bursts."""

EXIT_GRACE_S = 30.0


class H2loadFailed(Exception):
    """h2load could not be run, or its report could not be read. `output` is what it printed."""

    def __init__(self, problem: str, output: str = "") -> None:
        super().__init__(problem)
        self.output = output


@dataclass(frozen=True, slots=True)
class InFlight:
    """Requests in flight, as connections times streams on each."""

    connections: int
    streams: int

    @property
    def total(self) -> int:
        return self.connections * self.streams


SHAPES = (InFlight(1, 1), InFlight(4, 8), InFlight(8, 32))
"""1, 32 and 256: one caller; a few services; several services with many calls each on one channel, as gRPC is used."""


@dataclass(frozen=True, slots=True)
class Load:
    """What is sent, and where. `body` is a file with the framed message."""

    url: str
    body: Path
    headers: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class H2loadReport:
    """What h2load printed. Seconds and requests/s cover the measured part; bytes are DATA frames received."""

    seconds: float
    requests_per_s: float
    done: int
    succeeded: int
    failed: int
    errored: int
    timeout: int
    data_bytes: int


@dataclass(frozen=True, slots=True)
class Percentiles:
    """Milliseconds from the request's first byte to the reply's last."""

    count: int
    p50_ms: float
    p99_ms: float


def closed(load: Load, shape: InFlight, seconds: float, log: Path) -> list[str]:
    """The command that keeps `shape` requests in flight for `seconds`."""
    return _command(load, log, "-c", shape.connections, "-m", shape.streams, "-D", f"{round(seconds * 1000)}ms")


def paced(load: Load, shape: InFlight, rate_rps: float, seconds: float, log: Path) -> list[str]:
    """The command that sends `rate_rps` requests a second for about `seconds`.

    As many connections as keep each below PACED_RPS_PER_CONNECTION_MAX, at least those of `shape`, opened one after
    the other over one period, so that their ticks are spread and the arrivals even. A connection that falls behind
    never has more than its share of `shape` in flight.
    """
    connections = max(shape.connections, math.ceil(rate_rps / PACED_RPS_PER_CONNECTION_MAX))
    streams = max(1, math.ceil(shape.total / connections))
    per_connection = rate_rps / connections
    gap_ms = max(1, int(1000 / per_connection / connections))
    count = max(connections, round(rate_rps * seconds))
    pace = ("--rps", f"{per_connection:.3f}", "-r", "1", f"--rate-period={gap_ms}ms")
    return _command(load, log, "-c", connections, "-m", streams, "-n", count, *pace)


def fixed_count(load: Load, shape: InFlight, count: int, log: Path) -> list[str]:
    """The command that sends exactly `count` requests, `shape` at a time."""
    return _command(load, log, "-c", shape.connections, "-m", shape.streams, "-n", count)


def _command(load: Load, log: Path, *options: object) -> list[str]:
    headers = (("content-type", "application/grpc"), ("te", "trailers"), *load.headers)
    named = [argument for name, value in headers for argument in ("-H", f"{name}: {value}")]
    return ["h2load", *map(str, options), "-d", str(load.body), f"--log-file={log}", *named, load.url]


def missing() -> str | None:
    """How to install h2load, or None when it is there."""
    return None if shutil.which("h2load") else "h2load is not installed: apt-get install nghttp2-client"


def h2load_version() -> str:
    """Such as `h2load nghttp2/1.64.0`."""
    return subprocess.run(["h2load", "--version"], check=True, capture_output=True, text=True).stdout.strip()  # noqa: S607  as above


def run(command: Sequence[str], seconds_max: float) -> H2loadReport:
    """Run h2load to its end. Raises H2loadFailed, also when it takes much longer than `seconds_max`."""
    try:
        done = subprocess.run(  # no shell, arguments made above
            command, check=False, capture_output=True, text=True, timeout=seconds_max + EXIT_GRACE_S
        )
    except subprocess.TimeoutExpired as expired:
        output = (expired.stdout or b"").decode(errors="replace")
        raise H2loadFailed(f"h2load had not finished after {seconds_max + EXIT_GRACE_S:.0f} s", output) from None
    if done.returncode != 0:
        raise H2loadFailed(f"h2load ended with {done.returncode}", done.stdout + done.stderr)
    return parse_report(done.stdout)


_FINISHED = re.compile(r"^finished in (?P<time>[0-9.]+)(?P<unit>us|ms|s|m|h), (?P<rps>[0-9.]+) req/s", re.MULTILINE)
_REQUESTS = re.compile(
    r"^requests: \d+ total, \d+ started, (?P<done>\d+) done, (?P<succeeded>\d+) succeeded, "
    r"(?P<failed>\d+) failed, (?P<errored>\d+) errored, (?P<timeout>\d+) timeout",
    re.MULTILINE,
)
_TRAFFIC = re.compile(r"^traffic: .*, [^,(]+\((?P<data>\d+)\) data$", re.MULTILINE)
_UNIT_S = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}


def parse_report(output: str) -> H2loadReport:
    """Read what h2load prints at its end. Raises H2loadFailed when a line is missing or means something else."""
    finished, requests, traffic = (pattern.search(output) for pattern in (_FINISHED, _REQUESTS, _TRAFFIC))
    if finished is None or requests is None or traffic is None:
        raise H2loadFailed("h2load printed no report that can be read", output)
    try:
        seconds = float(finished["time"]) * _UNIT_S[finished["unit"]]
        requests_per_s = float(finished["rps"])
    except ValueError:
        raise H2loadFailed("h2load printed no report that can be read", output) from None
    return H2loadReport(
        seconds=seconds,
        requests_per_s=requests_per_s,
        done=int(requests["done"]),
        succeeded=int(requests["succeeded"]),
        failed=int(requests["failed"]),
        errored=int(requests["errored"]),
        timeout=int(requests["timeout"]),
        data_bytes=int(traffic["data"]),
    )


def parse_log(lines: Iterable[str]) -> Percentiles:
    """Read the log: start (microseconds since the epoch), HTTP status, microseconds taken, separated by tabs.

    Only requests with status 200 count. Raises H2loadFailed when a line has another form or none succeeded.
    """
    taken_us = []
    for line in lines:
        fields = line.rstrip("\n").split("\t")
        try:
            _start, status, taken = (int(field) for field in fields[:3])
        except ValueError:
            raise H2loadFailed("h2load's log has a line of another form", line) from None
        if status == 200:
            taken_us.append(taken)
    if not taken_us:
        raise H2loadFailed("h2load's log holds no successful request")
    p50, p99 = np.percentile(np.asarray(taken_us, dtype=np.float64), (50, 99))
    return Percentiles(len(taken_us), float(p50) / 1000, float(p99) / 1000)
