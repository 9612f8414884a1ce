"""Who stands on a step: what is reached, until when, and who gives way when there are too many."""

import random

import numpy as np
import pytest

from defenses.budget.policy import Action
from defenses.budget.steps import SLACK, Standing, Standings, Step

STEPS = [Step.at(0.001, Action.NEIGHBOUR, 100), Step.at(0.0001, Action.COOL_DOWN, 10)]
FOUND = STEPS[0].log_evidence


def reach(standings, account, log_evidence, now_ns):
    return Action(standings.reach([account], np.array([log_evidence]), [STEPS], now_ns)[0])


def test_a_step_lasts_from_when_it_was_last_reached_and_a_higher_one_holds():
    standings = Standings()
    assert reach(standings, "one", FOUND - 1, 0) == Action.ALLOW
    assert reach(standings, "one", FOUND, 0) == Action.NEIGHBOUR
    assert reach(standings, "one", STEPS[1].log_evidence, 50) == Action.COOL_DOWN
    assert reach(standings, "one", FOUND, 55) == Action.COOL_DOWN
    assert reach(standings, "one", FOUND, 60) == Action.NEIGHBOUR
    assert standings.of("one", 159) == Action.NEIGHBOUR
    assert standings.of("one", 160) == Action.ALLOW
    assert standings.of("other", 0) == Action.ALLOW


def test_evidence_that_is_no_number_is_all_there_can_be():
    assert reach(Standings(), "one", np.nan, 0) == Action.COOL_DOWN


@pytest.mark.parametrize("seed", range(20))
def test_of_too_many_those_give_way_that_end_first(seed):
    """Held against the plain way: look at all, each time."""
    rng = random.Random(seed)
    standings, plain, now_ns = Standings(standings_max=5), {}, 0
    for _ in range(2_000):
        now_ns += rng.randrange(8)
        account = f"account {rng.randrange(12)}"
        match rng.randrange(10):
            case 0:
                assert standings.forgive(account) == (plain.pop(account, None) is not None)
            case 1:
                if account in plain and plain[account].until_ns <= now_ns:
                    del plain[account]
                assert standings.of(account, now_ns) == (plain[account].action if account in plain else Action.ALLOW)
            case _:
                wanted = Standing(rng.choice([Action.NEIGHBOUR, Action.COOL_DOWN]), now_ns + rng.randrange(1, 10**6))
                standings.restore({account: wanted})
                if account not in plain or plain[account].action <= wanted.action:
                    plain[account] = wanted
                if len(plain) > 5:
                    del plain[min(plain, key=lambda name: plain[name].until_ns)]
        assert standings.held(0) == plain


def test_one_who_stays_on_a_step_takes_no_more_room_each_time():
    standings = Standings()
    for now_ns in range(10_000):
        reach(standings, "one", FOUND, now_ns)
    assert len(standings._ends) <= 2 + SLACK
