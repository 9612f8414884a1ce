"""`stockade bench edge`: a protected gateway under `--profile edge`, on one core and within 300 MiB, over TLS.

A share of the requests repeats what was asked before, as a kiosk does; the others are asked for the first time. The
caller is an ordinary asyncio client on the other cores. Reported are requests/s, latency as the caller sees it, CPU
time, proportional memory (PSS) of every process while it works, and how often the response cache had the answer.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import re
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import grpc
import numpy as np
from rich.console import Console
from rich.markup import escape
from safetensors.numpy import load_file

from gateway.tools.bench.confine import Group, confined, memory_group
from gateway.tools.bench.frame import METHOD, image_request
from gateway.tools.bench.gateway_launch import launch_gateway, read_metrics
from gateway.tools.bench.hand_over import hand_over
from gateway.tools.bench.machine import machine_facts, our_versions
from gateway.tools.bench.memory import MIB, role_of
from gateway.tools.bench.procfs import ProcessTree
from gateway.tools.bench.running import Endpoint, Launch, Running, StartFailed, running
from gateway.tools.bench.targets import MODEL
from gateway.tools.bench.workspace import first_image, workspace
from gateway.tools.samples import bundles_directory, sample_images

LIMIT_MIB = 300
IN_FLIGHT = 8
REPEATED_IMAGES = 32
SAMPLE_EVERY_S = 0.25
TIMEOUT_S = 30.0
SETTLE_S = 10.0
SEED = 1
_LOOKUPS = re.compile(
    r'^stockade_cache_requests_total\{[^}]*result="(?P<result>\w+)"[^}]*\} (?P<count>\S+)', re.MULTILINE
)


class Asked(NamedTuple):
    """What the caller saw: seconds in all, milliseconds of each answer, and how many calls ended with which status."""

    seconds: float
    taken_ms: Sequence[float]
    outcomes: Counter[str]


def run(options: argparse.Namespace) -> int:
    """The verb. Returns 0 when it stayed within the limit, 1 when it did not, 2 when it could not be measured."""
    err = Console(stderr=True, highlight=False)
    cores = sorted(os.sched_getaffinity(0))
    with workspace(options.workspace) as directory, memory_group(LIMIT_MIB * MIB) as group:
        launch = launch_gateway(directory, options.bundles or bundles_directory(), tls=True, protected=True)
        command = confined([*launch.command, "--profile", "edge"], cores[0], group)
        try:
            with running(replace(launch, command=command), image_request(MODEL, first_image())) as server:
                os.sched_setaffinity(0, cores[1:] or cores)
                report = measure(server, launch, options, group)
        except (StartFailed, grpc.RpcError) as problem:
            err.print(f"[red]stockade:[/red] {escape(str(problem))}")
            return 2
        finally:
            os.sched_setaffinity(0, cores)
        report |= {"machine": machine_facts(directory), "versions": our_versions()}
    hand_over(report, options, lambda out: show(report, out))
    return 0 if report["within"] else 1


def measure(server: Running, launch: Launch, options: argparse.Namespace, group: Group | None) -> dict[str, Any]:
    """Ask, and return the report."""
    pages = launch.directory / "gateway" / "stockade.yaml"
    asked_for = bodies(options.requests, options.repeat)
    before_us = server.tree.cpu_us()
    asked, pss = asyncio.run(ask(server.endpoint, asked_for, server.tree))
    spent_us = server.tree.cpu_us() - before_us
    lookups = settled_lookups(_metrics_port(pages), options.requests)
    report = summary(asked, lookups, pss, spent_us)
    limits: dict[str, Any] = {
        "limit_mib": LIMIT_MIB,
        "kept_by": f"control group, version {group.version}" if group else None,
    }
    if group is not None:
        peak = group.peak_bytes()
        limits |= {"peak_mib": None if peak is None else round(peak / MIB, 1), "killed": group.killed()}
    asked_as = {"requests": options.requests, "repeat": options.repeat, "in_flight": IN_FLIGHT, "seed": SEED}
    within = report["pss_mib"]["all"] <= LIMIT_MIB and not limits.get("killed")
    return {"within": within, "asked": asked_as, **report, "memory": limits}


def settled_lookups(metrics_port: int, requests: int) -> Counter[str]:
    """Hits and misses, once the page has all of them: it is written once a second."""
    give_up = time.monotonic() + SETTLE_S
    while True:
        found = lookups_in(read_metrics(metrics_port))
        if found.total() >= requests or time.monotonic() > give_up:
            return found
        time.sleep(SAMPLE_EVERY_S)


def bodies(requests: int, repeat: float) -> list[bytes]:
    """The requests: a share of them from a few that repeat, the others each for the first time."""
    images = load_file(sample_images())["images"].reshape(-1, 28, 28).astype(np.float32) / np.float32(255)
    rng = random.Random(SEED)  # noqa: S311  which request comes when
    often = [image_request(MODEL, image) for image in images[:REPEATED_IMAGES]]
    made = []
    for number in range(requests):
        if rng.random() < repeat:
            made.append(rng.choice(often))
        else:
            image = images[REPEATED_IMAGES + number % (len(images) - REPEATED_IMAGES)].copy()
            image[0, 0] = number / (256 * requests)  # one of its own, and hardly another picture
            made.append(image_request(MODEL, image))
    return made


async def ask(endpoint: Endpoint, asked_for: Sequence[bytes], tree: ProcessTree) -> tuple[Asked, dict[str, int]]:
    """Ask all, IN_FLIGHT at a time. Returns what came back, and the most memory each process had meanwhile."""
    most: dict[str, int] = {}
    waiting = iter(asked_for)
    taken_ms: list[float] = []
    outcomes: Counter[str] = Counter()
    credentials = grpc.ssl_channel_credentials(endpoint.authority)
    async with grpc.aio.secure_channel(f"127.0.0.1:{endpoint.port}", credentials) as channel:
        call: Any = channel.unary_unary(METHOD)

        async def one_after_the_other() -> None:
            for body in waiting:
                began = time.perf_counter()
                try:
                    await call(body, metadata=endpoint.headers, timeout=TIMEOUT_S)
                except grpc.aio.AioRpcError as problem:
                    outcomes[problem.code().name] += 1
                else:
                    outcomes["OK"] += 1
                    taken_ms.append((time.perf_counter() - began) * 1000)

        async def watch() -> None:
            while True:
                sample = await asyncio.to_thread(tree.pss_bytes)
                by_role = Counter({role_of(tree.command(pid)): size for pid, size in sample.items()})
                if sum(by_role.values()) > most.get("all", 0):
                    most.update(by_role, all=sum(by_role.values()))
                await asyncio.sleep(SAMPLE_EVERY_S)

        watching = asyncio.create_task(watch())
        began = time.perf_counter()
        await asyncio.gather(*(one_after_the_other() for _ in range(IN_FLIGHT)))
        seconds = time.perf_counter() - began
        watching.cancel()
    return Asked(seconds, taken_ms, outcomes), most


def lookups_in(page: str) -> Counter[str]:
    """Hits and misses of the response cache, from a page of metrics."""
    found: Counter[str] = Counter()
    for match in _LOOKUPS.finditer(page):
        found[match["result"]] += int(float(match["count"]))
    return found


def summary(asked: Asked, lookups: Counter[str], pss: dict[str, int], spent_us: int) -> dict[str, Any]:
    """Return the figures of the report. Pure."""
    count = sum(asked.outcomes.values())
    p50, p99 = np.percentile(np.asarray(asked.taken_ms or [np.nan]), (50, 99))
    return {
        "requests_per_s": round(count / asked.seconds, 1),
        "p50_ms": round(float(p50), 2),
        "p99_ms": round(float(p99), 2),
        "cpu_us_per_request": round(spent_us / count, 1),
        "hit_rate": round(lookups["hit"] / max(1, lookups.total()), 4),
        "lookups": dict(lookups),
        "outcomes": dict(asked.outcomes),
        "pss_mib": {name: round(size / MIB, 1) for name, size in pss.items()},
    }


def show(report: dict[str, Any], out: Console) -> None:
    """Print the figures for people."""
    memory, pss = report["memory"], report["pss_mib"]
    each = ", ".join(f"{name} {size}" for name, size in pss.items() if name != "all")
    kept = (
        f"limit {memory['limit_mib']} MiB by a {memory['kept_by']}" if memory["kept_by"] else "no limit can be set here"
    )
    out.print(f"{report['requests_per_s']:,} requests/s, p50 {report['p50_ms']} ms, p99 {report['p99_ms']} ms")
    out.print(
        f"{report['cpu_us_per_request']} us of CPU a request; cache: {report['hit_rate']:.1%} of {report['lookups']}"
    )
    out.print(f"PSS {pss['all']} MiB at most ({each}); {kept}; {report['outcomes']}")
    out.print("[green]within the limit[/green]" if report["within"] else "[red]above the limit[/red]")


def _metrics_port(config: Path) -> int:
    """The port of the metrics page, from stockade.yaml."""
    match = re.search(r"^ *metrics: \S*:(\d+)", config.read_text(), re.MULTILINE)
    assert match is not None, "the launch has written one"
    return int(match[1])
