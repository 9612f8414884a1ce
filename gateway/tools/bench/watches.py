"""What one gateway of ours does under a load of a certain kind: `bench memory`, `bench edge`, `bench screens`.

- `memory`: h2load sends requests in portions, over TLS; after each the resident memory of every process is read. The
  first fifth is warm-up: caches fill, the allocator finds its size. From there on each process, and all of them
  together, must stay within ten percent between their least and their most.
- `edge`: `--profile edge` on one core and within 300 MiB, over TLS. A share of the requests repeats what was asked
  before, as a kiosk does; the others are asked for the first time. The caller is an asyncio client on the other cores.
- `screens`: two gateways serve the same version of the kiosk's model, one with every screen, the watch and the budget
  at work, one with authentication, limits and the log alone. Each question is another image, since a watch is cheap
  about what was asked before. The time of the screens is what each record says of itself (`screen` and `harden`): one
  request at a time, and of many at once a request's share of its batch. Rounds alternate; medians are reported.
"""

from __future__ import annotations

import asyncio
import os
import random
import re
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
from rich.console import Console

from gateway.tools.bench.load import (
    MODEL,
    SHAPES,
    Asked,
    Endpoint,
    ask,
    first_request,
    fixed_count,
    image_request,
    load_of,
    sample_floats,
)
from gateway.tools.bench.machine import MIB, Group, confined, memory_group, peak_memory, role_of
from gateway.tools.bench.runner import (
    Bench,
    NotMeasured,
    Result,
    Running,
    medians,
    read_metrics,
    run_checked,
    running,
    table,
)
from gateway.tools.bench.targets import launch_gateway, log_entries
from gateway.tools.terminal import EX_NO
from serving.train.errors import DatasetMissing
from serving.train.kiosk.data import load_fashion_mnist

PORTION = 10_000
PORTION_SECONDS_MAX = 300.0
WARM_UP_SHARE = 0.2
RANGE_PERCENT_MAX = 10
ALL = "all"
Sample = Mapping[str, int]
"""Resident bytes by process."""

EDGE_LIMIT_MIB = 300
EDGE_IN_FLIGHT = 8
REPEATED_IMAGES = 32
SAMPLE_EVERY_S = 0.25
LOOKUPS_TIMEOUT_S = 10.0
SEED = 1
_LOOKUPS = re.compile(r'^stockade_cache_requests_total\{[^}]*result="(\w+)"[^}]*\} (\S+)', re.MULTILINE)

SCREENS_IN_FLIGHT = 64
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


class Drift(NamedTuple):
    """Where one process's memory went after the warm-up, in bytes."""

    first: int
    last: int
    least: int
    most: int

    @property
    def range(self) -> float:
        """From least to most, as a share of the least."""
        return self.most / self.least - 1

    @property
    def flat(self) -> bool:
        return 100 * (self.most - self.least) <= RANGE_PERCENT_MAX * self.least


def drifts(samples: Sequence[Sample]) -> dict[str, Drift]:
    """Each process's drift, and that of all together, over the samples after the warm-up.

    A process that is not in every sample was restarted or came late: it is left out, and `ALL` shows what it did.
    """
    kept = samples[int(len(samples) * WARM_UP_SHARE) :]
    steady = sorted(set.intersection(*(set(sample) for sample in kept)))
    series = {name: [sample[name] for sample in kept] for name in steady}
    series[ALL] = [sum(sample.values()) for sample in kept]
    return {name: Drift(sizes[0], sizes[-1], min(sizes), max(sizes)) for name, sizes in series.items()}


def memory(bench: Bench) -> Result:
    """The measure `memory`. Its exit code is 1 when memory is not flat."""
    requests = bench.options.requests
    samples = list(_resident(bench, requests))
    found = drifts(samples)
    flat = all(drift.flat for drift in found.values())
    report = {
        "memory_flat": flat,
        "memory_range": round(found[ALL].range, 4),
        "requests": requests,
        "processes": {
            name: {f"{field}_mib": round(size / MIB, 1) for field, size in drift._asdict().items()}
            | {"range": round(drift.range, 4)}
            for name, drift in found.items()
        },
        "samples_mib": [{name: round(size / MIB, 1) for name, size in sample.items()} for sample in samples],
    }

    def show(out: Console) -> None:
        rows = []
        for name, drift in found.items():
            colour = "green" if drift.flat else "red"
            sizes = (f"{size / MIB:,.1f}" for size in drift)
            rows.append((name, *sizes, f"[{colour}]{drift.range:.1%}[/{colour}]"))
        title = f"resident MiB over {requests:,} requests, after the warm-up"
        out.print(table(("process", "first", "last", "least", "most", "range"), rows, title))

    return Result(report, show, 0 if flat else EX_NO)


