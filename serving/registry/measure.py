"""Measures a bundle on a labelled dataset: what an evaluation says, except who says so.

Rules: the model runs here, in this process, from the verified bytes, as it would be served; a seed decides which rows
are attacked and how, so all but times can be repeated to the last digit. Times are of single rows on one thread of this
machine, the dearest way to ask. A measure that makes no sense for a model is left out, and a gate on it is not passed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from serving.bundles.manifest import DATATYPES
from serving.engines.inprocess import InProcessEngine
from serving.engines.measure import calibration_error, ranking_area
from serving.registry.errors import NotMeasurable
from serving.registry.evaluation import Attacked, Decided, Measure
from serving.registry.gates import Z
from serving.registry.labels import check_labels

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from numpy.typing import NDArray

    from serving.bundles.bundle import Bundle
    from serving.bundles.manifest import TensorSpec
    from serving.registry.dataset import Dataset

BATCH = 256
TIMED, WARM = 300, 20
PREDICTION = "prediction"
LABELS_SUSPECT = "labels_suspect"
SUM_APART_MAX = 1e-3
PREDICTION_DIMS = 2
TWO = 2

STUDENT = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776, 10: 2.262}
"""Student's t at 97.5 %, by number of values."""

Array = np.ndarray[Any, Any]


@dataclass(frozen=True, slots=True, eq=False)
class Attacker:
    """An attack and its strength; `rows` are attacked, drawn by `seed`.

    `run(predict, inputs, labels, (low, high))` says which rows are right still, bool (rows,).
    """

    run: Callable[[Callable[[Array], Array], Array, NDArray[np.int64], tuple[float, float]], NDArray[np.bool_]]
    told: Attacked
    rows: int
    seed: int


@dataclass(frozen=True, slots=True)
class Clocks:
    """Seconds of the wall, and of this process's processor time."""

    wall: Callable[[], float]
    cpu: Callable[[], float]


@dataclass(frozen=True, slots=True)
class Found:
    """What was measured."""

    metrics: Mapping[str, Measure]
    decided: Mapping[str, Decided]
    attacked: Attacked | None


def prediction_of(bundle: Bundle) -> TensorSpec:
    """Return the output that says the class. Raises NotMeasurable where there is none."""
    named = bundle.manifest["roles"].get(PREDICTION, ())
    for spec in bundle.outputs:
        if spec.name in named and len(spec.shape) == PREDICTION_DIMS and np.dtype(DATATYPES[spec.datatype]).kind == "f":
            return spec
    problem = "its manifest has no role `prediction` with an output of rows x classes"
    raise NotMeasurable(f"{bundle.name} version {bundle.version} cannot be evaluated: {problem}")


def classes_of(bundle: Bundle) -> int:
    """Return how many classes a model tells apart. Raises NotMeasurable."""
    return prediction_of(bundle).shape[1]


def measure(bundle: Bundle, baseline: Bundle | None, data: Dataset, attacker: Attacker | None, clocks: Clocks) -> Found:
    """Measure a bundle, and how it differs from the baseline.

    Raises:
        NotMeasurable: it has no classes, or runs elsewhere.
        GraphRejected, BackendFailed: the model cannot be run.
    """
    output = prediction_of(bundle).name
    engine = open_engine(bundle)
    try:
        scores = predictions(engine, data.inputs, output)
        chosen = scores.argmax(axis=1)
        right = chosen == data.labels
        metrics = {"accuracy": share(right), **ranked(scores, data.labels), **doubted(scores, data.labels)}
        metrics |= times(engine, data, clocks)
        attacked = None
        if attacker is not None and (spec := attackable(bundle)) is not None:
            metrics["robust_accuracy"] = robust(engine, data, spec, output, attacker)
            attacked = attacker.told
    finally:
        engine.close()
    if baseline is not None:
        metrics |= compared(baseline, data, scores)
    if isinstance(loss := bundle.manifest["metrics"].get("label_free_loss"), int | float) and math.isfinite(loss):
        metrics["label_free_loss"] = Measure(value=float(loss))
    return Found(metrics, decided_of(bundle, data.labels, right, scores.shape[1]), attacked)


def open_engine(bundle: Bundle) -> InProcessEngine:
    """Return the model, running here. Raises NotMeasurable for one that runs elsewhere."""
    if bundle.manifest.get("upstream"):
        problem = "it runs on another server; evaluate it there, and override"
        raise NotMeasurable(f"{bundle.name} version {bundle.version} cannot be evaluated: {problem}")
    return InProcessEngine(bundle)


def predictions(engine: InProcessEngine, inputs: Mapping[str, Array], output: str) -> Array:
    """Return the scores of all rows, (rows, classes)."""
    rows = len(next(iter(inputs.values())))
    parts = [
        engine.infer({name: array[start : start + BATCH] for name, array in inputs.items()})[output]
        for start in range(0, rows, BATCH)
    ]
    return np.concatenate(parts)


def times(engine: InProcessEngine, data: Dataset, clocks: Clocks) -> dict[str, Measure]:
    """Return how long single rows take, and how much processor."""
    rows = len(data.labels)
    single = [
        {name: array[number % rows : number % rows + 1] for name, array in data.inputs.items()}
        for number in range(WARM + TIMED)
    ]
    for inputs in single[:WARM]:
        engine.infer(inputs)
    took = []
    began_cpu = clocks.cpu()
    for inputs in single[WARM:]:
        began = clocks.wall()
        engine.infer(inputs)
        took.append(clocks.wall() - began)
    cpu = (clocks.cpu() - began_cpu) / TIMED
    p50, p99 = np.quantile(took, [0.5, 0.99])
    return {
        "latency_p50_ms": Measure(value=float(p50) * 1000, rows=TIMED),
        "latency_p99_ms": Measure(value=float(p99) * 1000, rows=TIMED),
        "cpu_seconds_per_1000": Measure(value=cpu * 1000, rows=TIMED),
    }


