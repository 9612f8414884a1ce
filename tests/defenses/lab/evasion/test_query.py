"""Searches: each finds what there is to find, within the norm and the budget, and nothing where nothing is told."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from defenses.lab.attack import Answers
from defenses.lab.evasion.query import REFUSALS_MAX, Ball, Searching, margins
from defenses.lab.evasion.searches import Fresh, OarsNes, collided, oars_square, square
from tests.defenses.lab.evasion.linear import SIDE, Linear, middle

SEARCHES = {"square": square, "fresh": Fresh(), "oars-nes": OarsNes(), "oars-square": oars_square}
BUDGET = 600


@pytest.fixture(params=SEARCHES.values(), ids=SEARCHES.keys())
def attack(request):
    return Searching(request.param)


def run(attack, oracle, budget=BUDGET, seed=1):
    return attack.run(oracle, middle()[0], 0, budget, np.random.default_rng(seed))


def test_it_finds_what_there_is_to_find(attack):
    oracle, row = Linear(), middle()[0]
    found = attack.run(oracle, row, 0, BUDGET, np.random.default_rng(1))
    assert found.success
    assert oracle.probabilities(found.adversarial[None]).argmax() == 1
    assert found.norm <= 0.1 + 1e-6
    assert np.abs(found.adversarial - 0.5).max() <= 0.1 + 1e-6
    assert found.queries == len(oracle.asked) <= BUDGET
    np.testing.assert_array_equal(row, middle()[0])


def test_chance_comes_from_the_seed(attack):
    first, again, other = (run(attack, Linear(), 60, seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first.adversarial, again.adversarial)
    assert (first.adversarial != other.adversarial).any()


@pytest.mark.parametrize("budget", [1, 7, 60])
def test_the_budget_is_kept_to_the_row(attack, budget):
    oracle = Linear(reach=5.0)  # out of reach
    found = run(attack, oracle, budget)
    assert found.queries == len(oracle.asked) == budget
    assert found.norm <= 0.1 + 1e-6


def test_who_is_told_the_same_of_everything_is_told_nothing(attack):
    found = run(attack, Linear(reach=5.0, deaf=True), 200)
    assert not (found.success and found.queries < 200)


def test_an_account_that_gets_no_answers_is_given_up(attack):
    oracle = Linear(refusing=[0])
    found = run(attack, oracle, 100_000)
    assert 0 < found.queries <= REFUSALS_MAX * 60
    assert found.norm <= 0.1 + 1e-6


def test_unanswered_is_no_progress():
    answers = Answers(
        np.array([[0.8, 0.2], [0.2, 0.8], [np.nan, np.nan]], np.float32),
        np.array([0, 1, -1]),
        np.array([True, True, False]),
    )
    ahead = margins(answers, 0)
    assert ahead[0] == pytest.approx(-ahead[1])
    assert ahead[0] > 0
    assert ahead[2] == np.inf


def test_questions_may_leave_the_ball_and_claims_may_not():
    oracle = Linear(reach=5.0)
    found = run(Searching(Fresh(reach=0.2, rounds=1)), oracle, 100)
    distances = [np.abs(row - 0.5).max() for _, row in oracle.asked]
    assert min(distances) > 0.1
    assert found.success  # it believes so
    assert found.norm <= 0.1 + 1e-6


def test_fresh_questions_have_nothing_in_common():
    oracle = Linear(reach=5.0)
    run(Searching(Fresh(rounds=1)), oracle, 60)
    rows = np.array([row for _, row in oracle.asked]).reshape(60, -1)
    equal = [(rows[i] == rows[j]).mean() for i in range(60) for j in range(i)]
    assert max(equal) < 0.95
    assert np.median(equal) == pytest.approx(0.5, abs=0.05)


def test_the_ball_is_clipped_to_the_norm_and_to_what_a_pixel_may_be():
    row = np.zeros((SIDE, SIDE), np.float32)
    ball = Ball(row, 0.1)
    moved = ball.clip(np.stack([row - 1, row + 1]))
    assert moved.dtype == np.float32
    assert moved.min() == 0
    assert moved.max() == pytest.approx(0.1)
    assert ball.inside(moved).all()
    assert not ball.inside(moved + 0.2).any()


def test_rows_acted_upon_or_unanswered_collided():
    rows = np.array([[0.7, 0.3]] * 3, np.float32)
    answers = Answers(rows, rows.argmax(1), np.array([True, True, False]), np.array([False, True, False]))
    assert collided(answers).tolist() == [False, True, True]
    assert collided(replace(answers, acted=None)).tolist() == [False, False, True]


def test_oars_widens_its_proposals_until_they_pass():
    class Near(Linear):
        """Acts on what lies within 0.2 of the first row, but for that row."""

        def ask(self, rows, account=0):
            answers = super().ask(rows, account)
            near = np.median(np.abs(rows - self.asked[0][1]), axis=(1, 2)) < 0.1
            return Answers(answers.probabilities, answers.labels, answers.answered, near)

    oracle = Near(reach=5.0)
    run(Searching(OarsNes()), oracle, 100)
    proposals = np.array([row for _, row in oracle.asked[1:]])
    spread = np.median(np.abs(proposals - 0.5), axis=(1, 2))
    assert spread[60:].max() > 0.1 > spread[10:].min()
