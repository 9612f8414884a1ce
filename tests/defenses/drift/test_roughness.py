"""Roughness of inputs: what it is of a picture, and how soon a change of it is seen."""

from __future__ import annotations

import numpy as np

from defenses.drift.roughness import RoughnessWindow, roughness


def test_it_is_the_mean_difference_of_neighbours_both_ways():
    board = np.indices((4, 4)).sum(axis=0) % 2
    stripes = np.tile([0.0, 1.0, 0.0, 1.0], (4, 1))
    assert roughness(np.stack([board, stripes, np.ones((4, 4))])).tolist() == [2.0, 1.0, 0.0]
    colours = np.stack([board, np.zeros((4, 4)), np.zeros((4, 4))])[None]
    np.testing.assert_allclose(roughness(colours), [2 / 3])


def test_a_change_is_seen_whatever_the_scale_and_none_where_there_is_none():
    for scale in (1.0, 1e-4):
        rng, window = np.random.default_rng(5), RoughnessWindow()
        window.add(scale * rng.gamma(9.0, size=100_000))
        assert (window.cuts, window.value) == (0, 0.0)
        window.add(scale * rng.gamma(11.0, size=320))
        assert window.cuts > 0
        assert window.value > 0.05


def test_nothing_is_said_before_there_is_something_to_hold_it_against():
    window = RoughnessWindow(rows_max=64)
    window.add(np.linspace(0, 1, 60))
    window.add(np.array([np.nan, np.inf]))
    window.add(np.full(4, 5.0))
    assert window.cuts == 0
    window.add(np.full(640, 9.0))
    assert window.value == 0.0, "all as far out as can be, and the same: nothing has changed since it looks"
