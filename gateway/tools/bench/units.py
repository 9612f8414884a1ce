"""`stockade bench units`: what one request, one second and one tenant cost. docs/explanation/scaling.md reckons with
these.

Counted is CPU time, by process and by stage, not time on the clock: on a machine with other work it is the steadier
figure. Medians over rounds. The parts:

- `processes`: CPU microseconds a request of worker and recorder, and the rows of a batch, by requests in flight and by
  workers; `log`: bytes of log a request.
- `seconds`: CPU milliseconds a second of each process at rest, and when every second has something to publish.
- `ray`: the same as `processes` with one worker, where the model runs in one replica on a Ray cluster of one node, all
  on this machine; null without Ray. `cluster` is what of Ray is neither bridge nor replica: the raylet, the store of
  its head (GCS), Serve's controller, agents.
- `stages`, `principals`, `ledger` (null without Redis): costs.py.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console

from gateway.tools.bench.costs import measure_ledger, measure_principals, measure_stages
from gateway.tools.bench.load import SHAPES, InFlight, Load, closed, first_request, fixed_count, load_of, paced
from gateway.tools.bench.runner import (
    Bench,
    Launch,
    Result,
    Running,
    StartFailed,
    medians,
    read_metrics,
    run_checked,
    running,
    settle,
    table,
    timed,
    warm_up,
)
from gateway.tools.bench.targets import CLIENT, launch_gateway, launch_ray, ray_missing

BATCHES = (1, 8, 64)
LOG_RECORDS = 2000
LOG_SECONDS_MAX = 60.0
BUNDLE_RECORDS = 256
TRICKLE_RPS = 20.0
OUR_ROLES = ("worker", "recorder", "supervisor")
RAY_ROLES = ("worker", "bridge", "replica", "cluster", "recorder", "supervisor")
RAY_START_SECONDS_MAX = 400.0  # on a busy machine; what was measured before it is lost otherwise
RAY_DIRECTORY_BYTES_MAX = 40  # a socket's path has 107 bytes, and Ray puts 66 behind: /r/session_.../sockets/...
WORKSPACE_BYTES_MAX = 24


class Effort(NamedTuple):
    """How much is measured."""

    rounds: int
    seconds: float
    rest_s: float = 10.0
    warm_up_s: float = 2.0
    stage_requests: int = 4000
    ledger_requests: int = 20_000
    principals: tuple[int, ...] = (1_000, 10_000, 50_000)
    workers: tuple[int, ...] = (1, 2)


QUICK = Effort(
    1, 0.5, rest_s=1.0, warm_up_s=0.5, stage_requests=400, ledger_requests=2000, principals=(1_000,), workers=(1,)
)


class Site(NamedTuple):
    """A server under measurement: its directory, what is sent to it, and the roles of its processes."""

    server: Running
    home: Path
    load: Load
    roles: tuple[str, ...]

    @property
    def other(self) -> str:
        """The role of processes that are none of a gateway's."""
        return "cluster" if "cluster" in self.roles else "supervisor"

    def spent_us(self) -> Counter[str]:
        return self.server.tree.cpu_us_by_role(self.other)


def units(bench: Bench) -> Result:
    """The measure."""
    effort = QUICK if bench.options.quick else Effort(bench.options.rounds, bench.options.seconds)
    report = {"effort": effort._asdict(), **bench.parts(_parts(bench, effort))}
    return Result(report, lambda out: _show(report, out))


def _parts(bench: Bench, effort: Effort) -> Iterator[tuple[str, Any]]:
    """Every part of the report, by name."""
    directory = bench.directory
    processes: dict[str, Any] = {}
    for workers in effort.workers:
        launch = launch_gateway(
            directory / str(workers),
            bench.bundles,
            tls=bench.options.tls,
            configure=lambda config, workers=workers: config.update(workers=workers),  # type: ignore[misc]
        )
        home = launch.directory / "gateway"
        request = first_request()
        with running(launch, request) as server:
            site = _site(server, launch, OUR_ROLES)
            warm_up(site.load, effort.warm_up_s)
            processes[str(workers)] = _by_shape(site, effort)
            if workers > 1:
                continue
            yield "log", _log_share(site)
            yield "seconds", {"at_rest": _at_rest(site, effort.rest_s), "trickle": _trickle(site, effort.rest_s)}
            key = (home / "clients" / f"{CLIENT}.key").read_text().strip()
            sizes = {"requests": effort.stage_requests, "rounds": effort.rounds}
            yield "stages", asyncio.run(measure_stages(home, request, key, BATCHES, **sizes))
    yield "processes", processes
    yield "ray", None if ray_missing() else measure_on_ray(directory / "ray", bench.bundles, effort)
    redis = shutil.which("redis-server") and find_spec("redis")
    yield "ledger", measure_ledger(directory, BATCHES, requests=effort.ledger_requests) if redis else None
    yield "principals", [measure_principals(home, count) for count in effort.principals]


def measure_on_ray(directory: Path, bundles: Path, effort: Effort) -> dict[str, Any]:
    """Return CPU microseconds a request by role and requests in flight, and CPU milliseconds a second at rest.

    Raises StartFailed, NotMeasured, H2loadFailed.
    """
    if len(os.fsencode(directory)) > RAY_DIRECTORY_BYTES_MAX:
        advice = f"take a --workspace of {WORKSPACE_BYTES_MAX} bytes at most"
        raise StartFailed(f"{directory} is too long a path for the sockets of Ray; {advice}", "")
    launch = replace(launch_ray(directory, bundles), start_seconds_max=RAY_START_SECONDS_MAX)
    with running(launch, first_request()) as server:
        site = _site(server, launch, RAY_ROLES)
        warm_up(site.load, effort.seconds)
        return {"in_flight": _by_shape(site, effort), "at_rest_ms": _at_rest(site, effort.rest_s)}


