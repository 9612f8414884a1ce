"""What the drift detectors are fed with, and what they are called."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from defenses.budget.policy import Action
from defenses.drift.shift import roughness
from gateway.request import drifts as drifts_module
from gateway.request.drifts import (
    ADWIN,
    MARTINGALE,
    P_VALUES,
    ROUGHNESS,
    ROWS_AT_ONCE,
    SCORES,
    VALUES_AT_ONCE,
    Drifts,
    roughness_of,
    thinned,
)
from serving.bundles.manifest import TensorSpec
from tests.gateway.request.test_judgement import rules

ROWS = 4_000


PICTURES = (TensorSpec("image", "FP32", (-1, 8, 8), 0.0, 2.0),)


def served(inputs=PICTURES):
    bundle = SimpleNamespace(name="tiny", version="1", inputs=inputs)
    return replace(rules(), served=SimpleNamespace(bundle=bundle))


def judged(p_values, name="energy"):
    return SimpleNamespace(
        row_actions=np.full(len(p_values), Action.ALLOW, np.uint8),
        rows=[(name, np.zeros(len(p_values), np.uint8), p_values)],
    )


def observe(drifts, p_values, scores):
    """Rows as they come: a hundred at once."""
    for first in range(0, ROWS, 100):
        drifts.observe(served(), [judged(p_values[first : first + 100])], scores[first : first + 100])


def values(drifts):
    return {detector: value for _, _, detector, value in drifts.values()}


def test_rows_that_change_move_each_detector_and_rows_that_do_not_none():
    rng, drifts = np.random.default_rng(0), Drifts()
    for _ in range(2):
        observe(drifts, rng.random(ROWS), rng.beta(8, 2, ROWS).astype(np.float32))
    still = values(drifts)
    assert still.keys() == {
        P_VALUES + "energy",
        SCORES,
        MARTINGALE + "energy",
        ADWIN + "energy",
        ADWIN + SCORES,
    }
    assert (still[MARTINGALE + "energy"] < 1, still[ADWIN + "energy"], still[ADWIN + SCORES]) == (True, 0, 0)
    observe(drifts, rng.random(ROWS) ** 2, rng.beta(5, 5, ROWS).astype(np.float32))
    moved = values(drifts)
    assert moved[MARTINGALE + "energy"] > 1
    assert moved[ADWIN + "energy"] > 0.1
    assert moved[ADWIN + SCORES] > 0.15


def test_a_screen_that_remembers_accounts_is_not_bet_on():
    drifts = Drifts()
    drifts.observe(served(), [judged(np.zeros(ROWS), name="similarity")], np.empty(0))
    assert MARTINGALE + "similarity" not in values(drifts)
    assert ADWIN + "similarity" in values(drifts)


def test_the_bounds_of_a_calibration_are_worked_out_once(monkeypatch):
    made = []
    real = drifts_module.ConformalMartingale
    monkeypatch.setattr(drifts_module, "ConformalMartingale", lambda rows: made.append(rows) or real(rows))
    drifts, model = Drifts(), served()
    for _ in range(3):
        drifts.observe(model, [judged(np.full(8, 0.5))], np.empty(0))
    assert len(made) == 1


@pytest.mark.parametrize(
    ("rows", "looked_at"), [(0, 0), (1, 1), (ROWS_AT_ONCE, ROWS_AT_ONCE), (300, 100), (4_000, 125)]
)
def test_of_many_rows_at_once_some_are_looked_at_from_all_over(rows, looked_at):
    some = thinned(np.arange(rows))
    assert some.size == looked_at <= ROWS_AT_ONCE
    assert looked_at == 0 or (some[0] == 0 and rows - some[-1] <= rows / looked_at)


def pictures(rng, rows, noise=0.0):
    """Steps of light with noise on them."""
    found = np.kron(rng.random((rows, 4, 4)), np.ones((2, 2))) + rng.normal(0, noise, (rows, 8, 8))
    return {"image": found.astype(np.float32)}


def test_inputs_that_get_rougher_move_a_detector_of_their_own():
    rng, drifts = np.random.default_rng(3), Drifts()

    def see(noise):
        for _ in range(60):
            batches = [pictures(rng, rows, noise) for rows in (60, 1, 39)]
            drifts.observe(served(), [judged(rng.random(100))], np.empty(0), batches)
        return values(drifts)

    assert see(0.0)[ADWIN + ROUGHNESS] == 0
    assert see(0.1)[ADWIN + ROUGHNESS] > 0.05


def test_rows_are_looked_at_from_all_over_the_batches_and_in_parts_of_their_range():
    rng = np.random.default_rng(4)
    batches = [pictures(rng, rows) for rows in (1, 2, 1, 1)]
    each = roughness(np.concatenate([batch["image"] for batch in batches])) / 2.0
    np.testing.assert_allclose(roughness_of(served(), batches), each)
    batches = [pictures(rng, ROWS_AT_ONCE) for _ in range(3)]
    assert roughness_of(served(), batches).size == ROWS_AT_ONCE
    [large] = (TensorSpec("image", "FP32", (-1, 3, 300, 300), 0.0, 1.0),)
    huge = [{"image": rng.random((2, 3, 300, 300), np.float32)}]
    assert roughness_of(served((large,)), huge).size == 1 == max(1, VALUES_AT_ONCE // 270_000)


@pytest.mark.parametrize(
    "inputs",
    [
        (TensorSpec("row", "FP32", (-1, 8), 0.0, 1.0),),
        (TensorSpec("image", "FP32", (-1, 8, 8)),),
        (TensorSpec("image", "FP32", (-1, -1, 8), 0.0, 1.0),),
        PICTURES * 2,
    ],
)
def test_what_is_no_picture_in_a_range_is_not_looked_at(inputs):
    assert roughness_of(served(inputs), [{}]).size == 0
