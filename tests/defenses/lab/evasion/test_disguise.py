"""Disguises: innocent questions between, Sybils, images in turn."""

from __future__ import annotations

import numpy as np
import pytest

from defenses.lab.attack import Refused
from defenses.lab.evasion.disguise import Between, Spread, rotate
from defenses.lab.evasion.query import Ball, Task
from defenses.lab.evasion.searches import Fresh, square
from tests.defenses.lab.evasion.linear import SIDE, Linear, middle


def quiet(done, total):
    assert done <= total


@pytest.mark.parametrize(("share", "each"), [(0.5, 1), (0.9, 9)])
def test_innocent_questions_stand_between(share, each):
    oracle = Linear()
    innocent = np.zeros((3, SIDE, SIDE), np.float32)
    answers = Between(oracle, innocent, share).ask(middle(10))
    own = [bool(row.max()) for _, row in oracle.asked]
    assert sum(own) == len(answers.labels) == 10
    assert len(own) == 10 * (each + 1)
    assert not any(one and other for one, other in zip(own[1:], own[:-1], strict=True))
    np.testing.assert_array_equal(answers.probabilities, oracle.probabilities(middle(10)))


def test_who_gets_no_answer_of_his_own_is_refused():
    with pytest.raises(Refused):
        Between(Linear(refusing=[0]), middle(3), 0.5).ask(middle(2))


def test_sybils_take_turns():
    oracle = Linear(accounts=5)
    spread = Spread(oracle, [3, 1, 4])
    rows = np.stack([np.full((SIDE, SIDE), value, np.float32) for value in (0.1, 0.3, 0.5, 0.7)])
    answers = spread.ask(rows)
    np.testing.assert_array_equal(answers.probabilities, oracle.probabilities(rows))
    spread.ask(rows[:1])
    by_account = {account: [] for account in (3, 1, 4)}
    for account, row in oracle.asked:
        by_account[account].append(round(float(row[0, 0]), 1))
    assert by_account == {3: [0.1, 0.7], 1: [0.3, 0.1], 4: [0.5]}


def test_a_sybil_that_is_refused_does_not_silence_the_others():
    answers = Spread(Linear(accounts=2, refusing=[1]), [0, 1]).ask(middle(4))
    assert answers.answered.tolist() == [True, False, True, False]
    assert answers.acted is not None
    assert answers.acted.tolist() == [False, True, False, True]
    with pytest.raises(Refused):
        Spread(Linear(accounts=2, refusing=[0, 1]), [0, 1]).ask(middle(4))


@pytest.mark.parametrize("search", [square, Fresh()])
def test_images_are_asked_about_in_turn(search):
    oracle = Linear(reach=5.0)
    rows = np.stack([middle()[0] * np.float32(part) for part in (0.6, 1.0, 1.4)])
    tasks = [Task(Ball(row, 0.05), 0, 40) for row in rows]
    attempts = rotate(oracle, search, tasks, np.random.default_rng(1), quiet)
    assert [one.queries for one in attempts] == [40] * 3
    asked = np.array([row for _, row in oracle.asked])
    nearest = np.abs(asked[:, None] - rows).mean((2, 3)).argmin(1)
    assert nearest.tolist() == [0, 1, 2] * 40


def test_what_falls_in_turn_is_left_alone_and_the_rest_goes_on():
    oracle = Linear()
    tasks = [Task(Ball(row, 0.1), label, 300) for row, label in zip(middle(2), (0, 1), strict=True)]
    attempts = rotate(oracle, square, tasks, np.random.default_rng(1), quiet)
    assert attempts[1].queries == 1  # answered as another class at once
    assert attempts[0].success
    assert attempts[0].queries > 1
    assert len(oracle.asked) == attempts[0].queries + 1


def test_an_account_that_is_lost_is_given_up_in_turn():
    oracle = Linear(refusing=[0])
    rotate(oracle, square, [Task(Ball(middle()[0], 0.1), 0, 300)], np.random.default_rng(1), quiet)
    assert len(oracle.asked) < 10
