"""`stockade bench serve`: our gateway and what people use today, same machine, same request, one run.

Method: every round starts every target afresh and measures it at 1, 32 and 256 requests in flight; the order turns
round with each round, so that a slow minute of the machine is shared. Medians over rounds. Where the Ray engine is
measured, replicas are killed and updated under load afterwards (gateway/tools/bench/phases.py).
docs/reference/benchmarks.md has the reasons and the settings of each peer.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from gateway.tools.bench import h2load, peers, phases
from gateway.tools.bench.frame import framed, image_request
from gateway.tools.bench.h2load import SHAPES, H2loadFailed, Load
from gateway.tools.bench.hand_over import hand_over
from gateway.tools.bench.isolation import enter_private_network
from gateway.tools.bench.machine import machine_facts, our_versions
from gateway.tools.bench.measure import Cell, NotServed, measure, warm_up
from gateway.tools.bench.phases import PHASES, Phase, PhaseFailed, measure_phases
from gateway.tools.bench.report import RATIOS, as_json, as_table
from gateway.tools.bench.running import StartFailed, probe, running
from gateway.tools.bench.targets import MODEL, TARGETS, Place
from gateway.tools.bench.workspace import first_image, workspace
from gateway.tools.samples import bundles_directory

Step = Callable[[str, int], None]
"""What is happening now, and how many cells were finished by it."""

IN_FLIGHT = tuple(shape.total for shape in SHAPES)
OVER_RAY = "ray_engine"
EX_FAILED = 1
EX_UNUSABLE = 2


@dataclass(frozen=True, slots=True)
class Plan:
    """What is measured, and for how long each time."""

    targets: tuple[str, ...]
    rounds: int
    seconds: float
    warm_up_s: float
    directory: Path
    bundles: Path
    peers: Path
    no_private_network: str | None

    def place(self, turn: int, name: str) -> Place:
        """A fresh directory for one start of one target. Short: sockets lie far below it (see workspace.py)."""
        directory = self.directory / f"{turn}.{self.targets.index(name)}"
        directory.mkdir()
        return Place(directory, self.bundles, self.peers, self.no_private_network)


@dataclass(frozen=True, slots=True)
class Sent:
    """The request: its message, and the file that h2load sends."""

    request: bytes
    body: Path


@dataclass(frozen=True, slots=True)
class Results:
    """What came of it: rounds by target and requests in flight; failures; why a target was skipped; what broke."""

    cells: dict[str, dict[int, list[Cell]]] = field(default_factory=dict)
    phases: dict[str, Phase] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)


def run(options: argparse.Namespace) -> int:
    """The verb. Returns 0; 1 when a target failed; 2 when nothing can be measured."""
    err = Console(stderr=True, highlight=False)
    if problem := _unusable(options):
        err.print(f"[red]stockade:[/red] {escape(problem)}")
        return EX_UNUSABLE
    no_private_network = enter_private_network()
    started = datetime.now(UTC)
    with workspace(options.workspace) as directory:
        plan = Plan(
            targets=tuple(options.targets or TARGETS),
            rounds=1 if options.quick else options.rounds,
            seconds=2.0 if options.quick else options.seconds,
            warm_up_s=1.0 if options.quick else 2.0,
            directory=directory,
            bundles=options.bundles or bundles_directory(),
            peers=options.peers,
            no_private_network=no_private_network,
        )
        machine = machine_facts(directory)
        results = _with_progress(plan, err)
    report = _report(plan, results, {"measured_at": started.isoformat(timespec="seconds"), "machine": machine})
    hand_over(report, options, lambda out: _show(results, report, out))
    return EX_FAILED if results.failed else 0


def _unusable(options: argparse.Namespace) -> str | None:
    if unknown := sorted(set(options.targets or ()) - set(TARGETS)):
        return f"no target is called {', '.join(unknown)}; there are {', '.join(TARGETS)}"
    return h2load.missing()


def _with_progress(plan: Plan, err: Console) -> Results:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=err, transient=True) as progress:
        total = plan.rounds * len(plan.targets) * len(SHAPES) + len(PHASES) * (OVER_RAY in plan.targets)
        task = progress.add_task("starting", total=total)

        def step(text: str, cells: int) -> None:
            progress.update(task, description=text, advance=cells)

        results = measure_all(plan, step)
        if OVER_RAY in results.cells and OVER_RAY not in results.failed:
            measure_failures(plan, results, step)
        return results


def measure_all(plan: Plan, step: Step) -> Results:
    """Run the plan. A target that is missing is skipped, one that breaks is not tried again; the others go on."""
    sent = Sent(image_request(MODEL, first_image()), plan.directory / "body")
    sent.body.write_bytes(framed(sent.request))
    results = Results()
    for turn in range(plan.rounds):
        for name in plan.targets if turn % 2 == 0 else reversed(plan.targets):
            if name in results.skipped or name in results.failed:
                step(name, len(SHAPES))
                continue
            place = plan.place(turn, name)
            if sentence := TARGETS[name].missing(place):
                results.skipped[name] = sentence
                step(name, len(SHAPES))
                continue
            try:
                for in_flight, cell in _cells(plan, place, name, sent, step):
                    results.cells.setdefault(name, {}).setdefault(in_flight, []).append(cell)
            except StartFailed as problem:
                results.failed[name] = f"{problem}: {problem.log_tail}"
            except (NotServed, H2loadFailed) as problem:
                results.failed[name] = str(problem)
    return results


def measure_failures(plan: Plan, results: Results, step: Step) -> None:
    """Kill replicas and change the model under load, once, after all rounds; `results` gets what came of it."""
    directory = plan.directory / "f"
    directory.mkdir()
    request = image_request(MODEL, first_image())
    try:
        results.phases.update(measure_phases(directory, plan.bundles, request, step))
    except StartFailed as problem:
        results.failed[OVER_RAY] = f"{problem}: {problem.log_tail}"
    except PhaseFailed as problem:
        results.failed[OVER_RAY] = str(problem)


def _cells(plan: Plan, place: Place, name: str, sent: Sent, step: Step) -> Iterator[tuple[int, Cell]]:
    """Start one target and measure it at every number of requests in flight."""
    target = TARGETS[name]
    step(f"{target.title}: starting", 0)
    with running(target.launch(place), sent.request) as server:
        load = Load(server.endpoint.url, sent.body, server.endpoint.headers)
        step(f"{target.title}: warming up", 0)
        warm_up(load, plan.warm_up_s, place.directory)
        for shape in SHAPES:
            step(f"{target.title}: {shape.total} in flight", 0)
            yield shape.total, measure(server, load, shape, plan.seconds, place.directory)
            step(target.title, 1)
        probe(server.endpoint, sent.request)  # it still predicts


def _report(plan: Plan, results: Results, facts: dict[str, Any]) -> dict[str, Any]:
    measured = [TARGETS[name] for name in results.cells]
    environments = sorted({target.peer for target in measured if target.peer})
    facts |= {
        "method": {
            "rounds": plan.rounds,
            "seconds": plan.seconds,
            "warm_up_s": plan.warm_up_s,
            "in_flight": {str(shape.total): f"{shape.connections} connections x {shape.streams}" for shape in SHAPES},
            "private_network": plan.no_private_network is None,
        },
        "versions": our_versions() | {name: peers.versions(plan.peers, name) for name in environments},
        "setup": {name: TARGETS[name].setup for name in results.cells},
        "skipped": results.skipped,
        "failed": results.failed,
    }
    return as_json(results.cells, IN_FLIGHT, facts | phases.as_json(results.phases))


def _show(results: Results, report: dict[str, Any], out: Console) -> None:
    out.print(as_table(results.cells, IN_FLIGHT, {name: target.title for name, target in TARGETS.items()}))
    most = str(max(IN_FLIGHT))
    for ratio in RATIOS:
        if (value := report[ratio][most]) is not None:
            out.print(f"{ratio} at {most} in flight: {value:.2f}")
    for name, phase in results.phases.items():
        errors = ", ".join(f"{count} {problem}" for problem, count in phase.errors.items()) or "none"
        out.print(f"{name}: client errors of {phase.requests:,} requests: {escape(errors)}")
    for name, sentence in results.skipped.items():
        out.print(f"[yellow]skipped[/yellow] {TARGETS[name].title}: {escape(sentence)}")
    for name, sentence in results.failed.items():
        out.print(f"[red]failed[/red] {TARGETS[name].title}: {escape(sentence)}")
