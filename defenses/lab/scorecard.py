"""From trials to a scorecard: seeds pooled, exact intervals, and what was aimed at beside what was measured.

Trials of one (attack, knowledge, defended) differ by their seed alone. Successes and samples add up (each seed attacks
rows of its own), and the interval is Clopper and Pearson's over the sum; the spread over seeds stands beside it. A
further metric is given as its median over seeds with the least and the largest.

A target names a row and a measure. Its verdict is by the measured value, and `sure` says whether the interval agrees:
whether the whole interval is on the good side. Nothing that was not run is met.
"""

from __future__ import annotations

import tomllib
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from pathlib import Path
from statistics import median
from typing import Any, Final, Literal

from defenses.budget.intervals import Interval, clopper_pearson
from defenses.lab.attack import Trial

RATE: Final = "rate"
"""The measure that is successes over samples."""

Curve = list[tuple[float, float]]


@dataclass(frozen=True, slots=True)
class Spread:
    median: float
    least: float
    most: float


@dataclass(frozen=True, slots=True)
class Row:
    """One attack as one kind of attacker ran it, over all its seeds. `curves` are the first seed's."""

    attack: str
    family: str
    technique: str
    knowledge: str
    defended: bool
    seeds: tuple[int, ...]
    samples: int
    successes: int
    rate: float
    interval: Interval
    rate_by_seed: Spread
    metrics: dict[str, Spread]
    settings: dict[str, Any]
    curves: dict[str, Curve]


@dataclass(frozen=True, slots=True)
class Target:
    """What was aimed at. `aim` is the goal, `floor` what has to be reached; on a rate or a metric of one row."""

    what: str
    attack: str
    sense: Literal["at most", "at least"]
    aim: float
    floor: float | None = None
    measure: str = RATE
    knowledge: str | None = None
    defended: bool = True
    percent: bool = True


def targets() -> list[Target]:
    """Return what is aimed at, as targets.toml has it."""
    table = tomllib.loads(Path(__file__).with_name("targets.toml").read_text())
    return [Target(what, attack, sense, aim, **more) for what, attack, sense, aim, more in table["rows"]]


class Verdict(StrEnum):
    """In the order of a reader's interest."""

    MISSED = "missed"
    FLOOR = "floor reached"
    MET = "met"
    ABSENT = "not run"


@dataclass(frozen=True, slots=True)
class Met:
    """A target beside what was measured. `sure`: the whole interval is on the good side of the aim (rates only)."""

    target: Target
    verdict: Verdict
    measured: float | None = None
    low: float | None = None
    high: float | None = None
    seeds: int = 0
    samples: int = 0
    sure: bool = field(default=False)


def rows_of(trials: Iterable[Trial]) -> list[Row]:
    """Pool trials; rows come by family, attack and knowledge, the control before what it is the control of."""
    groups: dict[tuple[str, str, str, bool], list[Trial]] = defaultdict(list)
    for trial in trials:
        groups[trial.family, trial.attack, trial.knowledge, trial.defended].append(trial)
    return [_row(sorted(group, key=lambda trial: trial.seed)) for _, group in sorted(groups.items())]


def _row(group: Sequence[Trial]) -> Row:
    first = group[0]
    samples, successes = sum(trial.samples for trial in group), sum(trial.successes for trial in group)
    counted = [trial.successes / trial.samples for trial in group if trial.samples]
    names = sorted({name for trial in group for name in trial.metrics})
    return Row(
        attack=first.attack,
        family=first.family,
        technique=first.technique,
        knowledge=first.knowledge,
        defended=first.defended,
        seeds=tuple(trial.seed for trial in group),
        samples=samples,
        successes=successes,
        rate=successes / samples if samples else 0.0,
        interval=clopper_pearson(successes, samples) if samples else Interval(0.0, 1.0),
        rate_by_seed=_spread(counted or [0.0]),
        metrics={name: _spread([trial.metrics[name] for trial in group if name in trial.metrics]) for name in names},
        settings=dict(first.settings),
        curves={name: [*points] for name, points in first.curves.items()},
    )


def _spread(values: Sequence[float]) -> Spread:
    return Spread(median(values), min(values), max(values))


def judge(targets: Iterable[Target], rows: Iterable[Row]) -> list[Met]:
    """Hold targets against rows: what falls short first, then what was not run, then what is met.

    Where several rows answer to a target (no knowledge is named), the worst for us counts.
    """
    there = [*rows]
    found = [_met(target, there) for target in targets]
    order = [Verdict.MISSED, Verdict.FLOOR, Verdict.ABSENT, Verdict.MET]
    return sorted(found, key=lambda met: order.index(met.verdict))


def _met(target: Target, rows: Sequence[Row]) -> Met:
    measured = [
        (value, row)
        for row in rows
        if row.attack == target.attack
        and row.defended == target.defended
        and target.knowledge in (None, row.knowledge)
        and (value := _measured(target, row)) is not None
    ]
    if not measured:
        return Met(target, Verdict.ABSENT)
    at_most = target.sense == "at most"
    value, row = (max if at_most else min)(measured, key=lambda one: one[0])

    def reached(number: float, bound: float) -> bool:
        return number <= bound if at_most else number >= bound

    if target.measure == RATE:
        low, high = row.interval
    else:
        low, high = row.metrics[target.measure].least, row.metrics[target.measure].most
    if reached(value, target.aim):
        verdict = Verdict.MET
    elif target.floor is not None and reached(value, target.floor):
        verdict = Verdict.FLOOR
    else:
        verdict = Verdict.MISSED
    sure = target.measure == RATE and reached(high if at_most else low, target.aim)
    return Met(target, verdict, value, low, high, len(row.seeds), row.samples, sure)


def _measured(target: Target, row: Row) -> float | None:
    if target.measure == RATE:
        return row.rate if row.samples else None
    spread = row.metrics.get(target.measure)
    return None if spread is None else spread.median


def as_json(rows: Sequence[Row], met: Sequence[Met]) -> dict[str, Any]:
    """Return the scorecard for machines."""
    return {
        "format": "stockade.scorecard/1",
        "targets": [asdict(one) for one in met],
        "rows": [asdict(r) for r in rows],
    }
