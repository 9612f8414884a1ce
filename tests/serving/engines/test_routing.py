"""The entropy of a mixture's routing: by the textbook, of the last rows, silent before there are enough."""

from __future__ import annotations

import numpy as np
import pytest

from serving.engines.experts import ROWS_MIN, WINDOW_ROWS, RoutingWindow


def test_even_choices_are_one_and_a_single_one_is_nothing():
    window = RoutingWindow(4)
    window.add(np.tile(np.arange(4), ROWS_MIN // 2).reshape(-1, 2))
    assert window.entropy() == pytest.approx(1.0)
    alone = RoutingWindow(4)
    alone.add(np.full((ROWS_MIN, 1), 3))
    assert alone.entropy() == 0.0


def test_shares_are_those_of_the_textbook():
    window = RoutingWindow(2)
    window.add(np.repeat([0, 1], [750, 250])[:, None])
    assert window.entropy() == pytest.approx(0.811278, abs=1e-6)


def test_nothing_is_said_before_there_are_enough_rows_and_of_one_expert():
    window = RoutingWindow(3)
    window.add(np.zeros((ROWS_MIN - 1, 1), np.int64))
    assert window.entropy() is None
    window.add(np.zeros((1, 1), np.int64))
    assert window.entropy() == 0.0
    single = RoutingWindow(1)
    single.add(np.zeros((ROWS_MIN, 1), np.int64))
    assert single.entropy() is None


def test_what_is_long_ago_counts_no_more():
    window = RoutingWindow(2)
    window.add(np.tile([[0], [1]], (WINDOW_ROWS // 2, 1)))
    for _ in range(10):
        window.add(np.zeros((WINDOW_ROWS, 1), np.int64))
    assert (window.entropy() or 1.0) < 0.01
