"""`stockade bench units`: what one request, one second and one tenant cost. docs/explanation/scaling.md reckons with
these.

Counted is CPU time, by process and by stage, not time on the clock: on a machine with other work it is the steadier
figure. Medians over rounds. What each part does:

- `processes`: CPU microseconds a request of worker and recorder, and the rows of a batch, by requests in flight and by
  workers; bytes of log a request.
- `seconds`: CPU milliseconds a second of each process at rest, and when every second has something to publish.
- `stages`: CPU microseconds a request inside a worker (gateway/tools/bench/stages.py).
- `principals`: memory and loading time by the number of principals (gateway/tools/bench/tenants.py).
- `ray`: the same as `processes` where the model runs in a replica on a Ray cluster (gateway/tools/bench/ray_units.py);
  null without Ray.
- `ledger`: CPU microseconds a request of a Redis that keeps shared limits (gateway/tools/bench/ledger.py); null without
  one.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from gateway.tools.bench import h2load
from gateway.tools.bench.disk import log_bytes
from gateway.tools.bench.frame import framed, image_request
from gateway.tools.bench.gateway_launch import CLIENT, launch_gateway, read_metrics
from gateway.tools.bench.h2load import SHAPES, H2loadFailed, InFlight, Load
from gateway.tools.bench.hand_over import hand_over
from gateway.tools.bench.isolation import enter_private_network
from gateway.tools.bench.machine import machine_facts, our_versions
from gateway.tools.bench.measure import NotServed, run_checked, settle, warm_up
from gateway.tools.bench.memory import role_of
from gateway.tools.bench.procfs import machine_busy_us
from gateway.tools.bench.ray_launch import ray_missing
from gateway.tools.bench.ray_units import ROLES, measure_on_ray
from gateway.tools.bench.running import Running, StartFailed, running
from gateway.tools.bench.stages import measure_stages
from gateway.tools.bench.targets import MODEL
from gateway.tools.bench.tenants import measure_principals
from gateway.tools.bench.workspace import first_image, workspace
from gateway.tools.samples import bundles_directory

BATCHES = (1, 8, 64)
LEDGER_SECONDS_MAX = 300
LOG_RECORDS = 2000
LOG_SECONDS_MAX = 60.0
BUNDLE_RECORDS = 256
TRICKLE_RPS = 20.0


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


class Share(NamedTuple):
    """What a run of requests took: CPU microseconds a request by role. `foreign_cores` is what others used."""

    requests: int
    requests_per_s: float
    worker_us: float
    recorder_us: float
    supervisor_us: float
    batch_rows: float
    p50_ms: float
    foreign_cores: float


def run(options: argparse.Namespace) -> int:
    """The verb. Returns 0, or 2 when it could not be measured."""
    err = Console(stderr=True, highlight=False)
    if sentence := h2load.missing():
        err.print(f"[red]stockade:[/red] {escape(sentence)}")
        return 2
    enter_private_network()
    effort = QUICK if options.quick else Effort(options.rounds, options.seconds)
    report: dict[str, Any] = {"measured_at": datetime.now(UTC).isoformat(timespec="seconds")}
    with workspace(options.workspace) as directory:
        report |= {"machine": machine_facts(directory), "versions": our_versions(), "effort": effort._asdict()}
        try:
            for name, part in _parts(options, effort, directory):
                err.print(f"measured {name}")
                report[name] = part
        except (StartFailed, NotServed, H2loadFailed) as problem:
            err.print(f"[red]stockade:[/red] {escape(str(problem))}")
            return 2
    hand_over(report, options, lambda out: _show(report, out))
    return 0


def _parts(options: argparse.Namespace, effort: Effort, directory: Path) -> Iterator[tuple[str, Any]]:
    """Every part of the report, by name."""
    bundles = options.bundles or bundles_directory()
    request = image_request(MODEL, first_image())
    body = directory / "body"
    body.write_bytes(framed(request))
    processes: dict[str, Any] = {}
    for workers in effort.workers:
        launch = launch_gateway(directory / str(workers), bundles, tls=options.tls, protected=True)
        home = launch.directory / "gateway"
        _set_workers(home / "stockade.yaml", workers)
        with running(launch, request) as server:
            load = Load(server.endpoint.url, body, server.endpoint.headers)
            warm_up(load, effort.warm_up_s, directory)
            by_shape = {
                str(shape.total): _median(
                    [_share(server, load, shape, effort.seconds, home) for _ in range(effort.rounds)]
                )
                for shape in SHAPES
            }
            processes[str(workers)] = {name: share._asdict() for name, share in by_shape.items()}
            if workers > 1:
                continue
            yield "log", _log_share(server, load, home)
            yield (
                "seconds",
                {
                    "at_rest": _at_rest(server, effort.rest_s),
                    "trickle": _trickle(server, load, effort.rest_s, directory),
                },
            )
            key = (home / "clients" / f"{CLIENT}.key").read_text().strip()
            stages = measure_stages(home, request, key, BATCHES, requests=effort.stage_requests, rounds=effort.rounds)
            yield "stages", {str(size): found for size, found in stages.items()}
    yield "processes", processes
    yield "ray", _on_ray(directory, bundles, request, body, effort)
    yield "ledger", _ledger(directory, effort.ledger_requests)
    yield "principals", [measure_principals(home, count) for count in effort.principals]


def _on_ray(directory: Path, bundles: Path, request: bytes, body: Path, effort: Effort) -> dict[str, Any] | None:
    """What it costs on a cluster, where Ray is installed."""
    if ray_missing() is not None:
        return None
    return measure_on_ray(
        directory / "ray",
        bundles,
        request,
        body,
        rounds=effort.rounds,
        seconds=effort.seconds,
        rest_s=effort.rest_s,
        batches=_batches,
    )


def _set_workers(path: Path, workers: int) -> None:
    config: dict[str, Any] = yaml.safe_load(path.read_text())
    config["workers"] = workers
    path.write_text(yaml.safe_dump(config, sort_keys=False))


def _by_role(server: Running) -> dict[str, int]:
    """CPU microseconds so far; workers added up."""
    spent: dict[str, int] = {"worker": 0, "recorder": 0, "supervisor": 0}
    for pid, stat in server.tree.living().items():
        spent[role_of(server.tree.command(pid))] += stat.cpu_us
    return spent


def _since(before: Mapping[str, int], after: Mapping[str, int]) -> dict[str, int]:
    return {role: after[role] - before[role] for role in before}


def _share(server: Running, load: Load, shape: InFlight, seconds: float, home: Path) -> Share:
    """Measure one run in a closed loop."""
    log = home.parent / "units.log"
    log.unlink(missing_ok=True)  # h2load appends
    settle(server)
    rows, batches = _batches(home)
    before, busy_us, began_s = _by_role(server), machine_busy_us(), time.monotonic()
    report = run_checked(server, h2load.closed(load, shape, seconds, log), seconds)
    settle(server)  # what was asked for is answered, recorded and published
    spent, busy_us, took_s = _since(before, _by_role(server)), machine_busy_us() - busy_us, time.monotonic() - began_s
    rows_after, batches_after = _batches(home)
    with log.open() as lines:
        latency = h2load.parse_log(lines)
    return Share(
        requests=report.done,
        requests_per_s=report.requests_per_s,
        worker_us=spent["worker"] / report.done,
        recorder_us=spent["recorder"] / report.done,
        supervisor_us=spent["supervisor"] / report.done,
        batch_rows=(rows_after - rows) / max(1.0, batches_after - batches),
        p50_ms=latency.p50_ms,
        foreign_cores=max(0.0, (busy_us - sum(spent.values())) / 1e6 / took_s),
    )


def _median(rounds: Sequence[Share]) -> Share:
    return Share(*(statistics.median(each) for each in zip(*rounds, strict=True)))


def _batches(home: Path) -> tuple[float, float]:
    """Rows and batches so far, from the gateway's own metrics."""
    rows = batches = 0.0
    for line in _page(home).splitlines():
        if line.startswith("stockade_batch_rows_sum"):
            rows += float(line.rpartition(" ")[2])
        elif line.startswith("stockade_batch_rows_count"):
            batches += float(line.rpartition(" ")[2])
    return rows, batches


