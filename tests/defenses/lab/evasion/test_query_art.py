"""ART's attacks as attacks of the lab: when they give an account up."""

from __future__ import annotations

import numpy as np
import pytest

from defenses.lab.attack import Reason, Refused
from defenses.lab.evasion.query import Ball, Best
from defenses.lab.evasion.query_art import _Asking, _Lost
from tests.defenses.lab.evasion.linear import Linear, middle


class Refusing(Linear):
    def __init__(self, reason):
        super().__init__()
        self.reason, self.calls = reason, 0

    def ask(self, rows, account=0):
        self.calls += 1
        raise Refused(self.reason)


@pytest.mark.parametrize(("reason", "calls"), [(Reason.RATE_LIMITED, 4), (Reason.REFUSED, 100)])
def test_an_account_is_lost_after_100_rows_to_a_limit_and_after_100_calls_to_a_screen(reason, calls):
    oracle = Refusing(reason)
    asking = _Asking(oracle, Best(Ball(middle()[0], 0.1), 0), 100_000, 3)

    def ask_on():
        while True:
            given = asking(middle(30))
            np.testing.assert_array_equal(given.argmax(axis=1), 0)

    with pytest.raises(_Lost):
        ask_on()
    assert oracle.calls == calls
    assert asking.best.queries == 30 * calls
