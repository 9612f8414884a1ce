"""The Beta mathematics against exact rational arithmetic."""

import math
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from defenses.budget.intervals import beta_cdf, beta_quantile, clopper_pearson, guaranteed_rank, rows_needed


def exact_at_least(k, rows, rate):
    """P(Binomial(rows, rate) >= k) as a Fraction."""
    rate = Fraction(str(rate))
    return 1 - sum(math.comb(rows, i) * rate**i * (1 - rate) ** (rows - i) for i in range(k))


@pytest.mark.parametrize(
    ("rows", "fpr_max", "rank"),
    [(1_000, 0.01, 5), (10_000, 0.01, 84), (10_000, 0.001, 5), (298, 0.01, 0), (299, 0.01, 1), (2_994, 0.001, 0)],
)
def test_the_ranks_of_the_specification(rows, fpr_max, rank):
    assert guaranteed_rank(rows, fpr_max) == rank


@given(
    st.integers(1, 400),
    st.sampled_from([0.001, 0.01, 0.05, 0.1, 0.5, 0.9]),
    st.sampled_from([0.5, 0.9, 0.95, 0.99]),
)
@settings(max_examples=60, deadline=None)
def test_the_rank_is_the_largest_that_keeps_the_promise_exactly(rows, fpr_max, confidence):
    rank = guaranteed_rank(rows, fpr_max, confidence)
    # Where the two are equal, as for 1 row at 90 % and 90 %, the last bit of a float decides.
    wanted, bit = Fraction(str(confidence)), Fraction(1, 10**12)
    assert rank == 0 or exact_at_least(rank, rows, fpr_max) >= wanted - bit
    assert rank == rows or exact_at_least(rank + 1, rows, fpr_max) < wanted + bit


def test_the_rank_at_ten_thousand_rows_exactly():
    assert exact_at_least(84, 10_000, 0.01) >= Fraction(95, 100) > exact_at_least(85, 10_000, 0.01)


@given(st.integers(1, 300), st.data(), st.floats(0.001, 0.999))
@settings(max_examples=80, deadline=None)
def test_the_beta_distribution_is_the_binomial_tail(rows, data, rate):
    k = data.draw(st.integers(1, rows))
    exact = float(exact_at_least(k, rows, rate))
    assert beta_cdf(rate, k, rows + 1 - k) == pytest.approx(exact, rel=1e-10, abs=1e-14)


def test_the_beta_distribution_at_and_past_its_ends():
    assert [beta_cdf(x, 2, 3) for x in (-0.1, 0.0, 1.0, 1.1)] == [0.0, 0.0, 1.0, 1.0]


@given(st.floats(0.001, 0.999), st.integers(1, 5_000), st.integers(1, 5_000))
@settings(max_examples=40, deadline=None)
def test_a_quantile_is_where_the_distribution_reaches_it(q, a, b):
    x = beta_quantile(q, a, b)
    assert beta_cdf(x, a, b) >= q - 1e-12
    assert beta_cdf(x * (1 - 1e-9), a, b) <= q + 1e-9


@given(st.integers(1, 200), st.data())
@settings(max_examples=60, deadline=None)
def test_clopper_pearson_leaves_half_the_doubt_in_each_tail(trials, data):
    successes = data.draw(st.integers(0, trials))
    low, high = clopper_pearson(successes, trials)
    assert 0 <= low <= successes / trials <= high <= 1
    if successes:
        assert float(exact_at_least(successes, trials, repr(low))) == pytest.approx(0.025, rel=1e-6)
    if successes < trials:
        assert float(1 - exact_at_least(successes + 1, trials, repr(high))) == pytest.approx(0.025, rel=1e-6)


def test_clopper_pearson_at_the_ends_in_closed_form():
    assert clopper_pearson(0, 100) == pytest.approx((0.0, 1 - 0.025 ** (1 / 100)))
    assert clopper_pearson(100, 100) == pytest.approx((0.025 ** (1 / 100), 1.0))


@pytest.mark.parametrize("fpr_max", [0.5, 0.05, 0.01, 0.001])
def test_rows_needed_are_the_fewest(fpr_max):
    rows = rows_needed(fpr_max)
    assert guaranteed_rank(rows, fpr_max) == 1
    assert rows == 1 or guaranteed_rank(rows - 1, fpr_max) == 0


@pytest.mark.parametrize(
    "arguments", [(0, 0.01, 0.95), (10, 0.0, 0.95), (10, 1.0, 0.95), (10, 0.1, 0.0), (10, 0.1, 1.0)]
)
def test_no_rank_for_nonsense(arguments):
    with pytest.raises(ValueError, match="no rank"):
        guaranteed_rank(*arguments)


@pytest.mark.parametrize("arguments", [(-1, 10, 0.95), (11, 10, 0.95), (0, 0, 0.95), (1, 10, 0.0), (1, 10, 1.0)])
def test_no_interval_for_nonsense(arguments):
    with pytest.raises(ValueError, match="no proportion"):
        clopper_pearson(*arguments)
