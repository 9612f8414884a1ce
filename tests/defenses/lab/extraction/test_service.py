"""What one account gets on its first day: counted at an oracle, and as prices say it has to be."""

from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest

from defenses.extraction.budget import Budget, BudgetStep
from defenses.extraction.ledger import Ledger
from defenses.lab.attack import Answers, Reason, Refused
from defenses.lab.extraction.service import expected, first_day, open_defence
from tests.defenses.lab.extraction.test_theft import CLASSES, Laboratory, run_of

NOW_NS = 10**18


def of_ledger(budget, costs):
    """The same, by charging an account row by row."""
    ledger = Ledger()
    steps = [ledger.charge("ann", budget, cost, NOW_NS) for cost in costs.tolist()]
    return steps.count(BudgetStep.FULL), steps.count(BudgetStep.TOP1)


@pytest.mark.parametrize("units", [1.0, 7.0, 50.0, 5_000.0])
def test_what_is_expected_is_what_an_account_gets(units):
    defence = replace(open_defence(run_of(Laboratory())), budget=Budget(units))
    costs = np.random.default_rng(0).integers(100, 3_000, 400)
    assert expected(defence, costs) == of_ledger(defence.budget, costs)


class Metered:
    """An oracle whose account runs out: so many answers in full, so many of the class alone, then none."""

    accounts = 1

    def __init__(self, full, top1):
        self.left = [True] * full + [False] * top1

    def ask(self, rows, account=0):
        steps, self.left = self.left[: len(rows)], self.left[len(rows) :]
        if not steps:
            raise Refused(Reason.PROOF_OF_WORK)
        told = np.full((len(rows), CLASSES), np.nan, np.float32)
        for row, full in enumerate(steps):
            told[row] = [0.5, 0.3, 0.2] if full else [1.0, 0.0, 0.0]
        answered = np.arange(len(rows)) < len(steps)
        return Answers(told, np.where(answered, 0, -1), answered)


def test_answers_are_counted_until_there_are_none():
    lab = Laboratory()

    @contextmanager
    def oracle(name, version, *, defended, changes=None):
        yield Metered(120, 33) if defended else Metered(10_000, 0)

    lab.oracle = oracle
    control, guarded = first_day(run_of(lab))
    assert (control.defended, control.successes, control.samples) == (False, 300, 300)
    assert {name: guarded.metrics[name] for name in ("full", "top1", "asked")} == {
        "full": 120,
        "top1": 33,
        "asked": 250,
    }
    assert guarded.successes == 153
    assert guarded.metrics["expected_full"] > 0