def ranked(scores: Array, labels: NDArray[np.int64]) -> dict[str, Measure]:
    """Return how far probabilities mean what they say, and of two classes how well they are told apart."""
    found = {}
    if scores.min() >= 0 and scores.max() <= 1:
        found["calibration_error"] = Measure(value=calibration_error(scores, labels), rows=len(labels))
    if scores.shape[1] == TWO and len(set(labels.tolist())) == TWO:
        found["auc"] = area(scores[labels == 1, 1], scores[labels == 0, 1])
    return found


def doubted(scores: Array, labels: NDArray[np.int64]) -> dict[str, Measure]:
    """Return the share of labels that look changed, where the scores are probabilities; around 0 where none was."""
    if scores.min() < 0 or np.abs(scores.sum(axis=1) - 1).max() > SUM_APART_MAX:
        return {}
    found = check_labels(scores, labels)
    return {LABELS_SUSPECT: Measure(value=found.excess, low=found.low, high=found.high, rows=len(labels))}


def area(ones: Array, zeros: Array) -> Measure:
    """Return the area under the ROC curve with its interval (Hanley and McNeil, 1982)."""
    a, rows = ranking_area(zeros, ones), len(ones) + len(zeros)
    same_one, same_zero = a / (2 - a) - a * a, 2 * a * a / (1 + a) - a * a
    variance = a * (1 - a) + (len(ones) - 1) * same_one + (len(zeros) - 1) * same_zero
    half = Z * math.sqrt(max(0.0, variance) / (len(ones) * len(zeros)))
    return Measure(value=a, low=max(0.0, a - half), high=min(1.0, a + half), rows=rows)


def attackable(bundle: Bundle) -> TensorSpec | None:
    """Return the input that an attack can change: the only one, of floats within a range."""
    if len(bundle.inputs) != 1:
        return None
    spec = bundle.inputs[0]
    return spec if spec.datatype == "FP32" and spec.low is not None and spec.high is not None else None


def robust(engine: InProcessEngine, data: Dataset, spec: TensorSpec, output: str, attacker: Attacker) -> Measure:
    """Return the share of rows that stay right under attack."""
    assert spec.low is not None
    assert spec.high is not None

    def predict(rows: Array) -> Array:
        return predictions(engine, {spec.name: rows}, output)

    chosen = np.random.default_rng(attacker.seed).permutation(len(data.labels))[: attacker.rows]
    right = attacker.run(predict, data.inputs[spec.name][chosen], data.labels[chosen], (spec.low, spec.high))
    return share(right)


def compared(baseline: Bundle, data: Dataset, scores: Array) -> dict[str, Measure]:
    """Return how the scores differ from those of the baseline on the same rows."""
    engine = open_engine(baseline)
    try:
        before = predictions(engine, data.inputs, prediction_of(baseline).name)
    finally:
        engine.close()
    return {
        "disagreement": share(before.argmax(axis=1) != scores.argmax(axis=1)),
        "score_drift": Measure(value=distance(before.max(axis=1), scores.max(axis=1)), rows=len(scores)),
    }


def distance(one: Array, other: Array) -> float:
    """Return the Kolmogorov-Smirnov distance of two samples: the largest gap of their distribution functions."""
    both = np.sort(np.concatenate([one, other]))
    first = np.searchsorted(np.sort(one), both, side="right") / len(one)
    second = np.searchsorted(np.sort(other), both, side="right") / len(other)
    return float(np.abs(first - second).max())


def decided_of(bundle: Bundle, labels: NDArray[np.int64], right: Array, classes: int) -> dict[str, Decided]:
    """Return rows and right decisions by true class."""
    names = bundle.class_names if len(bundle.class_names) == classes else tuple(map(str, range(classes)))
    rows = np.bincount(labels, minlength=classes)
    correct = np.bincount(labels[right], minlength=classes)
    return {name: Decided(rows=int(rows[i]), correct=int(correct[i])) for i, name in enumerate(names) if rows[i]}


def share(holds: Array) -> Measure:
    """Return a share of rows with its interval."""
    count, rows = int(holds.sum()), len(holds)
    low, high = wilson(count, rows)
    return Measure(value=count / rows, low=low, high=high, rows=rows)


def wilson(count: int, rows: int) -> tuple[float, float]:
    """Return the 95 % score interval of a proportion (Wilson, 1927)."""
    p, z2 = count / rows, Z * Z
    middle = (p + z2 / (2 * rows)) / (1 + z2 / rows)
    half = Z / (1 + z2 / rows) * math.sqrt(p * (1 - p) / rows + z2 / (4 * rows * rows))
    return max(0.0, min(p, middle - half)), min(1.0, max(p, middle + half))


def interval(values: Sequence[float]) -> dict[str, Any]:
    """Return `values` (one a seed or a fold; 2, 3, 4, 5 or 10), their `mean`, and `half` its 95 % interval's width."""
    half = STUDENT[len(values)] * float(np.std(values, ddof=1)) / math.sqrt(len(values))
    return {"mean": float(np.mean(values)), "half": half, "values": list(values)}


def intervals(runs: Sequence[Mapping[str, float]]) -> dict[str, dict[str, Any]]:
    """Return the interval of each figure; every run has the same figures."""
    return {name: interval([run[name] for run in runs]) for name in runs[0]}
