"""`stockade bench serve`: our gateway and what people use today, same machine, same request, one run.

Rules:
- Every round starts every target afresh and measures it at 1, 32 and 256 requests in flight. The order turns round with
  each round, so that a slow minute of the machine is shared.
- A cell is a closed loop, which gives throughput, latency and CPU time; then half of that rate, paced, which gives the
  latency people see from a server that is not overloaded. What else the machine did meanwhile stands beside it.
- A figure is the median of its rounds, and its spread stands in `details`; a ratio is the quotient of two medians, so
  that it can be checked from the report; what was not measured is null and named under `skipped` or `failed`.
- Where the Ray engine is measured, replicas are killed and updated under load afterwards (phases.py).

docs/reference/benchmarks.md has the reasons and the settings of each peer.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from gateway.tools.bench import peers, phases
from gateway.tools.bench.load import SHAPES, H2loadFailed, InFlight, Load, closed, first_request, load_of, paced
from gateway.tools.bench.machine import our_versions
from gateway.tools.bench.phases import PHASES, Phase, Step, measure_phases
from gateway.tools.bench.runner import Bench, NotMeasured, Result, Running, probe, running, table, timed, warm_up
from gateway.tools.bench.targets import TARGETS, Place
from gateway.tools.terminal import EX_NO

HALF = 0.5
IN_FLIGHT = tuple(shape.total for shape in SHAPES)
FEWEST, MOST = min(IN_FLIGHT), max(IN_FLIGHT)
OVER_RAY = "ray_engine"
FIGURES: Mapping[str, tuple[str, str, int | None]] = {
    **{f"{name}_rps": (name, "rps", None) for name in TARGETS},
    "protected_cpu_us": ("protected", "cpu_us", None),
    "p50_ms_1": ("protected", "p50_ms", 1),
    "p50_ms_1_tls": ("protected_tls", "p50_ms", 1),
    "p50_ms_1_ray_engine": ("ray_engine", "p50_ms", 1),
    "p50_ms_1_ray_model": ("ray_model", "p50_ms", 1),
    "p99_ms_half_load": ("protected", "half_load_p99_ms", None),
    "p99_ms_half_load_tls": ("protected_tls", "half_load_p99_ms", None),
}
"""Name in the report: target, figure of its cells, requests in flight (None: by each of them)."""
RATIOS: Mapping[str, tuple[str, str]] = {
    "protected_over_ray": ("protected", "ray_proxy"),
    "protected_tls_over_ray": ("protected_tls", "ray_proxy"),
    "ray_engine_over_ray": ("ray_engine", "ray_proxy"),
    "ray_engine_over_ray_model": ("ray_engine", "ray_model"),
    "protected_over_ray_haproxy": ("protected", "ray_haproxy"),
    "protected_tls_over_ray_haproxy": ("protected_tls", "ray_haproxy"),
    "protected_over_mlserver": ("protected", "mlserver"),
    "protected_tls_over_mlserver": ("protected_tls", "mlserver"),
    "protected_over_triton": ("protected", "triton"),
    "protected_tls_over_triton": ("protected_tls", "triton"),
    "protected_over_echo": ("protected", "echo"),
    "on_over_off": ("protected", "unprotected"),
    "tls_over_plaintext": ("protected_tls", "protected"),
}
"""Name in the report: throughput of the first over throughput of the second."""


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


Cells = Mapping[str, Mapping[int, Sequence[Cell]]]
"""Rounds, by target and requests in flight."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What is measured, and for how long each time."""

    targets: tuple[str, ...]
    rounds: int
    seconds: float
    warm_up_s: float
    root: Place

    def place(self, turn: int, name: str) -> Place:
        """A fresh directory for one start of one target. Short: sockets lie far below it (machine.py)."""
        directory = self.root.directory / f"{turn}.{self.targets.index(name)}"
        directory.mkdir()
        return replace(self.root, directory=directory)


