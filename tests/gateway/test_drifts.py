"""What the drift detectors are fed with, and what they are called."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np

from defenses.policy import Action
from gateway import drifts as drifts_module
from gateway.drifts import ADWIN, MARTINGALE, P_VALUES, SCORES, Drifts
from tests.gateway.test_judgement import rules

ROWS = 4_000


def served():
    bundle = SimpleNamespace(name="tiny", version="1")
    return replace(rules(), served=SimpleNamespace(bundle=bundle))


def judged(p_values, name="energy"):
    return SimpleNamespace(
        row_actions=np.full(len(p_values), Action.ALLOW, np.uint8),
        rows=[(name, np.zeros(len(p_values), np.uint8), p_values)],
    )


def values(drifts):
    return {detector: value for _, _, detector, value in drifts.values()}


def test_rows_that_change_move_each_detector_and_rows_that_do_not_none():
    rng, drifts = np.random.default_rng(0), Drifts()
    for _ in range(2):
        drifts.observe(served(), [judged(rng.random(ROWS))], rng.beta(8, 2, ROWS).astype(np.float32))
    still = values(drifts)
    assert still.keys() == {
        P_VALUES + "energy",
        SCORES,
        MARTINGALE + "energy",
        ADWIN + "energy",
        ADWIN + SCORES,
    }
    assert (still[MARTINGALE + "energy"] < 1, still[ADWIN + "energy"], still[ADWIN + SCORES]) == (True, 0, 0)
    drifts.observe(served(), [judged(rng.random(ROWS) ** 2)], rng.beta(5, 5, ROWS).astype(np.float32))
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