def _page(home: Path) -> str:
    config: dict[str, Any] = yaml.safe_load((home / "stockade.yaml").read_text())
    return read_metrics(int(config["listen"]["metrics"].rpartition(":")[2]))


def _log_share(server: Running, load: Load, home: Path) -> dict[str, float]:
    """Bytes of the log a record, by what they are, and files: of whole tiles, as it is in the long run."""
    run_checked(server, h2load.fixed_count(load, SHAPES[-1], LOG_RECORDS, home.parent / "log.log"), LOG_SECONDS_MAX)
    settle(server)
    found = log_bytes(home / "log")
    records = found["bundles"] * BUNDLE_RECORDS
    return {"records": records} | {kind: count / records for kind, count in found.items() if kind != "bundles"}


def _at_rest(server: Running, seconds: float) -> dict[str, float]:
    """CPU milliseconds a second by role, while nobody calls."""
    settle(server)
    before, began_s = _by_role(server), time.monotonic()
    time.sleep(seconds)
    spent, took_s = _since(before, _by_role(server)), time.monotonic() - began_s
    return {role: us / 1000 / took_s for role, us in spent.items()}


def _trickle(server: Running, load: Load, seconds: float, directory: Path) -> dict[str, float]:
    """The same while TRICKLE_RPS requests a second come, so that every second has something to publish."""
    settle(server)
    before, began_s = _by_role(server), time.monotonic()
    command = h2load.paced(load, InFlight(1, 1), TRICKLE_RPS, seconds, directory / "trickle.log")
    run_checked(server, command, 4 * seconds)
    spent, took_s = _since(before, _by_role(server)), time.monotonic() - began_s
    return {"requests_per_s": TRICKLE_RPS} | {role: us / 1000 / took_s for role, us in spent.items()}


