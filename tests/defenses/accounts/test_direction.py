"""Directions: bins are those of the geometry, e-values are fair within the bounds, and searches have theirs."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from defenses.accounts import direction
from defenses.accounts.direction import BINS, CONTEXTS, COSINE_BINS, RATIO_BINS, Direction, bin_of, step_of
from defenses.errors import CalibrationInvalid

BOUNDS = np.full((CONTEXTS, BINS), 0.2)


@pytest.mark.parametrize(
    ("before", "step", "cosine_bin", "ratio_bin"),
    [
        ([3, 0], [3, 0], 5, 1),
        ([3, 0], [30, 0], 5, 2),
        ([30, 0], [3, 0], 5, 0),
        ([3, 0], [-3, 0], 0, 1),
        ([3, 0], [0, 3], 2, 1),
        ([10, 0], [7, 7], 4, 1),
        ([10, 0], [-7, 7], 1, 1),
    ],
)
def test_bins_follow_angle_and_length(before, step, cosine_bin, ratio_bin):
    found = bin_of(np.array(before, np.int16), np.array(step, np.int16))
    assert found == (cosine_bin * RATIO_BINS + ratio_bin, cosine_bin)


def test_no_step_has_no_direction():
    assert bin_of(np.zeros(4, np.int16), np.ones(4, np.int16)) is None
    assert bin_of(np.ones(4, np.int16), np.zeros(4, np.int16)) is None


@given(st.integers(0, 2**32))
def test_every_pair_of_steps_has_a_bin(seed):
    codes = np.random.default_rng(seed).integers(0, 256, (4, 192), np.uint8)
    before, step = step_of(codes[0], codes[1]), step_of(codes[2], codes[3])
    found = bin_of(before, step)
    assert found is not None
    assert 0 <= found[0] < BINS
    assert found[0] // RATIO_BINS == found[1] < COSINE_BINS
    assert bin_of(before * 0 + 128, -(before * 0 + 128)) == (1, 0)  # no overflow at the ends of the range


@given(st.lists(st.floats(0, 1), min_size=BINS, max_size=BINS))
def test_e_values_are_fair_for_all_within_the_bounds(weights):
    judge = Direction.from_calibration({direction.BOUNDS: BOUNDS})
    total = sum(weights)
    if not total:
        return
    probabilities = np.minimum(np.array(weights) / total, BOUNDS[0])  # what is left over is no bet at all: worth 0
    for pays in np.exp(judge.log_e[:, 0]):
        assert float(pays @ probabilities) <= 1 + 1e-9


def test_a_search_earns_where_benign_repeats_seldom_fall():
    bounds = BOUNDS.copy()
    bounds[:, 5 * RATIO_BINS + 1] = 0.02  # steps that build on each other
    judge = Direction.from_calibration({direction.BOUNDS: bounds})
    assert judge.log_e[0, 5, 5 * RATIO_BINS + 1] > math.log(30)
    assert judge.tails[5, 5 * RATIO_BINS + 1] == pytest.approx(0.02)
    assert judge.tails[5, 0] == 1.0


@pytest.mark.parametrize(
    "bounds", [None, BOUNDS[1:], BOUNDS.astype(np.float32), BOUNDS * 0, BOUNDS * 10, BOUNDS * np.nan], ids=repr
)
def test_bounds_that_are_none_are_refused(bounds):
    with pytest.raises(CalibrationInvalid):
        Direction.from_calibration({} if bounds is None else {direction.BOUNDS: bounds})