def _site(server: Running, launch: Launch, roles: tuple[str, ...]) -> Site:
    load = load_of(server.endpoint, first_request(), launch.directory)
    return Site(server, launch.directory / "gateway", load, roles)


def _by_shape(site: Site, effort: Effort) -> dict[str, dict[str, float]]:
    return {
        str(shape.total): medians([_share(site, shape, effort.seconds) for _ in range(effort.rounds)])
        for shape in SHAPES
    }


def _share(site: Site, shape: InFlight, seconds: float) -> dict[str, float]:
    """One run in a closed loop: CPU microseconds a request by role. `foreign_cores` includes h2load."""
    server = site.server
    rows, batches = _batches(server)
    run = timed(server, site.load, closed(site.load, shape, seconds), seconds, settled=True, other=site.other)
    rows_after, batches_after = _batches(server)
    return {
        "requests": run.report.done,
        "requests_per_s": run.report.requests_per_s,
        **{f"{role}_us": run.roles_us[role] / run.report.done for role in site.roles},
        "batch_rows": (rows_after - rows) / max(1.0, batches_after - batches),
        "p50_ms": run.latency.p50_ms,
        "foreign_cores": max(0.0, (run.machine_us - run.roles_us.total()) / 1e6 / run.seconds),
    }


def _batches(server: Running) -> tuple[float, float]:
    """Rows and batches so far, from the gateway's own metrics."""
    totals = {"stockade_batch_rows_sum": 0.0, "stockade_batch_rows_count": 0.0}
    for line in read_metrics(server.endpoint.metrics or 0).splitlines():
        for name in totals:
            if line.startswith(name):
                totals[name] += float(line.rpartition(" ")[2])
    rows, batches = totals.values()
    return rows, batches


def _log_share(site: Site) -> dict[str, float]:
    """Bytes of the log a record, by what they are, and files: of whole tiles, as it is in the long run."""
    run_checked(site.server, fixed_count(site.load, SHAPES[-1], LOG_RECORDS), LOG_SECONDS_MAX)
    settle(site.server)
    found = log_bytes(site.home / "log")
    records = found["bundles"] * BUNDLE_RECORDS
    return {"records": records} | {kind: count / records for kind, count in found.items() if kind != "bundles"}


def log_bytes(directory: Path) -> dict[str, int]:
    """Bytes of entries, hash tiles and payloads of a public log, whole tiles only; how many files and entry bundles.

    Narrower copies of a tile (`.p/`) go when the tile is full, so they are no part of what a request costs.
    """
    found = {"entries_bytes": 0, "tiles_bytes": 0, "payloads_bytes": 0, "files": 0, "bundles": 0}
    for path in directory.rglob("*"):
        parts = path.relative_to(directory).parts
        if parts[0] not in {"blobs", "tile"} or any(part.endswith(".p") for part in parts) or not path.is_file():
            continue
        entries = parts[:2] == ("tile", "entries")
        kind = "payloads_bytes" if parts[0] == "blobs" else "entries_bytes" if entries else "tiles_bytes"
        found[kind] += path.stat().st_size
        found["files"] += 1
        found["bundles"] += entries
    return found


def _at_rest(site: Site, seconds: float) -> dict[str, float]:
    """CPU milliseconds a second by role, while nobody calls."""
    settle(site.server)
    before, began_s = site.spent_us(), time.monotonic()
    time.sleep(seconds)
    return _ms_a_second(site, before, time.monotonic() - began_s)


def _trickle(site: Site, seconds: float) -> dict[str, float]:
    """The same while TRICKLE_RPS requests a second come, so that every second has something to publish."""
    settle(site.server)
    before, began_s = site.spent_us(), time.monotonic()
    run_checked(site.server, paced(site.load, InFlight(1, 1), TRICKLE_RPS, seconds), 4 * seconds)
    return {"requests_per_s": TRICKLE_RPS} | _ms_a_second(site, before, time.monotonic() - began_s)


def _ms_a_second(site: Site, before: Mapping[str, int], seconds: float) -> dict[str, float]:
    after = site.spent_us()
    return {role: (after[role] - before[role]) / 1000 / seconds for role in site.roles}


def _show(report: Mapping[str, Any], out: Console) -> None:
    names = ("worker_us", "recorder_us", "batch_rows", "foreign_cores")
    rows = [
        (workers, in_flight, f"{share['requests_per_s']:,.0f}", *(f"{share[name]:.1f}" for name in names))
        for workers, by_shape in report["processes"].items()
        for in_flight, share in by_shape.items()
    ]
    headings = ("workers", "in flight", "req/s", "worker us", "recorder us", "rows a batch", "others' cores")
    out.print(table(headings, rows))
    if report["ray"] is not None:
        rows = []
        for in_flight, share in report["ray"]["in_flight"].items():
            spent = [share[f"{role}_us"] for role in RAY_ROLES]
            alone = sum(report["processes"]["1"][in_flight][f"{role}_us"] for role in OUR_ROLES)
            figures = (*(f"{each:.0f}" for each in spent), f"{share['batch_rows']:.1f}", f"{sum(spent) / alone:.1f}")
            rows.append((in_flight, f"{share['requests_per_s']:,.0f}", *figures))
        roles = (f"{role} us" for role in RAY_ROLES)
        out.print(table(("on Ray, in flight", "req/s", *roles, "rows a batch", "x in process"), rows))
    stages = report["stages"]
    rows = [(size, *(f"{each:.1f}" for each in found.values())) for size, found in stages.items()]
    out.print(table(("rows a batch", *next(iter(stages.values()))), rows))
    for name in ("log", "seconds", "principals", "ledger"):
        out.print(f"{name}: {json.dumps(report[name])}")
