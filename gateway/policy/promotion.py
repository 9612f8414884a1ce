"""`approvers` and `models.<name>.promotion` of `policy.yaml`: what a version must have proven before it may be served.

The policy's signature covers who may approve, how many it takes and what the gates are; the evidence itself lies beside
the bundles (`serving.registry`). docs/how-to/promotion.md tells it from the beginning.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Annotated

from pydantic import Field

from defenses.screens.inspection import PATCH, VEIL
from gateway.config.document import Fault, Location, Section
from gateway.config.units import Text
from serving.registry import gates as registry
from serving.registry.proof import Rule

Digest = Annotated[str, Text(r"[0-9a-f]{64}", "64 lower-case hex digits: a SHA-256")]
Version = Annotated[str, Text(r"[1-9][0-9]{0,8}", 'the version of a bundle in quotes, such as "1"')]
Share = Annotated[float, Field(ge=0, le=1)]
Money = Annotated[float, Field(ge=-1e12, le=1e12)]
Cost = Annotated[float, Field(ge=0, le=1e12)]


class Approver(Section):
    """Somebody who may sign that a version is good."""

    key: Annotated[str, Text(r"[0-9a-f]{64}", "64 lower-case hex digits, as `stockade keys approver` prints them")]
    """Ed25519 public key, raw, hex."""


class DecisionValue(Section):
    """What decisions about rows of one class are worth."""

    correct: Money
    """What a right one brings in."""
    wrong: Money
    """What a wrong one brings in; what it costs is negative."""


class ModelValue(Section):
    """What the answers of a model are worth and what they cost, in one currency, for the gates about money."""

    currency: Annotated[str, Text(r"[A-Z]{3}", "three capital letters, such as EUR")]
    """What all of this is counted in."""
    correct: Money
    """What a right decision brings in."""
    wrong: Money
    """What a wrong one brings in; what it costs is negative."""
    by_class: Annotated[Mapping[str, DecisionValue], Field(max_length=1024)] = {}
    """The same for rows whose true class has this name, where classes differ."""
    cpu_hour: Cost = 0.0
    """What an hour of a core costs."""
    other_per_1000: Cost = 0.0
    """What 1,000 predictions cost besides."""


class RobustnessGate(Section):
    """Accuracy while inputs are changed on purpose: a search with queries alone, within a radius of each element."""

    accuracy_min: Share
    """Lower end of the share of rows that stay right."""
    radius: Annotated[float, Field(gt=0, le=1e6)]
    """By how much each element may be changed, in the units of the input."""
    queries: Annotated[int, Field(ge=1, le=100_000)] = 100
    """Queries a row that the attack may make."""
    rows: Annotated[int, Field(ge=1, le=100_000)] = 200
    """Rows that are attacked: the first ones of the dataset, in an order drawn by the seed."""


class InspectionGate(Section):
    """What an inspection for backdoors may find: the share of rows that the best mark turns into one class."""

    patch_max: Share = PATCH.refuse
    """By a small patch."""
    veil_max: Share = VEIL.refuse
    """By a faint veil over the whole image."""


class Gates(Section):
    """What an evaluation must show. What is not given is not looked at; what is given and was not measured fails.

    Intervals are of 95 %, and their worse end counts.
    """

    accuracy_min: Share | None = None
    """Share of rows whose class is right."""
    robustness: RobustnessGate | None = None
    inspection: InspectionGate | None = None
    auc_min: Share | None = None
    """Of two classes: area under the ROC curve of the second one's probability."""
    calibration_error_max: Share | None = None
    """How far probabilities are from the shares of rows that are right, on average: 15 bins of equal width."""
    label_free_loss_max: Annotated[float, Field(ge=-1e9, le=1e9)] | None = None
    """`label_free_loss` in the metrics of the bundle's manifest."""
    disagreement_max: Share | None = None
    """Share of rows whose class differs from that of the version in `serve`."""
    score_drift_max: Share | None = None
    """Kolmogorov-Smirnov distance of the top probabilities from those of the version in `serve`."""
    latency_p99_ms_max: Annotated[float, Field(gt=0, le=1e6)] | None = None
    """99th percentile of the time for a single row, on the machine of the evaluation."""
    cost_per_1000_max: Cost | None = None
    """What 1,000 predictions cost; needs `value`."""
    value_per_1000_min: Money | None = None
    """What 1,000 decisions are worth, less their cost; needs `value`."""
    roi_min: Annotated[float, Field(ge=-1e9, le=1e9)] | None = None
    """That over their cost; needs `value` with a cost."""


