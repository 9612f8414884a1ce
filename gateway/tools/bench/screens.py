"""`stockade bench screens`: what all screens together cost a request, and how much of its throughput a gateway keeps.

Two gateways serve the same version of the kiosk's model: one with every screen, the watch and the budget at work, one
with authentication, limits and the log alone. Each question is another image, since a watch is cheap about what was
asked before. The time of the screens is what each record says of itself (its `screen` and `harden` stages): one request
at a time, and of many at once a request's share of its batch; the throughput is that of many at once. Rounds alternate;
medians are reported.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc
import grpc.aio
import numpy as np
from rich.console import Console
from rich.markup import escape
from rich.progress import track
from rich.table import Table

from gateway.config.load import load_config
from gateway.tools.bench.frame import METHOD, image_request
from gateway.tools.bench.gateway_launch import launch_gateway
from gateway.tools.bench.hand_over import hand_over
from gateway.tools.bench.isolation import enter_private_network
from gateway.tools.bench.machine import machine_facts, our_versions
from gateway.tools.bench.running import StartFailed, running
from gateway.tools.bench.targets import MODEL
from gateway.tools.bench.workspace import workspace
from gateway.tools.samples import bundles_directory
from ops.audit.log.checkpoint import parse_vkey
from ops.audit.reader.read import LogReader
from serving.train.errors import DatasetMissing
from serving.train.kiosk.data import load_fashion_mnist

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

IN_FLIGHT = 64
ALONE = 2_000
TOGETHER = 8_000
PUBLISHED_TIMEOUT_S = 10.0
STEPS = [
    {"alpha": 1e-4, "answer": "neighbour"},
    {"alpha": 1e-6, "answer": "top1"},
    {"alpha": 1e-9, "answer": "cool_down"},
]
SETTINGS: Mapping[str, Mapping[str, Any]] = {
    "without": {"screens": {}},
    "with": {
        "screens": {
            "evidence": {"mode": "enforce", "flag": 0.01},
            "trigger": {"mode": "enforce", "flag": 0.01},
        },
        "watch": {"mode": "enforce", "consistent": "enforce", "steps": STEPS},
        "budget": {"mode": "shadow", "queries_per_day": 10_000},  # it would run out; the same is computed in shadow
    },
}


@dataclass(frozen=True, slots=True)
class Round:
    """One gateway, once: requests a second of many at once, and microseconds of each request: of those alone in all and
    for the screens, of those in batches their share of the screens.
    """

    rps: float
    total_us: list[float]
    screen_us: list[float]
    shared_us: list[float]


def run(options: argparse.Namespace) -> int:
    """The verb. Returns 2 when it could not be measured."""
    err = Console(stderr=True, highlight=False)
    enter_private_network()
    try:
        bodies = [image_request(MODEL, image) for image in images()]
        with workspace(options.workspace) as directory:
            facts = {"machine": machine_facts(directory), "versions": our_versions()}
            rounds: dict[str, list[Round]] = {name: [] for name in SETTINGS}
            turns = [(number, name) for number in range(options.rounds) for name in SETTINGS]
            for number, name in track(turns, "gateways", console=err, transient=True):
                rounds[name].append(measured(directory / f"{name}-{number}", options, name, bodies))
    except (StartFailed, DatasetMissing, grpc.RpcError) as problem:
        err.print(f"[red]stockade:[/red] {escape(str(problem))}")
        return 2
    report = summary(rounds) | facts
    hand_over(report, options, lambda out: show(report, out))
    return 0


def images() -> np.ndarray[Any, Any]:
    """Return different images, float32 (10000, 28, 28) in [0, 1], in an order of their own. Raises DatasetMissing."""
    found = load_fashion_mnist().test.images
    return found[np.random.default_rng(0).permutation(len(found))].astype(np.float32) / 255


def measured(directory: Path, options: argparse.Namespace, setting: str, bodies: Sequence[bytes]) -> Round:
    """Start a gateway in this setting, ask it one image at a time and then many, and read what its log says."""

    def change(policy: dict[str, Any]) -> None:
        rules = policy["models"][MODEL]
        rules["serve"] = options.version
        rules |= SETTINGS[setting]

    launch = launch_gateway(
        directory,
        options.bundles or bundles_directory(),
        tls=False,
        protected=True,
        change=change,
        version=options.version,
    )
    with running(launch, bodies[0]):
        target = f"127.0.0.1:{launch.endpoint.port}"
        _, took_us = asyncio.run(load(target, launch.endpoint.headers, bodies[1 : 1 + ALONE], 1))
        screen_us = stages(directory / "gateway" / "stockade.yaml", ALONE)
        together = bodies[1 + ALONE : 1 + ALONE + TOGETHER]
        elapsed_s, _ = asyncio.run(load(target, launch.endpoint.headers, together, IN_FLIGHT))
        shared_us = stages(directory / "gateway" / "stockade.yaml", ALONE + len(together))[-len(together) :]
    return Round(len(together) / elapsed_s, took_us, screen_us[-ALONE:], shared_us)


async def load(
    target: str, headers: Sequence[tuple[str, str]], bodies: Sequence[bytes], in_flight: int
) -> tuple[float, list[float]]:
    """Send each body once, so many at a time. Returns seconds in all, microseconds of each. Raises grpc.RpcError."""
    waiting = iter(bodies)
    took_us: list[float] = []
    async with grpc.aio.insecure_channel(target, options=[("grpc.enable_http_proxy", 0)]) as channel:
        call: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(METHOD)

        async def ask() -> None:
            for body in waiting:
                began_ns = time.perf_counter_ns()
                await call(body, metadata=headers, timeout=60)
                took_us.append((time.perf_counter_ns() - began_ns) / 1000)

        began_s = time.perf_counter()
        await asyncio.gather(*[ask() for _ in range(in_flight)])
        return time.perf_counter() - began_s, took_us


def stages(file: Path, served: int) -> list[float]:
    """Return the microseconds of screening and hardening of each request served, at least so many, as the public log
    has them: of a batch those of all its rows by their number.
    """
    config = load_config(file)
    vkey = parse_vkey(config.audit.vkey.read_text().strip())
    give_up_s = time.monotonic() + PUBLISHED_TIMEOUT_S
    found: list[float] = []
    while len(found) < served and time.monotonic() < give_up_s:
        time.sleep(0.5)
        reader = LogReader.open(config.audit.directory, vkey)
        entries = (json.loads(entry) for entry in reader.entries(0, reader.checkpoint.size))
        done = [entry for entry in entries if entry.get("kind") == "served" and "rows" in entry]
        found = [
            (entry["timings_us"]["screen"] + entry["timings_us"]["harden"]) / entry["batch"]["rows"] for entry in done
        ]
    return found


def summary(rounds: Mapping[str, Sequence[Round]]) -> dict[str, Any]:
    """Return the report: medians over rounds, and the ratio of throughputs."""
    report: dict[str, Any] = {"rounds": len(next(iter(rounds.values())))}
    for name, found in rounds.items():
        report[name] = {
            "rps": statistics.median(each.rps for each in found),
            "p50_ms": statistics.median(float(np.quantile(each.total_us, 0.5)) for each in found) / 1000,
            "screen_p50_us": statistics.median(float(np.quantile(each.screen_us, 0.5)) for each in found),
            "screen_p99_us": statistics.median(float(np.quantile(each.screen_us, 0.99)) for each in found),
            "shared_p50_us": statistics.median(float(np.quantile(each.shared_us, 0.5)) for each in found),
            "shared_p99_us": statistics.median(float(np.quantile(each.shared_us, 0.99)) for each in found),
        }
    report["kept"] = report["with"]["rps"] / report["without"]["rps"]
    return report


def show(report: Mapping[str, Any], out: Console) -> None:
    """Print the report as a table."""
    table = Table(title=f"All screens, kiosk, medians of {report['rounds']} rounds")
    for name in ("", f"requests/s at {IN_FLIGHT}", "p50 alone", "screens alone p50", "p99", "in batches p50", "p99"):
        table.add_column(name, justify="right" if name else "left")
    for name in SETTINGS:
        one = report[name]
        table.add_row(
            f"{name} screens",
            f"{one['rps']:,.0f}",
            f"{one['p50_ms']:.2f} ms",
            f"{one['screen_p50_us']:.0f} us",
            f"{one['screen_p99_us']:.0f} us",
            f"{one['shared_p50_us']:.0f} us",
            f"{one['shared_p99_us']:.0f} us",
        )
    out.print(table)
    out.print(f"throughput kept: {report['kept']:.2f}")
