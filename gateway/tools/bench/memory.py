"""`stockade bench memory`: does a protected gateway's memory stay where it is, over half a million requests?

h2load sends them in portions, over TLS, each answered and checked; after each portion the resident memory of every
process of the gateway is read. The first fifth is warm-up: caches fill, the allocator finds its size. From there on
each process, and all of them together, must stay within ten percent between their least and their most.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from gateway.tools.bench import h2load
from gateway.tools.bench.frame import framed, image_request
from gateway.tools.bench.h2load import SHAPES, H2loadFailed, Load
from gateway.tools.bench.hand_over import hand_over
from gateway.tools.bench.isolation import enter_private_network
from gateway.tools.bench.machine import machine_facts, our_versions
from gateway.tools.bench.measure import NotServed, run_checked
from gateway.tools.bench.procfs import ProcessTree
from gateway.tools.bench.running import StartFailed, running
from gateway.tools.bench.targets import MODEL, TARGETS, Place
from gateway.tools.bench.workspace import first_image, workspace
from gateway.tools.samples import bundles_directory

PORTION = 10_000
PORTION_SECONDS_MAX = 300.0
WARM_UP_SHARE = 0.2
RANGE_PERCENT_MAX = 10
MIB = 1 << 20
ALL = "all"

Sample = Mapping[str, int]
"""Resident bytes by process."""


@dataclass(frozen=True, slots=True)
class Drift:
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


def run(options: argparse.Namespace) -> int:
    """The verb. Returns 0 when memory is flat, 1 when it is not, 2 when it could not be measured."""
    err = Console(stderr=True, highlight=False)
    if sentence := h2load.missing():
        err.print(f"[red]stockade:[/red] {escape(sentence)}")
        return 2
    enter_private_network()
    with workspace(options.workspace) as directory:
        facts = {"machine": machine_facts(directory), "versions": our_versions()}
        try:
            samples = list(_sample(options.requests, options.bundles or bundles_directory(), directory, err))
        except (StartFailed, NotServed, H2loadFailed) as problem:
            err.print(f"[red]stockade:[/red] {escape(str(problem))}")
            return 2
    found = drifts(samples)
    report = _report(options.requests, samples, found) | facts
    hand_over(report, options, lambda out: _show(found, options.requests, out))
    return 0 if report["memory_flat"] else 1


def _sample(requests: int, bundles: Path, directory: Path, err: Console) -> Iterator[Sample]:
    """One sample after each portion."""
    request = image_request(MODEL, first_image())
    body = directory / "body"
    body.write_bytes(framed(request))
    place = Place(directory, bundles, directory, None)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with (
        running(TARGETS["protected_tls"].launch(place), request) as server,
        Progress(*columns, console=err, transient=True) as progress,
    ):
        load = Load(server.endpoint.url, body, server.endpoint.headers)
        task = progress.add_task("requests", total=requests)
        log = directory / "portion.log"
        for sent in range(0, requests, PORTION):
            log.unlink(missing_ok=True)
            count = min(PORTION, requests - sent)
            run_checked(server, h2load.fixed_count(load, SHAPES[-1], count, log), PORTION_SECONDS_MAX)
            progress.advance(task, count)
            yield _by_role(server.tree)


def _by_role(tree: ProcessTree) -> Sample:
    """Resident bytes, by what each process is. Two of a kind are told apart by their numbers."""
    return {f"{role_of(tree.command(pid))} {pid}": size for pid, size in tree.rss_bytes().items()}


def role_of(command: str) -> str:
    """What a process of a gateway is, by its command line."""
    if "recorder_main" in command:
        return "recorder"
    return "worker" if "gateway.host.worker" in command else "supervisor"


def _report(requests: int, samples: Sequence[Sample], found: Mapping[str, Drift]) -> dict[str, Any]:
    return {
        "memory_flat": all(drift.flat for drift in found.values()),
        "memory_range": round(found[ALL].range, 4),
        "requests": requests,
        "processes": {
            name: {
                "first_mib": round(drift.first / MIB, 1),
                "last_mib": round(drift.last / MIB, 1),
                "least_mib": round(drift.least / MIB, 1),
                "most_mib": round(drift.most / MIB, 1),
                "range": round(drift.range, 4),
            }
            for name, drift in found.items()
        },
        "samples_mib": [{name: round(size / MIB, 1) for name, size in sample.items()} for sample in samples],
    }


def _show(found: Mapping[str, Drift], requests: int, out: Console) -> None:
    table = Table(title=f"resident MiB over {requests:,} requests, after the warm-up", title_justify="left")
    for heading in ("process", "first", "last", "least", "most", "range"):
        table.add_column(heading, justify="left" if heading == "process" else "right")
    for name, drift in found.items():
        sizes = (f"{size / MIB:,.1f}" for size in (drift.first, drift.last, drift.least, drift.most))
        colour = "green" if drift.flat else "red"
        table.add_row(name, *sizes, f"[{colour}]{drift.range:.1%}[/{colour}]")
    out.print(table)