@dataclass(frozen=True, slots=True)
class Results:
    """What came of it: rounds by target and requests in flight; failures; why a target was skipped; what broke."""

    cells: dict[str, dict[int, list[Cell]]] = field(default_factory=dict)
    phases: dict[str, Phase] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)


def serve(bench: Bench) -> Result:
    """The measure. Its exit code is 1 when a target failed."""
    options = bench.options
    plan = Plan(
        targets=tuple(options.targets or TARGETS),
        rounds=1 if options.quick else options.rounds,
        seconds=2.0 if options.quick else options.seconds,
        warm_up_s=1.0 if options.quick else 2.0,
        root=Place(bench.directory, bench.bundles, options.peers or peers.default_root(), bench.alone),
    )
    bench.step("starting", 0, plan.rounds * len(plan.targets) * len(SHAPES) + len(PHASES) * (OVER_RAY in plan.targets))

    def step(text: str, cells: int) -> None:
        bench.step(text)
        bench.advance(cells)

    results = measure_all(plan, step)
    if OVER_RAY in results.cells and OVER_RAY not in results.failed:
        _measure_failures(plan, results, step)
    report = as_json(results.cells, _facts(plan, results))
    return Result(report, lambda out: _show(results, report, out), EX_NO if results.failed else 0)


def measure_all(plan: Plan, step: Step) -> Results:
    """Run the plan. A target that is missing is skipped, one that breaks is not tried again; the others go on."""
    request = first_request()
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
                for in_flight, cell in _cells(plan, place, name, request, step):
                    results.cells.setdefault(name, {}).setdefault(in_flight, []).append(cell)
            except (NotMeasured, H2loadFailed) as problem:
                results.failed[name] = str(problem)
    return results


def _measure_failures(plan: Plan, results: Results, step: Step) -> None:
    """Kill replicas and change the model under load, once, after all rounds; `results` gets what came of it."""
    try:
        results.phases.update(measure_phases(plan.root.directory / "f", plan.root.bundles, first_request(), step))
    except NotMeasured as problem:
        results.failed[OVER_RAY] = str(problem)


def _cells(plan: Plan, place: Place, name: str, request: bytes, step: Step) -> Iterator[tuple[int, Cell]]:
    """Start one target and measure it at every number of requests in flight."""
    target = TARGETS[name]
    step(f"{target.title}: starting", 0)
    with running(target.launch(place), request) as server:
        load = load_of(server.endpoint, request, place.directory)
        step(f"{target.title}: warming up", 0)
        warm_up(load, plan.warm_up_s)
        for shape in SHAPES:
            step(f"{target.title}: {shape.total} in flight", 0)
            yield shape.total, measure(server, load, shape, plan.seconds)
            step(target.title, 1)
        probe(server.endpoint, request)  # it still predicts


def measure(server: Running, load: Load, shape: InFlight, seconds: float) -> Cell:
    """Measure one cell. Raises NotMeasured, H2loadFailed."""
    full = timed(server, load, closed(load, shape, seconds), seconds)
    half = timed(server, load, paced(load, shape, full.report.requests_per_s * HALF, seconds), 4 * seconds)
    foreign_us = full.machine_us - full.server_us - full.load_us
    return Cell(
        rps=full.report.requests_per_s,
        p50_ms=full.latency.p50_ms,
        p99_ms=full.latency.p99_ms,
        cpu_us=full.server_us / full.report.done,
        half_load_rps=half.report.requests_per_s,
        half_load_p50_ms=half.latency.p50_ms,
        half_load_p99_ms=half.latency.p99_ms,
        foreign_cores=max(0.0, foreign_us / 1e6 / full.report.seconds),
    )


def _facts(plan: Plan, results: Results) -> dict[str, Any]:
    environments = sorted({peer for name in results.cells if (peer := TARGETS[name].peer)})
    return {
        "method": {
            "rounds": plan.rounds,
            "seconds": plan.seconds,
            "warm_up_s": plan.warm_up_s,
            "in_flight": {str(shape.total): f"{shape.connections} connections x {shape.streams}" for shape in SHAPES},
            "private_network": plan.root.no_private_network is None,
        },
        "versions": our_versions() | {name: peers.versions(plan.root.peers, name) for name in environments},
        "setup": {name: TARGETS[name].setup for name in results.cells},
        "skipped": results.skipped,
        "failed": results.failed,
        **phases.as_json(results.phases),
    }


