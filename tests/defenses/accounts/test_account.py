"""E-processes: the start weights are a distribution, bets are fair within their bounds, and Ville's bound holds."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from defenses.accounts.account import (
    LOG_EVIDENCE_MAX,
    REPEAT_BETS,
    STEPS_MAX,
    Account,
    Bet,
    EProcess,
    context_of,
    log_add,
    log_mean,
    log_start_weight,
    since,
)
from defenses.errors import CalibrationInvalid

HOPES = (0.25, 0.75)
BETS = [(0.9, HOPES), (0.5, HOPES), (0.1, HOPES)]
LOGS = st.floats(-50, 50) | st.just(-math.inf)


def test_the_start_weights_sum_to_one():
    steps = 200_000
    head = sum(math.exp(log_start_weight(t)) for t in range(1, steps + 1))
    rest = math.exp(log_start_weight(steps)) * steps * math.log(steps)  # of the integral: 1 / log, in the same scale
    assert head + rest == pytest.approx(1.0, abs=1e-3)


@given(st.lists(st.floats(-5, 5), min_size=1, max_size=50))
def test_a_process_is_the_weighted_sum_of_products_that_begin_at_every_step(values):
    process = EProcess()
    for value in values:
        process.update([value])
    sums = [math.exp(log_start_weight(s + 1) + sum(values[s:])) for s in range(len(values))]
    assert (
        process.log_evidence == pytest.approx(min(math.log(sum(sums)), LOG_EVIDENCE_MAX), abs=1e-6)
        or (
            process.log_evidence <= LOG_EVIDENCE_MAX  # it stopped growing on the way
            and max(math.fsum(values[:end]) for end in range(1, len(values) + 1)) > LOG_EVIDENCE_MAX - 15
        )
    )


@given(LOGS, LOGS)
def test_adding_logarithms(one, other):
    both = math.exp(one) + math.exp(other)
    assert log_add(one, other) == (pytest.approx(math.log(both)) if both else -math.inf)
    assert log_mean([one, other]) == (pytest.approx(math.log(both / 2)) if both else -math.inf)


def test_evidence_stops_growing_and_steps_do():
    process = EProcess(2)
    process.steps = STEPS_MAX
    for _ in range(10):
        process.update([600.0, -600.0])
    assert process.logs[0] == LOG_EVIDENCE_MAX
    assert process.steps == STEPS_MAX
    process.update([-math.inf, -math.inf])
    assert process.log_evidence == -math.inf


@given(
    st.lists(st.floats(0.001, 0.9), min_size=3, max_size=3),
    st.floats(0.05, 0.95),
    st.lists(st.floats(0, 1), min_size=2, max_size=2),
)
def test_a_bet_is_fair_for_all_that_is_within_its_bounds(bounds, share, used):
    bet = Bet.against(np.array([bounds]), [(share, HOPES)])
    pays = np.exp(bet.log_e[0, 0])
    rare = np.array(bounds[1:]) * used
    if rare.sum() > bounds[0]:
        rare *= bounds[0] / rare.sum()
    assert float(pays[1:] @ rare + pays[0] * (1 - rare.sum())) <= 1 + 1e-9


def test_a_bet_gives_nothing_away():
    bet = Bet.against(np.array([[0.3, 0.2, 0.05]]), [(0.5, HOPES)])
    pays = np.exp(bet.log_e[0, 0])
    assert pays @ [0.75, 0.2, 0.05] == pytest.approx(1.0)  # at all bounds at once
    tight = np.exp(Bet.against(np.array([[0.1, 0.2, 0.05]]), [(0.5, HOPES)]).log_e[0, 0])
    assert tight @ [0.9, 0.05, 0.05] == pytest.approx(1.0)  # the one that pays more first
    assert tight[2] > pays[2]


@pytest.mark.parametrize(
    "bounds", [[[0.0, 0.1, 0.1]], [[1.0, 0.5, 0.5]], [[0.9, 1.3, 0.1]], [[0.1, -0.1, 0.1]], [[0.1, math.nan, 0.1]]]
)
def test_bounds_that_are_none_are_refused(bounds):
    with pytest.raises(CalibrationInvalid):
        Bet.against(np.array(bounds), [(0.5, HOPES)])


def test_benign_accounts_seldom_reach_any_evidence_in_their_whole_life():
    rng = np.random.default_rng(5)
    bounds = np.array([[0.06, 0.05, 0.01]])
    bet = Bet.against(bounds, BETS)
    draws = rng.choice(3, size=(1_500, 200), p=[0.94, 0.05, 0.01])  # at the bounds: the worst benign traffic
    highest = []
    for stream in draws:
        process = EProcess(len(BETS))
        reached = -math.inf
        for outcome in stream:
            process.update(bet.log_e[:, 0, outcome].tolist())
            reached = max(reached, process.log_evidence)
        highest.append(reached)
    for alpha in (0.2, 0.05, 0.01):
        share = float(np.mean(np.array(highest) >= math.log(1 / alpha)))
        assert share <= alpha + 3 * math.sqrt(alpha / 1_500)
    assert max(highest) > math.log(5)  # the bet does move


@pytest.mark.parametrize(("share", "hopes"), REPEAT_BETS)
def test_the_bets_in_use_are_wholes(share, hopes):
    assert sum(hopes) == pytest.approx(1.0)
    assert 0 < share < 1


def test_credit_cannot_be_saved_up():
    bet = Bet.against(np.array([[0.06, 0.05, 0.01]]), BETS)

    def queries_until_found(innocent):
        process, asked = EProcess(len(BETS)), 0
        for _ in range(innocent):
            process.update(bet.log_e[:, 0, 0].tolist())
        while process.log_evidence < math.log(1_000):
            process.update(bet.log_e[:, 0, 2].tolist())
            asked += 1
        return asked

    assert queries_until_found(0) <= 4
    assert queries_until_found(20_000) <= queries_until_found(0) + 4


def test_an_account_averages_its_screens():
    account = Account("acme", EProcess(1))
    account.repeating.logs = [5.0]
    assert account.log_evidence == pytest.approx(5.0 + math.log(0.8))
    account.moving = EProcess(1)
    account.moving.logs = [10.0]
    assert account.log_evidence == pytest.approx(math.log(0.8 * math.exp(5) + 0.2 * math.exp(10)))


def test_contexts_follow_the_queries_since_a_repeat():
    assert [context_of(gap) for gap in (1, 2, 4, 5, 9)] == [0, 1, 1, 2, 2]
    assert since(3, 0) == 4
    assert since(5, 0) == 5
    assert since(5, 2) == 1
