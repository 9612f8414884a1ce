"""What the lab counts around an oracle, and what it keeps to itself."""

from __future__ import annotations

import numpy as np
import pytest

from defenses.lab.attack import Answers, BudgetSpent, Reason, Refused
from defenses.lab.evasion.query import Counted


class Scripted:
    """Answers class 0, acts on rows above 0.5, refuses rows above 0.9."""

    accounts = 2

    def __init__(self) -> None:
        self.asked = []

    def ask(self, rows, account=0):
        self.asked.append((len(rows), account))
        size = rows.reshape(len(rows), -1).max(1)
        if (size > 0.9).all():
            raise Refused(Reason.REFUSED)
        return Answers(
            np.eye(2, dtype=np.float32)[[0] * len(rows)], np.zeros(len(rows), np.int64), size <= 0.9, size > 0.5
        )


def rows(*values):
    return np.array(values, np.float32).reshape(-1, 1, 1)


def test_distinct_answered_rows_are_counted_until_the_first_action():
    counted = Counted(Scripted(), budget=100)
    counted.ask(rows(0.1, 0.1, 0.2))
    counted.ask(rows(0.1), account=1)
    assert (counted.asked, counted.answered, counted.before_action, counted.actions) == (4, 2, None, 0)
    counted.ask(rows(0.3, 0.6, 0.4))
    assert (counted.asked, counted.answered, counted.before_action, counted.actions) == (7, 5, 3, 1)
    counted.ask(rows(0.7))
    assert (counted.before_action, counted.actions) == (3, 2)


def test_a_refusal_is_an_action_and_no_answer():
    counted = Counted(Scripted(), budget=100)
    with pytest.raises(Refused):
        counted.ask(rows(0.95, 0.99))
    assert (counted.asked, counted.answered, counted.before_action) == (2, 0, 0)
    counted.ask(rows(0.1, 0.95))
    assert counted.answered == 1


def test_an_attack_does_not_learn_what_was_acted_upon_unless_it_may():
    assert Counted(Scripted(), budget=9).ask(rows(0.6)).acted is None
    told = Counted(Scripted(), budget=9, sees_actions=True).ask(rows(0.1, 0.6)).acted
    assert told is not None
    assert told.tolist() == [False, True]


def test_the_budget_ends_it_to_the_row():
    inner = Scripted()
    counted = Counted(inner, budget=3)
    counted.ask(rows(0.1, 0.2))
    assert len(counted.ask(rows(0.3, 0.4, 0.5)).labels) == 1
    with pytest.raises(BudgetSpent):
        counted.ask(rows(0.1))
    assert sum(asked for asked, _ in inner.asked) == counted.asked == 3
