"""Drift detectors: they agree with the textbook, see a shift, keep still without one, and forget what is old."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from defenses.budget.calibration import ConformalCalibration
from defenses.drift.shift import (
    ROWS_MIN,
    PopulationWindow,
    RoughnessWindow,
    UniformityWindow,
    population_shift,
    roughness,
    uniform_distance,
)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=200))
def test_the_distance_is_that_of_kolmogorov_and_smirnov(values):
    farthest = 0.0
    for x in values:  # the empirical distribution jumps at its values: it is farthest just before or at one
        for share in (sum(v < x for v in values), sum(v <= x for v in values)):
            farthest = max(farthest, abs(share / len(values) - x))
    assert uniform_distance(values) == pytest.approx(farthest, abs=1e-12)


def test_rows_like_the_calibration_stay_below_what_chance_allows():
    rng = np.random.default_rng(1)
    calibration = ConformalCalibration.from_scores(rng.normal(size=10_000))
    window = UniformityWindow(2_000)
    window.add(calibration.p_values(rng.normal(size=2_000)))
    value = window.value()
    assert value is not None
    assert value < 1.63 / math.sqrt(2_000) + 1.63 / math.sqrt(10_000)  # the calibration is a sample as well


@pytest.mark.parametrize("shift", [0.5, -0.5])
def test_rows_that_score_otherwise_are_seen_in_either_direction(shift):
    rng = np.random.default_rng(2)
    calibration = ConformalCalibration.from_scores(rng.normal(size=10_000))
    window = UniformityWindow(2_000)
    window.add(calibration.p_values(rng.normal(size=2_000) + shift))
    assert (window.value() or 0) > 0.15


def test_a_window_says_nothing_before_it_has_seen_enough_and_forgets_what_is_old():
    window = UniformityWindow(ROWS_MIN)
    window.add(np.linspace(0, 1, ROWS_MIN - 1))
    assert window.value() is None
    window.add(np.zeros(ROWS_MIN - 1))  # one of the first is left
    assert window.value() == pytest.approx(1.0, abs=2 / ROWS_MIN)
    window.add(np.linspace(0, 1, 3 * ROWS_MIN))  # larger than the window
    assert (window.value() or 1) < 0.7


@given(st.lists(st.integers(1, 300), min_size=1, max_size=30), st.integers(1, 250))
def test_batches_of_any_size_leave_the_last_rows(sizes, rows_max):
    window, everything = UniformityWindow(rows_max), np.empty(0)
    for number, size in enumerate(sizes):
        batch = (np.arange(size) + 1000.0 * number) / 1e6
        window.add(batch)
        everything = np.concatenate([everything, batch])
    np.testing.assert_array_equal(np.sort(window._ring.values), everything[-rows_max:])


def test_the_population_index_is_nothing_for_the_same_and_much_for_another():
    rng = np.random.default_rng(3)
    reference, same, other = rng.beta(8, 2, 5_000), rng.beta(8, 2, 5_000), rng.beta(3, 3, 5_000)
    assert population_shift(reference, same) < 0.02
    assert population_shift(reference, other) > 0.25


def test_the_population_index_of_two_known_histograms():
    reference = np.repeat([0.0, 1.0], [500, 500])
    current = np.repeat([0.0, 1.0], [250, 750])
    expected = (0.25 - 0.5) * math.log(0.25 / 0.5) + (0.75 - 0.5) * math.log(0.75 / 0.5)
    assert population_shift(reference, current) == pytest.approx(expected)


def test_the_reference_ends_in_the_middle_of_a_batch():
    window = PopulationWindow(300)
    rows = np.concatenate([np.full(300, 0.5), np.full(ROWS_MIN, 0.9)])
    window.add(rows[:250], reference=np.ones(250, bool))
    window.add(rows[250:-1], reference=np.ones(len(rows) - 251, bool))
    assert window.value() is None
    window.add(rows[-1:], reference=np.ones(1, bool))
    assert (window.value() or 0) > 1


def test_scores_that_are_all_the_same_have_a_place_of_their_own():
    assert population_shift(np.full(500, 0.5), np.full(500, 0.5)) == 0
    assert population_shift(np.full(500, 0.5), np.full(500, 0.9)) > 1


def test_what_was_flagged_is_never_the_reference():
    rng = np.random.default_rng(4)
    window = PopulationWindow(1_000)
    strange, usual = rng.beta(2, 8, 1_000), rng.beta(8, 2, 3_000)
    window.add(strange, reference=np.zeros(1_000, bool))
    window.add(usual[:1_000], reference=np.ones(1_000, bool))
    assert window.value() is None
    window.add(usual[1_000:2_000], reference=np.zeros(1_000, bool))
    assert (window.value() or 1) < 0.1
    window.add(strange, reference=np.ones(1_000, bool))
    assert (window.value() or 0) > 1


@pytest.mark.parametrize("at", [0, 250], ids=["in the reference", "after it"])
def test_a_score_that_is_no_number_is_left_out(at):
    window, rows = PopulationWindow(ROWS_MIN), np.full(2 * ROWS_MIN + 1, 0.5)
    rows[at] = np.nan
    window.add(rows, reference=np.ones(len(rows), bool))
    assert window.value() == 0


def test_batches_of_which_nothing_is_kept_take_no_room():
    window = PopulationWindow(100)
    for _ in range(50):
        window.add(np.full(10, 0.5), reference=np.zeros(10, bool))
    assert window._first == []


def test_roughness_is_the_mean_difference_of_neighbours_both_ways():
    board = np.indices((4, 4)).sum(axis=0) % 2
    stripes = np.tile([0.0, 1.0, 0.0, 1.0], (4, 1))
    assert roughness(np.stack([board, stripes, np.ones((4, 4))])).tolist() == [2.0, 1.0, 0.0]
    colours = np.stack([board, np.zeros((4, 4)), np.zeros((4, 4))])[None]
    np.testing.assert_allclose(roughness(colours), [2 / 3])


def test_a_change_of_roughness_is_seen_whatever_the_scale_and_none_where_there_is_none():
    for scale in (1.0, 1e-4):
        rng, window = np.random.default_rng(5), RoughnessWindow()
        window.add(scale * rng.gamma(9.0, size=100_000))
        assert (window.cuts, window.value) == (0, 0.0)
        window.add(scale * rng.gamma(11.0, size=320))
        assert window.cuts > 0
        assert window.value > 0.05


def test_nothing_is_said_of_roughness_before_there_is_something_to_hold_it_against():
    window = RoughnessWindow(rows_max=64)
    window.add(np.linspace(0, 1, 60))
    window.add(np.array([np.nan, np.inf]))
    window.add(np.full(4, 5.0))
    assert window.cuts == 0
    window.add(np.full(640, 9.0))
    assert window.value == 0.0, "all as far out as can be, and the same: nothing has changed since it looks"
