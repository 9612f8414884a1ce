"""Gates: what a version must have reached, judged from what was measured of it. Pure.

Doubt counts against the version: where a measure has an interval, a gate looks at its worse end. What a gate asks for
and nobody measured is not passed. Money is computed here from counts, so that a new price needs no new measurement:

    cost per 1,000  = CPU seconds per 1,000 x cpu_hour / 3600 + other_per_1000
    value per 1,000 = 1,000 x mean worth of the decisions on the rows, less 1.96 standard errors, less the cost
    roi             = value per 1,000 / cost per 1,000
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from serving.registry.evaluation import GateResult

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from serving.registry.evaluation import Attacked, Decided, Measure

Z = 1.959963984540054
PER = 1000
S_PER_HOUR = 3600
NOT_MEASURED = "was not measured"


@dataclass(frozen=True, slots=True)
class Worth:
    """What a right and a wrong decision are worth, in the value's currency."""

    correct: float
    wrong: float


@dataclass(frozen=True, slots=True)
class Value:
    """What decisions are worth, by true class where classes differ, and what they cost."""

    worth: Worth
    by_class: Mapping[str, Worth] = field(default_factory=dict)
    cpu_hour: float = 0.0
    other_per_1000: float = 0.0


@dataclass(frozen=True, slots=True)
class Robustness:
    """Accuracy under an attack of this strength at least."""

    accuracy_min: float
    radius: float
    queries: int


@dataclass(frozen=True, slots=True)
class Thresholds:
    """Limits; None is not looked at."""

    accuracy_min: float | None = None
    robustness: Robustness | None = None
    inspection_patch_max: float | None = None
    inspection_veil_max: float | None = None
    auc_min: float | None = None
    calibration_error_max: float | None = None
    label_free_loss_max: float | None = None
    disagreement_max: float | None = None
    score_drift_max: float | None = None
    latency_p99_ms_max: float | None = None
    cost_per_1000_max: float | None = None
    value_per_1000_min: float | None = None
    roi_min: float | None = None
    value: Value | None = None


def judge(
    metrics: Mapping[str, Measure], decided: Mapping[str, Decided], attacked: Attacked | None, limits: Thresholds
) -> tuple[GateResult, ...]:
    """Return the result of each gate that has a limit, in a fixed order."""
    return tuple(_results(metrics, decided, attacked, limits))


def _results(
    metrics: Mapping[str, Measure], decided: Mapping[str, Decided], attacked: Attacked | None, limits: Thresholds
) -> Iterator[GateResult]:
    if limits.accuracy_min is not None:
        yield at_least("accuracy_min", limits.accuracy_min, low(metrics.get("accuracy")))
    if limits.robustness is not None:
        yield _robustness(metrics, attacked, limits.robustness)
    if limits.auc_min is not None:
        yield at_least("auc_min", limits.auc_min, low(metrics.get("auc")))
    for name, metric, limit in (
        ("inspection_patch_max", "inspection_patch", limits.inspection_patch_max),
        ("inspection_veil_max", "inspection_veil", limits.inspection_veil_max),
        ("calibration_error_max", "calibration_error", limits.calibration_error_max),
        ("label_free_loss_max", "label_free_loss", limits.label_free_loss_max),
        ("disagreement_max", "disagreement", limits.disagreement_max),
        ("score_drift_max", "score_drift", limits.score_drift_max),
        ("latency_p99_ms_max", "latency_p99_ms", limits.latency_p99_ms_max),
    ):
        if limit is not None:
            yield at_most(name, limit, high(metrics.get(metric)))
    cost = cost_per_1000(metrics, limits.value)
    value = value_per_1000(decided, cost, limits.value)
    if limits.cost_per_1000_max is not None:
        yield at_most("cost_per_1000_max", limits.cost_per_1000_max, cost)
    if limits.value_per_1000_min is not None:
        yield at_least("value_per_1000_min", limits.value_per_1000_min, value)
    if limits.roi_min is not None:
        yield at_least("roi_min", limits.roi_min, value / cost if value is not None and cost else None)


def _robustness(metrics: Mapping[str, Measure], attacked: Attacked | None, limit: Robustness) -> GateResult:
    found = low(metrics.get("robust_accuracy"))
    if found is not None and (attacked is None or attacked.radius < limit.radius or attacked.queries < limit.queries):
        problem = f"was measured under a weaker attack than radius {limit.radius:g} and {limit.queries} queries"
        return GateResult(
            name="robust_accuracy_min", limit=limit.accuracy_min, found=found, passed=False, problem=problem
        )
    return at_least("robust_accuracy_min", limit.accuracy_min, found)


def cost_per_1000(metrics: Mapping[str, Measure], value: Value | None) -> float | None:
    """Return what 1,000 predictions cost; None where it is not known."""
    seconds = high(metrics.get("cpu_seconds_per_1000"))
    if value is None or seconds is None:
        return None
    return seconds * value.cpu_hour / S_PER_HOUR + value.other_per_1000


def value_per_1000(decided: Mapping[str, Decided], cost: float | None, value: Value | None) -> float | None:
    """Return what 1,000 decisions are worth after their cost, at the lower end; None where it is not known."""
    rows = sum(each.rows for each in decided.values())
    if value is None or cost is None or rows == 0:
        return None
    cells: list[tuple[int, float]] = []
    for name, each in decided.items():
        worth = value.by_class.get(name, value.worth)
        cells += [(each.correct, worth.correct), (each.rows - each.correct, worth.wrong)]
    mean = sum(count * worth for count, worth in cells) / rows
    variance = sum(count * (worth - mean) ** 2 for count, worth in cells) / rows
    return PER * (mean - Z * math.sqrt(variance / rows)) - cost


def low(measure: Measure | None) -> float | None:
    """Return the lower end of a measure."""
    return None if measure is None else measure.value if measure.low is None else measure.low


def high(measure: Measure | None) -> float | None:
    """Return the upper end of a measure."""
    return None if measure is None else measure.value if measure.high is None else measure.high


def at_least(name: str, limit: float, found: float | None) -> GateResult:
    """Return a gate that needs `limit` or more."""
    return _compared(name, limit, found, "is below", lambda one, other: one >= other)


def at_most(name: str, limit: float, found: float | None) -> GateResult:
    """Return a gate that needs `limit` or less."""
    return _compared(name, limit, found, "is above", lambda one, other: one <= other)


def _compared(
    name: str, limit: float, found: float | None, otherwise: str, holds: Callable[[float, float], bool]
) -> GateResult:
    if found is None:
        return GateResult(name=name, limit=limit, found=None, passed=False, problem=NOT_MEASURED)
    passed = holds(found, limit)
    problem = "" if passed else f"{found:.6g} {otherwise} {limit:g}"
    return GateResult(name=name, limit=limit, found=found, passed=passed, problem=problem)
