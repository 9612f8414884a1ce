"""ADWIN: it cuts where the mean has changed and nowhere else, by the paper's bound, in bounded memory."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from defenses.drift.adwin import BLOCK_ROWS, BUCKETS, ROWS_KEPT, Adwin


def confidences(rng, rows, mean=0.85):
    """Numbers in [0, 1] with this mean and a standard deviation of about 0.16."""
    return rng.beta(mean * 4, (1 - mean) * 4, rows)


@pytest.mark.parametrize(("before", "after", "rows"), [(0.85, 0.6, 200), (0.6, 0.85, 200), (0.85, 0.78, 1_500)])
def test_a_change_of_the_mean_is_cut_out(before, after, rows):
    rng = np.random.default_rng(1)
    window = Adwin()
    window.add(confidences(rng, 20_000, before))
    assert (window.cuts, window.value, window.rows) == (0, 0.0, 20_000)
    window.add(confidences(rng, rows, after))
    assert window.cuts > 0
    assert window.value == pytest.approx(abs(after - before), abs=0.08)
    assert window.rows < 3 * rows  # what was before is forgotten


def test_nothing_is_cut_where_nothing_changes():
    rng = np.random.default_rng(2)
    window = Adwin()
    window.add(confidences(rng, 100_000))
    assert (window.cuts, window.rows) == (0, 100_000)


def test_what_was_cut_is_said_until_it_is_long_ago():
    rng = np.random.default_rng(3)
    window = Adwin()
    window.add(np.concatenate([confidences(rng, 5_000, 0.9), confidences(rng, 1_000, 0.5)]))
    assert window.value > 0.2
    window.add(confidences(rng, ROWS_KEPT, 0.5))
    assert (window.value, window.cuts) == (0.0, window.cuts)


def test_the_bound_is_that_of_the_paper():
    """Two halves of zeros and of a share of ones: cut exactly where the means differ by more than e."""
    delta, rows = 1e-3, 16 * BLOCK_ROWS
    for ones in range(rows // 2 + 1):
        values = np.zeros(rows)
        values[rows // 2 : rows // 2 + ones] = 1.0
        values[rows // 2 :] = np.random.default_rng(ones).permutation(values[rows // 2 :])
        window = Adwin(delta)
        window.add(values)
        mean = ones / rows
        doubt, inverse = math.log(2 * math.log(rows) / delta), 4 / rows
        limit = math.sqrt(2 * inverse * mean * (1 - mean) * doubt) + 2 / 3 * inverse * doubt
        if 2 * mean > 1.35 * limit:
            assert window.cuts, ones
        if 2 * mean < 0.65 * limit:
            assert not window.cuts, ones


@given(st.lists(st.integers(0, 200), min_size=1, max_size=20))
def test_portions_do_not_matter_and_no_row_is_lost(sizes):
    values = confidences(np.random.default_rng(4), sum(sizes))
    portions, whole = Adwin(), Adwin()
    begin = 0
    for size in sizes:
        portions.add(values[begin : begin + size])
        begin += size
    whole.add(values)
    assert portions.rows == whole.rows == values.size // BLOCK_ROWS * BLOCK_ROWS
    assert portions._window == pytest.approx(whole._window)
    total = sum(bucket.total for level in portions._levels for bucket in level)
    assert total == pytest.approx(values[: portions.rows].sum())


def test_memory_is_bounded_by_the_logarithm_of_the_rows():
    window = Adwin()
    window.add(np.tile([0.0, 1.0], 100_000))
    assert len(window._levels) <= math.log2(200_000 / BLOCK_ROWS) + 1
    assert all(len(level) <= BUCKETS for level in window._levels)


@pytest.mark.parametrize("strange", [np.nan, np.inf, -0.1, 1.1])
def test_what_is_out_of_range_is_left_out(strange):
    window = Adwin()
    window.add(np.full(1_000, strange))
    assert window.rows == 0