def _ledger(directory: Path, requests: int) -> Any:
    """What shared limits cost, where Redis and redis-py are installed."""
    if shutil.which("redis-server") is None or find_spec("redis") is None:
        return None
    arguments = [str(directory), str(requests), *map(str, BATCHES)]
    command = [sys.executable, "-m", "gateway.tools.bench.ledger", *arguments]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, timeout=LEDGER_SECONDS_MAX)
    return json.loads(done.stdout)


def _show(report: Mapping[str, Any], out: Console) -> None:
    shares = Table("workers", "in flight", "req/s", "worker us", "recorder us", "rows a batch", "others' cores")
    for workers, by_shape in report["processes"].items():
        for in_flight, share in by_shape.items():
            figures = (share["worker_us"], share["recorder_us"], share["batch_rows"], share["foreign_cores"])
            shares.add_row(workers, in_flight, f"{share['requests_per_s']:,.0f}", *(f"{each:.1f}" for each in figures))
    out.print(shares)
    if report["ray"] is not None:
        _show_ray(report["ray"]["in_flight"], report["processes"]["1"], out)
    stages = Table("rows a batch", *next(iter(report["stages"].values())))
    for size, found in report["stages"].items():
        stages.add_row(size, *(f"{each:.1f}" for each in found.values()))
    out.print(stages)
    for name in ("log", "seconds", "principals", "ledger"):
        out.print(f"{name}: {json.dumps(report[name])}")


def _show_ray(on_ray: Mapping[str, Any], in_process: Mapping[str, Any], out: Console) -> None:
    table = Table("on Ray, in flight", "req/s", *(f"{role} us" for role in ROLES), "rows a batch", "x in process")
    for in_flight, share in on_ray.items():
        spent = [share[f"{role}_us"] for role in ROLES]
        alone = sum(in_process[in_flight][f"{role}_us"] for role in ("worker", "recorder", "supervisor"))
        figures = (*(f"{each:.0f}" for each in spent), f"{share['batch_rows']:.1f}", f"{sum(spent) / alone:.1f}")
        table.add_row(in_flight, f"{share['requests_per_s']:,.0f}", *figures)
    out.print(table)
