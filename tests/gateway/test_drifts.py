"""What the drift detectors are fed with, and what they are called."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from defenses.policy import Action
from gateway import drifts as drifts_module
from gateway.drifts import ADWIN, MARTINGALE, P_VALUES, ROWS_AT_ONCE, SCORES, Drifts, thinned
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
