"""Hardening tells less and never something else."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from defenses.budget.hardening import (
    DECIMALS_MAX,
    TEMPERATURE_MAX,
    TEMPERATURE_MIN,
    TOP_K_MAX,
    HardeningRule,
    harden,
)
from defenses.errors import EvidenceInvalid, RuleInvalid

RULES = st.builds(
    HardeningRule,
    top_k=st.integers(1, 14),
    temperature=st.one_of(st.just(1.0), st.floats(TEMPERATURE_MIN, TEMPERATURE_MAX)),
    decimals=st.integers(0, DECIMALS_MAX),
)
# Few distinct weights make ties; near ones make ties by rounding.
WEIGHT = st.one_of(st.sampled_from([0.0, 1.0, 1.0000001, 0.9999999, 0.5]), st.floats(0, 1, width=32))


@st.composite
def distributions(draw):
    dtype = draw(st.sampled_from([np.float32, np.float64]))
    shape = (draw(st.integers(1, 5)), draw(st.integers(1, 12)))
    weights = draw(arrays(np.float64, shape, elements=WEIGHT))
    weights[weights.sum(axis=1) == 0, 0] = 1.0
    return (weights / weights.sum(axis=1, keepdims=True)).astype(dtype)


@given(distributions(), RULES)
@settings(max_examples=150)
def test_the_answer_is_kept(probabilities, rule):
    assert (harden(probabilities, rule).argmax(axis=1) == probabilities.argmax(axis=1)).all()


@given(distributions(), RULES)
@settings(max_examples=150)
def test_rows_are_distributions_in_whole_units(probabilities, rule):
    hardened = harden(probabilities, rule)
    assert hardened.dtype == probabilities.dtype
    assert hardened.shape == probabilities.shape
    units = hardened.astype(np.float64) * 10**rule.decimals
    assert np.abs(units - np.rint(units)).max() <= 10**rule.decimals * 1e-7
    assert (np.rint(units).sum(axis=1) == 10**rule.decimals).all()
    assert (hardened >= 0).all()


@given(distributions(), RULES)
@settings(max_examples=100)
def test_classes_outside_the_top_are_zero_and_the_rest_keep_their_order(probabilities, rule):
    hardened = harden(probabilities, rule)
    for before, after in zip(probabilities, hardened, strict=True):
        order = sorted(range(before.size), key=lambda i: (-before[i], i))
        assert (after[order[rule.top_k :]] == 0).all()
        for one, other in itertools.pairwise(order):
            assert after[one] >= after[other]


@given(distributions(), RULES)
@settings(max_examples=100)
def test_a_value_is_less_than_two_units_from_the_exact_one(probabilities, rule):
    hardened = harden(probabilities, rule).astype(np.float64)
    for before, after in zip(probabilities.astype(np.float64), hardened, strict=True):
        kept = sorted(range(before.size), key=lambda i: (-before[i], i))[: rule.top_k]
        exact = (before[kept] / before.max()) ** (1 / rule.temperature)
        exact /= exact.sum()
        assert np.abs(after[kept] - exact).max() < 2 * 10.0**-rule.decimals + 1e-6


@given(distributions(), RULES)
def test_a_row_is_hardened_alike_alone_and_in_a_batch(probabilities, rule):
    together = harden(probabilities, rule)
    for number in range(len(probabilities)):
        assert harden(probabilities[number : number + 1], rule).tobytes() == together[number].tobytes()


@pytest.mark.parametrize(
    ("row", "rule", "wanted"),
    [
        ([0.7, 0.2, 0.1], HardeningRule(3, 1.0, 1), [0.7, 0.2, 0.1]),
        ([0.7, 0.2, 0.1], HardeningRule(2, 1.0, 2), [0.78, 0.22, 0]),
        ([0.7, 0.2, 0.1], HardeningRule(1, 1.0, 3), [1, 0, 0]),
        ([0.64, 0.36], HardeningRule(2, 2.0, 3), [0.571, 0.429]),
        ([0.5, 0.5], HardeningRule(2, 1.0, 0), [1, 0]),
        # Rounding ties the answer with a class before it: the answer gets a unit more.
        ([0.49999, 0.50001], HardeningRule(2, 1.0, 2), [0.49, 0.51]),
        ([0.3333, 0.3333, 0.3334], HardeningRule(3, 1.0, 0), [0, 0, 1]),
        ([0.125, 0.125, 0.125, 0.625], HardeningRule(2, 1.0, 2), [0.17, 0, 0, 0.83]),
        ([1, 0, 0], HardeningRule(3, 100.0, 3), [1, 0, 0]),
    ],
)
def test_worked_examples(row, rule, wanted):
    assert harden(np.array([row], np.float64), rule)[0].tolist() == pytest.approx(wanted, abs=1e-12)


def test_the_argument_is_left_alone():
    probabilities = np.array([[0.7, 0.2, 0.1], [np.nan, 0.5, 0.5]])
    before = probabilities.copy()
    harden(probabilities, HardeningRule(2, 2.0, 2))
    assert probabilities.tobytes() == before.tobytes()


@pytest.mark.parametrize("bad", [[np.nan, 0.5, 0.5], [np.inf, 0, 0], [-0.1, 0.6, 0.5], [0, 0, 0]])
def test_what_is_no_distribution_becomes_nan_and_its_neighbours_are_untouched(bad):
    good = [0.7, 0.2, 0.1]
    hardened = harden(np.array([good, bad, good], np.float32), HardeningRule(2, 1.0, 2))
    assert np.isnan(hardened[1]).all()
    assert hardened[0].tolist() == hardened[2].tolist() == pytest.approx([0.78, 0.22, 0])


def test_no_rows_are_no_rows():
    assert harden(np.zeros((0, 10), np.float32), HardeningRule(3, 1.0, 3)).shape == (0, 10)


@pytest.mark.parametrize(
    "array", [np.zeros(3), np.zeros((2, 0)), np.zeros((2, 3), np.int64), np.zeros((2, 3), np.float16)]
)
def test_other_shapes_and_dtypes_are_refused(array):
    with pytest.raises(EvidenceInvalid):
        harden(array, HardeningRule(1, 1.0, 1))


LIMITS = {
    "top_k": (1, TOP_K_MAX, 1),
    "temperature": (TEMPERATURE_MIN, TEMPERATURE_MAX, 1e-9),
    "decimals": (0, DECIMALS_MAX, 1),
}


@pytest.mark.parametrize("field", LIMITS)
def test_rules_at_their_limits_and_one_past_them(field):
    low, high, step = LIMITS[field]
    fine = {"top_k": 3, "temperature": 1.0, "decimals": 3}
    for value in (low, high):
        HardeningRule(**fine | {field: value})
    for value in (low - step, high + step, float("nan")):
        with pytest.raises(RuleInvalid) as error:
            HardeningRule(**fine | {field: value})
        assert error.value.field == field