def as_json(cells: Cells, facts: Mapping[str, Any]) -> dict[str, Any]:
    """The whole report. `facts` (method, versions, what was skipped or failed) go in as they are. Pure."""
    report: dict[str, Any] = {
        key: _by_in_flight(cells, name, figure) if in_flight is None else _median(cells, name, in_flight, figure)
        for key, (name, figure, in_flight) in FIGURES.items()
    }
    for ratio, (above, below) in RATIOS.items():
        over, under = _by_in_flight(cells, above, "rps"), _by_in_flight(cells, below, "rps")
        report[ratio] = {
            each: round(rps / beside, 3) if (rps := over[each]) is not None and (beside := under[each]) else None
            for each in over
        }
    details = {
        name: {str(each): _spread(rounds) for each, rounds in by_in_flight.items() if rounds}
        for name, by_in_flight in cells.items()
    }
    return report | dict(facts) | {"details": details}


def _median(cells: Cells, name: str, in_flight: int, figure: str) -> float | None:
    rounds = cells.get(name, {}).get(in_flight, ())
    return _short(statistics.median(getattr(cell, figure) for cell in rounds)) if rounds else None


def _by_in_flight(cells: Cells, name: str, figure: str) -> dict[str, float | None]:
    return {str(each): _median(cells, name, each, figure) for each in IN_FLIGHT}


def _spread(rounds: Sequence[Cell]) -> dict[str, Any]:
    """Median, extremes and every round of each figure."""
    spread = {}
    for each in fields(Cell):
        values = [_short(getattr(cell, each.name)) for cell in rounds]
        middle = _short(statistics.median(values))
        spread[each.name] = {"median": middle, "min": min(values), "max": max(values), "rounds": values}
    return spread


def _short(value: float) -> float:
    """Four significant digits: more would claim a precision that no round has."""
    return float(f"{value:.4g}")


def as_table(cells: Cells) -> Table:
    """What fits eighty columns: throughput, CPU time a request at most in flight, latency where it is felt."""
    columns = [
        *((str(each), "rps", each, ",.0f") for each in IN_FLIGHT),
        (f"CPU us\nat {MOST}", "cpu_us", MOST, ",.0f"),
        (f"p50 ms\nat {FEWEST}", "p50_ms", FEWEST, ".2f"),
        ("p99 ms\nhalf load", "half_load_p99_ms", MOST, ".1f"),
    ]
    rows = [
        (target.title, *(_shown(_median(cells, name, each, figure), form) for _, figure, each, form in columns))
        for name, target in TARGETS.items()
        if any(cells.get(name, {}).values())
    ]
    headings = ("target", *(heading for heading, *_ in columns))
    made = table(headings, rows, "requests/s by requests in flight", box=SIMPLE_HEAD, pad_edge=False)
    made.columns[0].no_wrap = True
    return made


def _shown(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)


def _show(results: Results, report: dict[str, Any], out: Console) -> None:
    out.print(as_table(results.cells))
    for ratio in RATIOS:
        if (value := report[ratio][str(MOST)]) is not None:
            out.print(f"{ratio} at {MOST} in flight: {value:.2f}")
    for name, phase in results.phases.items():
        errors = ", ".join(f"{count} {problem}" for problem, count in phase.errors.items()) or "none"
        out.print(f"{name}: client errors of {phase.requests:,} requests: {escape(errors)}")
    for word, colour, sentences in (("skipped", "yellow", results.skipped), ("failed", "red", results.failed)):
        for name, sentence in sentences.items():
            out.print(f"[{colour}]{word}[/{colour}] {TARGETS[name].title}: {escape(sentence)}")