class Promotion(Section):
    """What a version must have proven before it is served. docs/how-to/promotion.md has the steps."""

    required: Annotated[int, Field(ge=1, le=16)]
    """How many different approvers have to sign."""
    approvers: Annotated[tuple[str, ...], Field(min_length=1, max_length=64)]
    """Names of `approvers`."""
    gates: Gates
    dataset: Digest | None = None
    """SHA-256 of the labelled data that evaluations have to be on; absent: any."""
    value: ModelValue | None = None
    """What decisions are worth, for the gates about money."""
    exempt: Annotated[Mapping[Version, Digest], Field(max_length=16)] = {}
    """Versions in quotes that need no evidence, each with the digest of its bundle: the first one, say."""


def approver_faults(approvers: Mapping[str, Approver]) -> Iterator[Fault]:
    """Yield what is wrong with the approvers: a key that two of them have would sign twice."""
    owners: dict[str, str] = {}
    for name, approver in approvers.items():
        if approver.key in owners:
            problem = f"is the key of {owners[approver.key]!r}, too, who could then sign twice; each needs its own"
            yield Fault(("approvers", name, "key"), problem)
        owners.setdefault(approver.key, name)


def promotion_faults(at: Location, promotion: Promotion, approvers: Mapping[str, Approver]) -> Iterator[Fault]:
    """Yield what is wrong with a promotion whose every part is well-formed. `at` is where it stands."""
    names = promotion.approvers
    for index, name in enumerate(names):
        if name not in approvers:
            there = ", ".join(sorted(approvers)[:8]) or "(there are none)"
            yield Fault(
                (*at, "approvers", index), f"{name!r} is not one of `approvers`; add it, or name one of: {there}"
            )
    for name, times in Counter(names).items():
        if times > 1:
            yield Fault((*at, "approvers"), f"{name!r} is there twice; an approver counts once")
    if promotion.required > len(set(names)):
        problem = f"{promotion.required} of {len(set(names))} approvers can never be reached"
        yield Fault((*at, "required"), f"{problem}; lower it, or add approvers")
    yield from _gates_faults((*at, "gates"), promotion)


def _gates_faults(at: Location, promotion: Promotion) -> Iterator[Fault]:
    gates, value = promotion.gates, promotion.value
    if all(limit is None for limit in gates.model_dump().values()):
        yield Fault(at, "says nothing; write at least one gate, such as `accuracy_min: 0.9`")
    for name in ("cost_per_1000_max", "value_per_1000_min", "roi_min"):
        if getattr(gates, name) is not None and value is None:
            yield Fault((*at, name), "needs `value`, which says what decisions are worth and cost; add it")
    if gates.roi_min is not None and value is not None and not (value.cpu_hour or value.other_per_1000):
        yield Fault((*at, "roi_min"), "needs a cost; write `cpu_hour` or `other_per_1000` in `value`")


def rule_of(promotion: Promotion, approvers: Mapping[str, Approver]) -> Rule:
    """Return a promotion as what versions are judged by."""
    return Rule(
        required=promotion.required,
        approvers={name: approvers[name].key for name in promotion.approvers},
        limits=limits_of(promotion),
        dataset=promotion.dataset,
        exempt=promotion.exempt,
        known=frozenset(approvers),
    )


def limits_of(promotion: Promotion) -> registry.Thresholds:
    """Return the gates with their limits."""
    gates, value = promotion.gates, promotion.value
    robustness, inspection = gates.robustness, gates.inspection
    return registry.Thresholds(
        accuracy_min=gates.accuracy_min,
        robustness=registry.Robustness(robustness.accuracy_min, robustness.radius, robustness.queries)
        if robustness is not None
        else None,
        inspection_patch_max=None if inspection is None else inspection.patch_max,
        inspection_veil_max=None if inspection is None else inspection.veil_max,
        auc_min=gates.auc_min,
        calibration_error_max=gates.calibration_error_max,
        label_free_loss_max=gates.label_free_loss_max,
        disagreement_max=gates.disagreement_max,
        score_drift_max=gates.score_drift_max,
        latency_p99_ms_max=gates.latency_p99_ms_max,
        cost_per_1000_max=gates.cost_per_1000_max,
        value_per_1000_min=gates.value_per_1000_min,
        roi_min=gates.roi_min,
        value=registry.Value(
            registry.Worth(value.correct, value.wrong),
            {name: registry.Worth(each.correct, each.wrong) for name, each in value.by_class.items()},
            value.cpu_hour,
            value.other_per_1000,
        )
        if value is not None
        else None,
    )
