"""Gates: the worse end counts, what was not measured fails, and money is computed from counts."""

from __future__ import annotations

import math

import pytest

from serving.registry.evaluation import Attacked, Decided, Measure
from serving.registry.gates import Robustness, Thresholds, Value, Worth, cost_per_1000, judge, value_per_1000

METRICS = {
    "accuracy": Measure(value=0.95, low=0.93, high=0.97, rows=1000),
    "robust_accuracy": Measure(value=0.7, low=0.6, high=0.8, rows=200),
    "disagreement": Measure(value=0.02, low=0.01, high=0.03, rows=1000),
    "score_drift": Measure(value=0.1, rows=1000),
    "label_free_loss": Measure(value=0.4),
    "auc": Measure(value=0.84, low=0.82, high=0.86, rows=1000),
    "calibration_error": Measure(value=0.02, rows=1000),
    "latency_p99_ms": Measure(value=2.0, rows=300),
    "cpu_seconds_per_1000": Measure(value=3.6),
    "inspection_patch": Measure(value=0.1),
    "inspection_veil": Measure(value=0.3),
}
DECIDED = {"good": Decided(rows=800, correct=760), "bad": Decided(rows=200, correct=150)}
ATTACKED = Attacked(attack="random-search", radius=0.1, queries=100)
VALUE = Value(Worth(0.1, -0.2), {"bad": Worth(2.0, -10.0)}, cpu_hour=1.0, other_per_1000=0.5)


def passed(**limits) -> bool:
    (gate,) = judge(METRICS, DECIDED, ATTACKED, Thresholds(**limits))
    assert gate.passed is (gate.problem == "")
    return gate.passed


@pytest.mark.parametrize(
    ("gate", "reached", "missed"),
    [
        ("accuracy_min", 0.93, 0.931),
        ("disagreement_max", 0.03, 0.0299),
        ("score_drift_max", 0.1, 0.0999),
        ("label_free_loss_max", 0.4, 0.399),
        ("auc_min", 0.82, 0.821),
        ("calibration_error_max", 0.02, 0.0199),
        ("latency_p99_ms_max", 2.0, 1.99),
        ("inspection_patch_max", 0.1, 0.09),
        ("inspection_veil_max", 0.3, 0.29),
    ],
)
def test_a_gate_holds_at_its_limit_and_not_one_past_it(gate, reached, missed):
    assert passed(**{gate: reached})
    assert not passed(**{gate: missed})


@pytest.mark.parametrize(
    ("limit", "holds"),
    [
        (Robustness(0.6, 0.1, 100), True),
        (Robustness(0.61, 0.1, 100), False),
        (Robustness(0.6, 0.11, 100), False),
        (Robustness(0.6, 0.1, 101), False),
    ],
)
def test_robustness_is_that_under_an_attack_as_strong_as_asked_for(limit, holds):
    assert passed(robustness=limit) is holds


@pytest.mark.parametrize("gate", ["accuracy_min", "disagreement_max", "label_free_loss_max", "latency_p99_ms_max"])
def test_what_was_not_measured_is_not_passed(gate):
    (result,) = judge({}, {}, None, Thresholds(**{gate: 0.5}))
    assert (result.passed, result.found, result.problem) == (False, None, "was not measured")


def test_money():
    cost = cost_per_1000(METRICS, VALUE)
    assert cost == pytest.approx(3.6 / 3600 + 0.5)
    worths = [0.1] * 760 + [-0.2] * 40 + [2.0] * 150 + [-10.0] * 50
    mean = sum(worths) / 1000
    deviation = math.sqrt(sum((worth - mean) ** 2 for worth in worths) / 1000)
    value = value_per_1000(DECIDED, cost, VALUE)
    assert value == pytest.approx(1000 * (mean - 1.959963984540054 * deviation / math.sqrt(1000)) - cost)
    assert passed(value=VALUE, cost_per_1000_max=cost)
    assert not passed(value=VALUE, cost_per_1000_max=cost * 0.999)
    assert passed(value=VALUE, value_per_1000_min=value)
    assert not passed(value=VALUE, value_per_1000_min=value + 1)
    assert passed(value=VALUE, roi_min=value / cost)
    assert not passed(value=VALUE, roi_min=value / cost + 1)


@pytest.mark.parametrize("gate", ["cost_per_1000_max", "value_per_1000_min", "roi_min"])
def test_nobody_knows_what_is_worth_nothing_known(gate):
    assert not passed(**{gate: 0.0})


def test_a_return_on_nothing_is_none():
    assert not passed(value=Value(Worth(1.0, 0.0)), roi_min=0.0)
