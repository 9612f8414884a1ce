"""From what a model saw to what may leave: a screen's verdict, the policy's decision, and the record of both."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from defenses.budget.calibration import Calibrated, ConformalCalibration
from defenses.budget.hardening import HardeningRule
from defenses.budget.policy import Action, Mode, ScreenRule
from defenses.errors import EvidenceInvalid
from gateway import errors
from gateway.models.rules import ModelRules, ScreenInForce
from gateway.request.judgement import judge, soften
from ops.audit.log import entry

HONEST = np.linspace(0, 1, 2_000)
ROWS = {"energy": np.array([0.5, 0.2, 0.9995, 7.0, 0.1])}  # honest, honest, odd, foreign, honest
STARTS = np.array([0, 2, 3])


class EnergyScreen:
    """Scores a row by one output of the model."""

    name = "energy"
    technique = "AML.T0015"
    digest = "f0" * 32

    def score(self, evidence):
        if "energy" not in evidence.outputs:
            raise EvidenceInvalid("energy", "absent")
        return evidence.outputs["energy"].astype(np.float64)


def rules(mode: Mode = Mode.ENFORCE, **changes) -> ModelRules:
    screen = EnergyScreen()
    calibrated = Calibrated(screen, ConformalCalibration.from_scores(HONEST))
    made = ModelRules(
        served=None,
        outputs=(),
        datatypes={},
        cost_per_row=1,
        screens={"energy": ScreenInForce(calibrated, screen.digest, screen.technique)},
        screen_rules={"energy": ScreenRule(mode, 0.01, 0.0006)},
        prediction="probabilities",
        hardening=None,
        harden_flagged=False,
        reveal_verdict=False,
        capture="none",
        capture_rate=0.0,
    )
    return replace(made, **changes)


def verdicts(judgement) -> list[str]:
    return [json.loads(text)[0]["verdict"] for text in judgement.screens_json]


def test_the_worst_row_of_a_request_decides_it_and_no_other_request():
    judgement = judge(rules(), {}, ROWS, STARTS, 5)
    assert judgement.actions == [Action.ALLOW, Action.FLAG, Action.REFUSE]
    assert judgement.row_actions.tolist() == [Action.ALLOW, Action.ALLOW, Action.FLAG, Action.REFUSE, Action.ALLOW]
    assert verdicts(judgement) == ["pass", "flag", "refuse"]


def test_a_shadow_says_the_same_and_changes_nothing():
    judgement = judge(rules(Mode.SHADOW), {}, ROWS, STARTS, 5)
    assert judgement.actions == [Action.ALLOW] * 3
    assert verdicts(judgement) == ["pass", "flag", "refuse"]
    assert {json.loads(text)[0]["mode"] for text in judgement.screens_json} == {"shadow"}


def test_what_is_recorded_of_a_screen_is_canonical():
    for text in judge(rules(), {}, ROWS, STARTS, 5).screens_json:
        assert entry.canonical(json.loads(text)).decode() == text
        (said,) = json.loads(text)
        assert (said["digest"], said["technique"]) == ("f0" * 32, "AML.T0015")
        assert (said["p_micro"] <= said["threshold_micro"]) == (said["verdict"] != "pass")


def test_without_screens_everything_is_allowed_and_nothing_is_said():
    judgement = judge(rules(screens={}, screen_rules={}), {}, ROWS, STARTS, 5)
    assert judgement.actions == [Action.ALLOW] * 3
    assert judgement.screens_json == [None] * 3


def test_a_screen_that_cannot_judge_fails_closed():
    with pytest.raises(errors.ScreenUnavailable):
        judge(rules(), {}, {"logits": ROWS["energy"]}, STARTS, 5)


def probabilities() -> dict[str, np.ndarray]:
    return {"probabilities": np.tile(np.array([[0.7, 0.2, 0.1]], np.float32), (5, 1)), "energy": ROWS["energy"]}


def test_hardening_keeps_the_top_class_and_gives_less_away():
    hard = HardeningRule(top_k=1, temperature=1.0, decimals=1)
    outputs = probabilities()
    shown = soften(outputs, np.zeros(5, np.uint8), rules(hardening=hard))
    assert (shown["probabilities"].argmax(axis=1) == 0).all()
    assert not np.array_equal(shown["probabilities"], outputs["probabilities"])
    assert shown["energy"] is outputs["energy"]
    np.testing.assert_array_equal(outputs["probabilities"][0], np.array([0.7, 0.2, 0.1], np.float32))


def test_hardening_only_what_was_flagged_leaves_the_rest_as_it_was():
    hard = rules(hardening=HardeningRule(top_k=1, temperature=1.0, decimals=1), harden_flagged=True)
    judgement = judge(hard, {}, probabilities(), STARTS, 5)
    assert judgement.row_actions[2] == Action.HARDEN
    shown = soften(probabilities(), judgement.row_actions, hard)["probabilities"]
    changed = (shown != probabilities()["probabilities"]).any(axis=1)
    assert changed.tolist() == [False, False, True, False, False]


def test_no_rule_or_no_prediction_means_no_hardening():
    outputs = probabilities()
    assert soften(outputs, np.zeros(5, np.uint8), rules()) is outputs
    without = {"energy": ROWS["energy"]}
    assert soften(without, np.zeros(5, np.uint8), rules(hardening=HardeningRule(1, 1.0, 1))) is without