def _resident(bench: Bench, requests: int) -> Iterator[Sample]:
    """Resident bytes after each portion, by what each process is. Two of a kind are told apart by their numbers."""
    request = first_request()
    with running(launch_gateway(bench.directory, bench.bundles, tls=True), request) as server:
        load = load_of(server.endpoint, request, bench.directory)
        bench.step("requests", 0, requests)
        for sent in range(0, requests, PORTION):
            load.log.unlink(missing_ok=True)
            count = min(PORTION, requests - sent)
            run_checked(server, fixed_count(load, SHAPES[-1], count), PORTION_SECONDS_MAX)
            bench.advance(count)
            sizes = server.tree.rss_bytes()
            yield {f"{role_of(server.tree.command(pid))} {pid}": size for pid, size in sizes.items()}


def edge(bench: Bench) -> Result:
    """The measure `edge`. Its exit code is 1 when it did not stay within the limit."""
    cores = sorted(os.sched_getaffinity(0))
    with memory_group(EDGE_LIMIT_MIB * MIB) as group:
        launch = launch_gateway(bench.directory, bench.bundles, tls=True)
        command = confined([*launch.command, "--profile", "edge"], cores[0], group)
        try:
            with running(replace(launch, command=command), first_request()) as server:
                os.sched_setaffinity(0, cores[1:] or cores)
                report = _edge_figures(server, bench.options, group)
        finally:
            os.sched_setaffinity(0, cores)

    def show(out: Console) -> None:
        limits, pss = report["memory"], report["pss_mib"]
        each = ", ".join(f"{name} {size}" for name, size in pss.items() if name != ALL)
        limit = f"limit {limits['limit_mib']} MiB by a {limits['kept_by']}"
        out.print(f"{report['requests_per_s']:,} requests/s, p50 {report['p50_ms']} ms, p99 {report['p99_ms']} ms")
        hits = f"cache: {report['hit_rate']:.1%} of {report['lookups']}"
        out.print(f"{report['cpu_us_per_request']} us of CPU a request; {hits}")
        limit = limit if limits["kept_by"] else "no limit can be set here"
        out.print(f"PSS {pss[ALL]} MiB at most ({each}); {limit}; {report['outcomes']}")
        out.print("[green]within the limit[/green]" if report["within"] else "[red]above the limit[/red]")

    return Result(report, show, 0 if report["within"] else EX_NO)


def _edge_figures(server: Running, options: SimpleNamespace, group: Group | None) -> dict[str, Any]:
    questions = edge_bodies(options.requests, options.repeat)
    before_us = server.tree.cpu_us()
    with peak_memory(server.tree, SAMPLE_EVERY_S) as peak:
        asked = asyncio.run(ask(server.endpoint, questions, EDGE_IN_FLIGHT))
    spent_us = server.tree.cpu_us() - before_us
    report = edge_summary(asked, _settled_lookups(server.endpoint, options.requests), peak(), spent_us)
    limits: dict[str, Any] = {
        "limit_mib": EDGE_LIMIT_MIB,
        "kept_by": f"control group, version {group.version}" if group else None,
    }
    if group is not None:
        most = group.peak_bytes()
        limits |= {"peak_mib": None if most is None else round(most / MIB, 1), "killed": group.killed()}
    asked_as = {"requests": options.requests, "repeat": options.repeat, "in_flight": EDGE_IN_FLIGHT, "seed": SEED}
    within = report["pss_mib"][ALL] <= EDGE_LIMIT_MIB and not limits.get("killed")
    return {"within": within, "asked": asked_as, **report, "memory": limits}


def edge_bodies(requests: int, repeat: float) -> list[bytes]:
    """The requests: a share of them from a few that repeat, the others each for the first time."""
    images = sample_floats()
    rng = random.Random(SEED)  # noqa: S311  which request comes when
    often = [image_request(image) for image in images[:REPEATED_IMAGES]]
    made = []
    for number in range(requests):
        if rng.random() < repeat:
            made.append(rng.choice(often))
        else:
            image = images[REPEATED_IMAGES + number % (len(images) - REPEATED_IMAGES)].copy()
            image[0, 0] = number / (256 * requests)  # one of its own, and hardly another picture
            made.append(image_request(image))
    return made


def _settled_lookups(endpoint: Endpoint, requests: int) -> Counter[str]:
    """Hits and misses, once the page has all of them: it is written once a second."""
    give_up = time.monotonic() + LOOKUPS_TIMEOUT_S
    while True:
        found = lookups_in(read_metrics(endpoint.metrics or 0))
        if found.total() >= requests or time.monotonic() > give_up:
            return found
        time.sleep(SAMPLE_EVERY_S)


