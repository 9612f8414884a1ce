"""`stockade models evaluate`: joins measuring (serving) with attack and inspection (defenses), who are strangers."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from defenses.errors import EvidenceInvalid
from defenses.lab.evasion.random_search import attack
from gateway.tools.registry.inspection import inspected
from gateway.tools.registry.registry import RegistryRefused
from serving.registry.errors import NotMeasurable
from serving.registry.evaluation import Attacked, Baseline, Evaluation, Measure, Measured, encode, parse_evaluation
from serving.registry.gates import Thresholds, judge
from serving.registry.measure import Attacker, Clocks, classes_of, measure

if TYPE_CHECKING:
    from collections.abc import Callable

    from gateway.policy.promotion import Promotion
    from serving.bundles.bundle import Bundle
    from serving.registry.dataset import Dataset

    Source = Callable[[Bundle, int], Dataset]

ATTACK = "random-search"
TIMES = frozenset({"latency_p50_ms", "latency_p99_ms", "cpu_seconds_per_1000"})


@dataclass(frozen=True, slots=True)
class Strength:
    """How hard to attack: by how much each element may change, queries a row, rows; and whether to inspect as well."""

    radius: float = 0.1
    queries: int = 100
    rows: int = 200
    inspect: bool = False


def strength_of(promotion: Promotion | None) -> Strength:
    """Return how hard the policy wants a model to be attacked, and whether inspected for backdoors."""
    if promotion is None:
        return Strength()
    gate, inspect = promotion.gates.robustness, promotion.gates.inspection is not None
    return Strength(inspect=inspect) if gate is None else Strength(gate.radius, gate.queries, gate.rows, inspect)


def evaluate(
    bundle: Bundle,
    baseline: Bundle | None,
    source: Source,
    *,
    strength: Strength,
    limits: Thresholds,
    seed: int,
    build: str,
    moment: str,
) -> Evaluation:
    """Measure a bundle on a labelled dataset, judge it by these limits, and return what may be written down.

    Raises:
        DatasetRejected, NotMeasurable: the data or the model will not do.
        EngineError: the model cannot be run.
    """
    data = source(bundle, classes_of(bundle))
    found = measure(bundle, baseline, data, attacker_of(strength, seed), Clocks(time.perf_counter, time.process_time))
    metrics = {**found.metrics, **(marks_found(bundle, data, seed) if strength.inspect else {})}
    evaluation = Evaluation(
        format="stockade.evaluation/1",
        model=bundle.name,
        version=bundle.version,
        bundle=bundle.digest,
        dataset=Measured(sha256=data.sha256, file=data.file, rows=len(data.labels)),
        baseline=Baseline(version=baseline.version, bundle=baseline.digest) if baseline is not None else None,
        lineage=lineage_of(bundle),
        metrics=metrics,
        decided=dict(found.decided),
        attacked=found.attacked,
        gates=judge(metrics, found.decided, found.attacked, limits),
        seed=seed,
        build=build,
        time=moment,
    )
    written = encode(evaluation)
    if encode(parse_evaluation(written)) != written:  # a number that JSON does not have
        raise NotMeasurable(f"{bundle.name} version {bundle.version}: a measure is not a finite number")
    return evaluation


def measured_again(evaluation: Evaluation, bundle: Bundle, baseline: Bundle | None, source: Source) -> Evaluation:
    """Measure once more what an evaluation says, on this data, with its seed, as hard an attack and its inspection."""
    attacked, robust = evaluation.attacked, evaluation.metrics.get("robust_accuracy")
    strength = Strength(inspect="inspection_patch" in evaluation.metrics)
    if attacked is not None and robust is not None:
        strength = replace(strength, radius=attacked.radius, queries=attacked.queries, rows=robust.rows)
    return evaluate(
        bundle,
        baseline,
        source,
        strength=strength,
        limits=Thresholds(),
        seed=evaluation.seed,
        build=evaluation.build,
        moment=evaluation.time,
    )


def marks_found(bundle: Bundle, data: Dataset, seed: int) -> dict[str, Measure]:
    """Return the share of rows that the best mark of each kind turns into one class; nothing for what is no image."""
    try:
        found = inspected(bundle, dict(data.inputs), data.labels, seed=seed)
    except (RegistryRefused, EvidenceInvalid):
        return {}
    return {f"inspection_{check.name}": Measure(value=check.statistic) for check in found.checks}


def differing(one: Evaluation, other: Evaluation) -> list[str]:
    """Return what two evaluations of the same say differently, times aside."""
    names = sorted((one.metrics.keys() | other.metrics.keys()) - TIMES)
    found = [name for name in names if one.metrics.get(name) != other.metrics.get(name)]
    parts = ("bundle", "baseline", "decided", "attacked", "lineage")
    found += [part for part in parts if getattr(one, part) != getattr(other, part)]
    return found + (["dataset"] if one.dataset.sha256 != other.dataset.sha256 else [])


def attacker_of(strength: Strength, seed: int) -> Attacker:
    """Return the attack of this strength."""

    def run(predict: Any, inputs: Any, labels: Any, bounds: tuple[float, float]) -> Any:
        rng = np.random.default_rng(seed)
        ask = partial(attack, radius=strength.radius, queries=strength.queries)
        return ask(predict, inputs, labels, bounds=bounds, rng=rng)

    told = Attacked(attack=ATTACK, radius=strength.radius, queries=strength.queries)
    return Attacker(run, told, strength.rows, seed)


def lineage_of(bundle: Bundle) -> dict[str, Any]:
    """Return where a bundle comes from: its manifest's data and recipe, without the curve of its training."""
    manifest = bundle.manifest
    recipe = {name: value for name, value in manifest["training"].items() if name != "history"}
    found: dict[str, Any] = msgspec.to_builtins({"data": manifest["data"], "recipe": recipe})
    return found
