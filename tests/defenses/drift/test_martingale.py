"""The test martingale: it keeps its promise with a calibration that is a sample, sees shifts, and forgets them."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from defenses.budget.calibration import ConformalCalibration
from defenses.drift.martingale import ALARM, BETS, STAKES, TAILS, VALUE_MAX, ConformalMartingale, tail_bounds

ROWS = 10_000


def p_values(rng, rows, shift=0.0, calibration_rows=ROWS):
    calibration = ConformalCalibration.from_scores(rng.normal(size=calibration_rows))
    return calibration.p_values(rng.normal(size=rows) + shift)


def by_the_book(values, calibration_rows):
    """R of each bet by its recursion, in plain numbers: the logarithm of their average, and the largest of all."""
    bounds = tail_bounds(calibration_rows)
    sums, most = [], 0.0
    for side in range(2):
        for tail, bound in zip(TAILS, bounds[side], strict=True):
            for stake in STAKES:
                reached = 0.0
                for p in values:
                    won = p <= tail if side == 0 else p > 1 - tail
                    reached = (reached + 1) * (1 + stake * (won / min(bound, 1.0) - 1))
                    most = max(most, reached)
                sums.append(reached)
    return max(0.0, math.log10(sum(sums) / BETS)), most


@given(st.lists(st.floats(0, 1), min_size=1, max_size=60), st.integers(1, 60))
def test_it_is_the_recursion_in_whatever_portions_the_rows_come(values, portion):
    martingale = ConformalMartingale(ROWS)
    for begin in range(0, len(values), portion):
        martingale.add(np.array(values[begin : begin + portion]))
    expected, most = by_the_book(values, ROWS)
    if most < 10**VALUE_MAX:
        assert martingale.value == pytest.approx(expected, abs=1e-9)
    else:  # each bet is held to it between portions
        assert martingale.value <= min(expected, VALUE_MAX) + 1e-9


@pytest.mark.parametrize("rows", [1_000, ROWS])
def test_no_stake_grows_on_average_whatever_the_calibration(rows):
    """The bounds hold the chances that calibrations really have, at once for all tails, in all but few of them."""
    rng = np.random.default_rng(1)
    bounds = tail_bounds(rows)
    broken = 0
    for _ in range(400):
        cuts = np.sort(rng.random(rows))  # of scores that are uniform, the chances are known
        for side, tail, bound in ((s, t, b) for s in range(2) for t, b in zip(TAILS, bounds[s], strict=True)):
            rank = math.floor(tail * (rows + 1))
            chance = 1 - cuts[rows - rank] if side == 0 else cuts[rank]
            broken += chance > bound
    assert broken <= 8  # 400 calibrations at half a percent: two are expected


def test_a_calibration_that_is_a_sample_raises_no_alarm():
    rng = np.random.default_rng(2)
    for _ in range(10):
        martingale = ConformalMartingale(1_000)
        martingale.add(p_values(rng, 30_000, calibration_rows=1_000))
        assert martingale.peak < ALARM


@pytest.mark.parametrize(("shift", "rows"), [(1.0, 200), (-1.0, 200), (0.3, 2_000), (-0.3, 2_000)])
def test_a_shift_is_found_however_late_it_comes(shift, rows):
    rng = np.random.default_rng(3)
    calibration = ConformalCalibration.from_scores(rng.normal(size=ROWS))
    martingale = ConformalMartingale(ROWS)
    martingale.add(calibration.p_values(rng.normal(size=50_000)))
    assert martingale.peak < ALARM
    martingale.add(calibration.p_values(rng.normal(size=rows) + shift))
    assert martingale.value > ALARM


def test_it_is_held_and_falls_when_the_shift_is_over():
    rng = np.random.default_rng(4)
    calibration = ConformalCalibration.from_scores(rng.normal(size=ROWS))
    martingale = ConformalMartingale(ROWS)
    for _ in range(20):
        martingale.add(calibration.p_values(rng.normal(size=500) + 2))
    assert ALARM < martingale.value <= VALUE_MAX
    martingale.add(calibration.p_values(rng.normal(size=10_000)))
    assert martingale.value < ALARM


@pytest.mark.parametrize("strange", [np.nan, -1.0, 2.0])
def test_what_is_no_p_value_counts_as_the_smallest(strange):
    martingale, zeros = ConformalMartingale(ROWS), ConformalMartingale(ROWS)
    martingale.add(np.full(50, strange))
    zeros.add(np.zeros(50))
    assert martingale.value == zeros.value > 0
    martingale.add(np.empty(0))
    assert martingale.value == zeros.value


@pytest.mark.parametrize("rows", [1, 2, 50])
def test_a_tiny_calibration_bets_on_nothing_that_it_cannot_know(rows):
    martingale = ConformalMartingale(rows)
    martingale.add(p_values(np.random.default_rng(5), 20_000, calibration_rows=rows))
    assert np.isfinite(martingale.value)