def lookups_in(page: str) -> Counter[str]:
    """Hits and misses of the response cache, from a page of metrics."""
    found: Counter[str] = Counter()
    for result, count in _LOOKUPS.findall(page):
        found[result] += int(float(count))
    return found


def edge_summary(asked: Asked, lookups: Counter[str], pss: Mapping[str, int], spent_us: int) -> dict[str, Any]:
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


def screens(bench: Bench) -> Result:
    """The measure `screens`."""
    options = bench.options
    try:
        images = load_fashion_mnist().test.images  # (10000, 28, 28) uint8
    except DatasetMissing as problem:
        raise NotMeasured(str(problem)) from None
    order = np.random.default_rng(0).permutation(len(images))
    bodies = [image_request(image.astype(np.float32) / 255) for image in images[order]]
    rounds: dict[str, list[dict[str, float]]] = {name: [] for name in SETTINGS}
    bench.step("gateways", 0, options.rounds * len(SETTINGS))
    for number in range(options.rounds):
        for name, found in rounds.items():
            found.append(_screens_round(bench, bench.directory / f"{name}-{number}", name, bodies))
            bench.advance(1)
    report: dict[str, Any] = {"rounds": options.rounds} | {name: medians(found) for name, found in rounds.items()}
    report["kept"] = report["with"]["rps"] / report["without"]["rps"]

    def show(out: Console) -> None:
        headings = ("", f"requests/s at {SCREENS_IN_FLIGHT}", "p50 alone", "screens alone p50", "p99", "in batches p50")
        rows = []
        for name in SETTINGS:
            rps, p50_ms, *times_us = report[name].values()
            rows.append((f"{name} screens", f"{rps:,.0f}", f"{p50_ms:.2f} ms", *(f"{us:.0f} us" for us in times_us)))
        out.print(table((*headings, "p99"), rows, f"All screens, kiosk, medians of {report['rounds']} rounds"))
        out.print(f"throughput kept: {report['kept']:.2f}")

    return Result(report, show)


def _screens_round(bench: Bench, directory: Path, setting: str, bodies: Sequence[bytes]) -> dict[str, float]:
    """Start a gateway in this setting, ask it one image at a time and then many, and read what its log says."""
    version = bench.options.version

    def change(policy: dict[str, Any]) -> None:
        policy["models"][MODEL] |= {"serve": version, **SETTINGS[setting]}

    launch = launch_gateway(directory, bench.bundles, change=change, version=version)
    home = directory / "gateway"
    together = bodies[1 + ALONE : 1 + ALONE + TOGETHER]
    with running(launch, bodies[0]):
        alone = _asked(launch.endpoint, bodies[1 : 1 + ALONE], 1)
        screen_us = _screening_us(home, ALONE)[-ALONE:]
        many = _asked(launch.endpoint, together, SCREENS_IN_FLIGHT)
        shared_us = _screening_us(home, ALONE + len(together))[-len(together) :]
    return screens_summary(len(together) / many.seconds, alone.taken_ms, screen_us, shared_us)


def _asked(endpoint: Endpoint, bodies: Sequence[bytes], in_flight: int) -> Asked:
    """Ask all, each of which must be answered. Raises NotMeasured."""
    asked = asyncio.run(ask(endpoint, bodies, in_flight))
    if asked.outcomes["OK"] < len(bodies):
        raise NotMeasured(f"not every request was answered: {dict(asked.outcomes)}")
    return asked


def screens_summary(
    rps: float, total_ms: Sequence[float], screen_us: Sequence[float], shared_us: Sequence[float]
) -> dict[str, float]:
    """The figures of one round: of each request alone its time and that of its screens, of many its share of them."""
    quantiles = {
        f"{name}_{end}_us": float(np.quantile(each, share))
        for name, each in (("screen", screen_us), ("shared", shared_us))
        for end, share in (("p50", 0.5), ("p99", 0.99))
    }
    return {"rps": rps, "p50_ms": float(np.quantile(total_ms, 0.5)), **quantiles}


def _screening_us(home: Path, served: int) -> list[float]:
    """Return the microseconds of screening and hardening of each request served, at least so many, as the public log
    has them: of a batch those of all its rows by their number.
    """
    give_up_s = time.monotonic() + PUBLISHED_TIMEOUT_S
    found: list[float] = []
    while len(found) < served and time.monotonic() < give_up_s:
        time.sleep(0.5)
        done = [entry for entry in log_entries(home) if entry["kind"] == "served" and "rows" in entry]
        found = [
            (entry["timings_us"]["screen"] + entry["timings_us"]["harden"]) / entry["batch"]["rows"] for entry in done
        ]
    return found
