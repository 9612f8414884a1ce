"""Membership attacks: they tell where there is something to tell, nothing where there is nothing, and count rightly."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from defenses.lab.attack import Answers, Reason, Refused
from defenses.lab.inference.membership import (
    CLIP,
    confidence_of_answers,
    confidence_of_logits,
    likelihood_ratio,
    quantile_score,
    steadiness,
    told,
)
from defenses.lab.inference.membership_trials import ask_all

MODELS, ROWS = 16, 1_000


def shadows(rng, gain):
    """phi of rows of differing ease, higher by `gain` where a model learned from them."""
    ease = rng.normal(0, 3, ROWS)
    learned = rng.random((MODELS + 1, ROWS)) < 0.5
    phi = ease + gain * learned + rng.normal(0, 1, learned.shape)
    return phi[0][:, None], phi[1:, :, None], learned[1:], learned[0]


def test_lira_finds_what_a_plain_threshold_does_not():
    target, others, learned, members = shadows(np.random.default_rng(0), 2.0)
    scores = likelihood_ratio(target, others, learned)
    found = told(scores[members], scores[~members])
    plain = told(target[members, 0], target[~members, 0])
    assert found.auc > 0.9
    assert plain.auc < 0.75
    assert found.caught[0.01] > 0.3 * found.members > plain.caught[0.01]


def test_where_nothing_was_learned_nothing_is_told():
    target, others, learned, members = shadows(np.random.default_rng(1), 0.0)
    scores = likelihood_ratio(target, others, learned)
    found = told(scores[members], scores[~members])
    assert found.auc_low < 0.5 < found.auc_high
    assert found.caught[0.001] <= 0.02 * found.members


def test_a_row_that_no_shadow_learned_from_is_judged_by_those_there_are():
    target, others, learned, members = shadows(np.random.default_rng(2), 3.0)
    scores = likelihood_ratio(target, others, np.zeros_like(learned))
    assert np.isfinite(scores).all()
    assert told(scores[members], scores[~members]).auc > 0.55


def test_rows_that_none_or_every_shadow_learned_from_are_ranked_with_the_others():
    """With six shadows some rows are. Their scores may not crowd the top, where so few false alarms are allowed."""
    rng = np.random.default_rng(4)
    target, others, learned, members = shadows(rng, 2.0)
    few = others[:6] + 15, learned[:6]  # confidences far above 0, as those of easy rows are
    lacking = learned[:6].all(axis=0) | ~learned[:6].any(axis=0)
    assert 10 < lacking.sum() < 100
    scores = likelihood_ratio(target + 15, *few)
    top = np.argsort(-scores)[:100]
    assert lacking[top].sum() <= 10
    found = told(scores[members & lacking], scores[~members & lacking])
    assert found.auc > 0.6


def test_the_offline_score_is_higher_for_the_surer():
    out = np.array([[[0.0], [0.0]], [[1.0], [1.0]]])
    low, high = likelihood_ratio(np.array([[0.0], [9.0]]), out, np.zeros((2, 2), np.bool_))
    assert high > low


@given(st.lists(st.integers(0, 5), min_size=2, max_size=30), st.lists(st.integers(0, 5), min_size=2, max_size=30))
def test_the_area_counts_pairs_and_ties_half(members, others):
    wanted = np.mean([(m > o) + (m == o) / 2 for m in members for o in others])
    found = told(np.array(members, float), np.array(others, float))
    assert found.auc == pytest.approx(wanted)
    assert found.auc_low <= found.auc <= found.auc_high


def test_at_a_rate_at_most_that_many_of_the_others_are_above():
    others = np.arange(1_000.0)
    found = told(np.array([997.5, 998.5, 999.5]), others, rates=(0.001, 0.002))
    assert found.caught == {0.001: 2, 0.002: 3}  # above 998, and so above all but one; above 997
    assert all(0 < x < 1 and 0 <= y <= 1 for x, y in found.curve)


def test_confidence_of_answers_is_held_at_half_a_unit_and_the_median_where_there_is_none():
    answered = np.array([[1.0, 0.0], [0.0, 1.0], [0.5, 0.5], [np.nan, np.nan]], np.float32)
    phi = confidence_of_answers(answered, np.array([0, 0, 0, 0]))
    edge = np.log((1 - CLIP) / CLIP)
    assert phi == pytest.approx([edge, -edge, 0.0, 0.0])
    assert confidence_of_answers(answered[3:], np.array([1])).tolist() == [0.0]


def test_confidence_of_logits_is_the_same_where_both_can_say_it():
    logits = np.random.default_rng(3).normal(0, 1, (50, 4))
    labels = np.arange(50) % 4
    likely = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    assert confidence_of_logits(logits, labels) == pytest.approx(
        confidence_of_answers(likely.astype(np.float32), labels), abs=1e-4
    )
    huge = confidence_of_logits(np.array([[900.0, 0.0], [-900.0, 0.0]]), np.array([0, 0]))
    assert huge == pytest.approx([900.0, -900.0])


def test_scores_of_the_regression_are_in_deviations():
    scores = quantile_score(np.array([3.0, 3.0]), np.array([[1.0, 0.0], [1.0, np.log(2.0)]]))
    assert scores == pytest.approx([2.0, 1.0])


def test_steadiness_is_the_share_of_right_copies():
    answers = Answers(np.zeros((6, 2), np.float32), np.array([0, 0, 1, 1, -1, 0]), np.ones(6, np.bool_))
    assert steadiness(answers, np.array([0, 1])).tolist() == pytest.approx([2 / 3, 1 / 3])


class Refusing:
    accounts = 1

    def ask(self, rows, account=0):
        if rows.max() > 0.9:
            raise Refused(Reason.REFUSED)
        return Answers(
            np.full((len(rows), 3), 1 / 3, np.float32), np.zeros(len(rows), np.int64), np.ones(len(rows), bool)
        )


def test_a_call_of_which_nothing_is_answered_is_not_the_end(monkeypatch):
    monkeypatch.setattr("defenses.lab.inference.membership_trials.ROWS_PER_ASK_MAX", 2)
    answers = ask_all(Refusing(), np.array([0.1, 0.2, 1.0, 1.0, 0.3], np.float32).reshape(-1, 1, 1))
    assert answers.answered.tolist() == [True, True, False, False, True]
    assert np.isnan(answers.probabilities[2:4]).all()
    assert answers.labels.tolist() == [0, 0, -1, -1, 0]
