"""What a request costs where models run on a Ray cluster: CPU time by process. A part of `stockade bench units`.

One gateway with one worker, one replica, a cluster of one node, all on this machine. `cluster` is what of Ray is
neither bridge nor replica: the raylet, the store of its head (GCS), Serve's controller, agents.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from gateway.tools.bench import h2load
from gateway.tools.bench.h2load import SHAPES, InFlight, Load
from gateway.tools.bench.measure import run_checked, settle, warm_up
from gateway.tools.bench.memory import role_of
from gateway.tools.bench.procfs import machine_busy_us
from gateway.tools.bench.ray_launch import launch_ray
from gateway.tools.bench.running import Running, StartFailed, running

START_SECONDS_MAX = 400.0  # on a busy machine; what was measured before it is lost otherwise
DIRECTORY_BYTES_MAX = 40  # a socket's path has 107 bytes, and Ray puts 66 behind: /r/session_.../sockets/...
WORKSPACE_BYTES_MAX = 24
ROLES = ("worker", "bridge", "replica", "cluster", "recorder", "supervisor")

Batches = Callable[[Path], tuple[float, float]]
"""The rows and batches that a gateway in this directory has counted."""


def role_on_ray(command: str) -> str:
    """Return which of `ROLES` a process has, by its command line."""
    if "serving.engines.ray.bridge" in command:
        return "bridge"
    if command.startswith("ray::ServeReplica:"):
        return "replica"
    ours = any(name in command for name in ("gateway.host.worker", "recorder_main", "gateway serve"))
    return role_of(command) if ours else "cluster"


def measure_on_ray(
    directory: Path,
    bundles: Path,
    request: bytes,
    body: Path,
    *,
    rounds: int,
    seconds: float,
    rest_s: float,
    batches: Batches,
) -> dict[str, Any]:
    """Return CPU microseconds a request by role and requests in flight, and CPU milliseconds a second at rest.

    Raises StartFailed, NotServed, H2loadFailed.
    """
    if len(os.fsencode(directory)) > DIRECTORY_BYTES_MAX:
        advice = f"take a --workspace of {WORKSPACE_BYTES_MAX} bytes at most"
        raise StartFailed(f"{directory} is too long a path for the sockets of Ray; {advice}", "")
    launch = replace(launch_ray(directory, bundles), start_seconds_max=START_SECONDS_MAX)
    home = launch.directory / "gateway"

    def each_round(server: Running, load: Load, shape: InFlight) -> dict[str, float]:
        rows, count = batches(home)
        found = _share(server, h2load.closed(load, shape, seconds, log), seconds)
        rows_after, count_after = batches(home)
        return found | {"batch_rows": (rows_after - rows) / max(1.0, count_after - count)}

    log = directory / "ray.log"
    with running(launch, request) as server:
        load = Load(server.endpoint.url, body, server.endpoint.headers)
        warm_up(load, seconds, directory)
        found = {
            str(shape.total): _median([each_round(server, load, shape) for _ in range(rounds)]) for shape in SHAPES
        }
        return {"in_flight": found, "at_rest_ms": _at_rest(server, rest_s)}


def _spent_us(server: Running) -> dict[str, int]:
    spent = dict.fromkeys(ROLES, 0)
    for pid, stat in server.tree.living().items():
        spent[role_on_ray(server.tree.command(pid))] += stat.cpu_us
    return spent


def _share(server: Running, command: list[str], seconds: float) -> dict[str, float]:
    """Run h2load and share out what was spent meanwhile among its requests."""
    settle(server)
    before, busy_us, began_s = _spent_us(server), machine_busy_us(), time.monotonic()
    report = run_checked(server, command, seconds)
    settle(server)  # what was asked for is answered, recorded and published
    after, took_s = _spent_us(server), time.monotonic() - began_s
    spent = {role: after[role] - before[role] for role in ROLES}
    return {
        "requests": report.done,
        "requests_per_s": report.requests_per_s,
        **{f"{role}_us": spent[role] / report.done for role in ROLES},
        "foreign_cores": max(0.0, (machine_busy_us() - busy_us - sum(spent.values())) / 1e6 / took_s),
    }


def _median(rounds: list[dict[str, float]]) -> dict[str, float]:
    return {name: statistics.median(each[name] for each in rounds) for name in rounds[0]}


def _at_rest(server: Running, seconds: float) -> Mapping[str, float]:
    """CPU milliseconds a second by role, while nobody calls."""
    settle(server)
    before, began_s = _spent_us(server), time.monotonic()
    time.sleep(seconds)
    after, took_s = _spent_us(server), time.monotonic() - began_s
    return {role: (after[role] - before[role]) / 1000 / took_s for role in ROLES}
