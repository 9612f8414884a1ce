"""The attack of release gates: never leaves its ball, finds what is there to be found, is the same each time."""

from __future__ import annotations

import numpy as np
import pytest

from defenses.lab.evasion.random_search import attack

ROWS = 60
RADIUS = 0.1


def linear(weights, seen=None):
    """Two classes by the sign of a weighted sum: the optimal attack is known."""

    def predict(rows):
        if seen is not None:
            seen.append(rows.copy())
        score = rows.reshape(len(rows), -1).astype(np.float64) @ weights
        return np.stack([score, -score], axis=1)

    return predict


def rows_of(shape, seed=0):
    return np.random.default_rng(seed).uniform(0.2, 0.8, (ROWS, *shape)).astype(np.float32)


def ran(predict, inputs, labels, *, radius=RADIUS, queries=60, seed=0):
    rng = np.random.default_rng(seed)
    return attack(predict, inputs, labels, radius=radius, bounds=(0.0, 1.0), queries=queries, rng=rng)


@pytest.mark.parametrize("shape", [(12,), (6, 6), (3, 6, 6)], ids=["a line", "a picture", "in colours"])
def test_what_can_stand_stands_and_all_the_rest_falls(shape):
    weights = np.random.default_rng(1).normal(size=int(np.prod(shape)))
    weights -= weights.mean()  # so that rows lie on both sides, some of them near
    inputs = rows_of(shape)
    score = inputs.reshape(ROWS, -1) @ weights
    labels = (score < 0).astype(np.int64)
    share = np.abs(score) / (RADIUS * np.abs(weights).sum())  # of the ball that it takes to change a row's class
    right = ran(linear(weights), inputs, labels, queries=300)
    assert right[share > 1].all()
    assert not right[share < 0.9].any()
    assert ((share > 0.5) & (share < 0.9)).any()  # which chance alone does not find


def test_it_stays_in_the_ball_and_in_the_range_and_asks_no_more_than_it_may():
    weights, seen = np.ones(36), []
    inputs = np.clip(rows_of((6, 6)) * 1.4 - 0.2, 0, 1)
    ran(linear(weights, seen), inputs, np.zeros(ROWS, np.int64), queries=20)
    assert 1 < len(seen) <= 20
    for rows in seen:
        assert rows.min() >= 0.0
        assert rows.max() <= 1.0
    whole = [rows for rows in seen if len(rows) == ROWS]
    assert all(np.abs(rows - inputs).max() <= RADIUS + 1e-6 for rows in whole)


def test_a_seed_repeats_it_and_rows_that_are_wrong_stay_wrong():
    weights = np.random.default_rng(2).normal(size=36)
    inputs = rows_of((6, 6))
    labels = (inputs.reshape(ROWS, -1) @ weights < 0).astype(np.int64)
    labels[:5] = 1 - labels[:5]
    one, same = (ran(linear(weights), inputs, labels, seed=3) for _ in range(2))
    assert (one == same).all()
    assert not one[:5].any()
    assert ran(linear(weights), inputs, 1 - labels)[5:].sum() == 0


def test_with_no_room_nothing_falls():
    weights = np.ones(36)
    inputs = rows_of((6, 6))
    assert ran(linear(weights), inputs, np.zeros(ROWS, np.int64), radius=1e-9).all()
