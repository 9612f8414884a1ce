"""Returns: what is one, what it is worth, and that old things are remembered for them."""

from __future__ import annotations

import math

import msgspec
import numpy as np
import pytest

from defenses.accounts.returns import AGE, APART_SHARE, BETS, BOUND, NAME, OTHERS, SLOW, Returns, lies_alone
from defenses.accounts.window import ANCHORS_MAX
from defenses.errors import CalibrationInvalid, SnapshotInvalid
from tests.watching import KEY, ask, images, new_watch, watch_arrays

RARE = watch_arrays() | {BOUND: np.array([0.002])}
THINGS = images(21, 1_200)


def again(row, seed=0):
    """A query in the ball of a row."""
    return np.clip(row + np.random.default_rng(seed).choice([-0.05, 0.05], row.shape), 0, 1).astype(np.float32)


def beside(row, number):
    """Something much like a row, and outside of its ball: two of its 49 blocks are the other way round."""
    changed = row.copy()
    for at in range(2 * number + 8, 2 * number + 10):
        y, x = divmod(at, 7)
        block = np.s_[4 * y : 4 * y + 4, 4 * x : 4 * x + 4]
        changed[block] = (changed[block] + 0.5) % 1
    return changed


def full_watch(arrays=RARE):
    watch = new_watch(arrays=arrays)
    ask(watch, THINGS[:ANCHORS_MAX])
    return watch


def outcome(watch, row, principal="mallory"):
    return ask(watch, row[None], principal).outcomes[NAME][0].tolist()


@pytest.mark.parametrize(
    "bound", [np.array([0.0]), np.array([1.0]), np.array([np.nan]), np.array([0.1, 0.1]), np.array([0.1], np.float32)]
)
def test_bounds_that_are_no_probability_are_refused(bound):
    with pytest.raises(CalibrationInvalid):
        Returns.from_calibration({BOUND: bound})


def test_e_values_are_fair_at_the_bound_and_pay_more_for_a_return():
    returns = Returns.from_calibration(RARE)
    for nothing, returned in zip(*np.exp(returns.log_e), strict=True):
        assert 0.998 * nothing + 0.002 * returned == pytest.approx(1)
        assert nothing < 1 < returned
    assert Returns.from_calibration(watch_arrays()) is None


def test_alone_is_with_few_others_near():
    edge = int(192 * APART_SHARE)
    near = np.full(OTHERS - 1, edge, np.uint8)
    assert lies_alone(np.append(near, np.uint8(edge + 1)), 192)
    assert not lies_alone(np.append(near, np.uint8(edge)), 192)


def test_a_return_is_to_what_was_asked_long_ago():
    watch = full_watch()
    held = watch.windows["acme"]
    assert outcome(watch, again(THINGS[ANCHORS_MAX - AGE + 1])) == [0, 0]  # asked AGE - 1 queries ago
    assert outcome(watch, again(THINGS[ANCHORS_MAX - AGE + 1])) == [-1, -1]  # the same again, bit for bit
    assert outcome(watch, again(THINGS[ANCHORS_MAX - AGE + 2])) == [0, 1]  # it moved on by two
    at = int(held.met.argmin())
    old = THINGS[int(held.met[at]) - 1]
    assert outcome(watch, again(old, 1)) == [0, 1]
    assert outcome(watch, again(old, 2)) == [0, 0]  # just met
    assert outcome(watch, again(old, 2)) == [-1, -1]  # the same again, bit for bit
    assert outcome(watch, THINGS[700]) == [0, 0]


def test_what_is_not_the_accounts_own_is_no_return():
    watch = full_watch()
    old = THINGS[int(watch.windows["acme"].met.min()) - 1]
    assert outcome(watch, again(old), "alice") == [0, 0]


@pytest.mark.parametrize("others", [OTHERS - 1, OTHERS])
def test_what_looks_like_many_others_is_no_return(others):
    watch = new_watch(arrays=RARE)
    neighbours = np.stack([beside(THINGS[0], number) for number in range(others)])
    ask(watch, np.concatenate([THINGS[:1], neighbours, THINGS[1 : ANCHORS_MAX - others]]))
    assert watch.windows["acme"].size == ANCHORS_MAX
    seen = ask(watch, again(THINGS[0])[None])
    assert seen.anchors
    assert seen.outcomes[NAME].tolist() == [[0, int(others < OTHERS)]]


def test_nothing_is_bet_before_a_window_is_full_nor_without_a_calibration():
    watch = new_watch(arrays=RARE)
    assert (ask(watch, THINGS[: ANCHORS_MAX - 1]).outcomes[NAME] == -1).all()
    assert watch.known.accounts["mallory"].returning is None
    plain = full_watch(watch_arrays())
    seen = ask(plain, again(THINGS[3])[None])
    assert NAME not in seen.outcomes
    assert plain.known.accounts["mallory"].returning is None
    assert plain.windows["acme"].slow == 0


def test_slow_places_remember_for_longer():
    watch, plain = full_watch(), full_watch(watch_arrays())
    more = images(22, 3_000)
    for one in (watch, plain):
        ask(one, more)
    old = [np.count_nonzero(one.windows["acme"].met <= ANCHORS_MAX) for one in (watch, plain)]
    assert 50 < old[0] <= SLOW + 2  # 100 exp(-3000 / 8000) of them
    assert old[1] < 8  # 500 exp(-3000 / 500)


def test_evidence_of_returns_is_kept_restored_and_forgiven():
    watch = full_watch()
    order = np.argsort(watch.windows["acme"].met)[:8]
    for at in watch.windows["acme"].met[order].tolist():
        ask(watch, again(THINGS[at - 1])[None])
    account = watch.known.accounts["mallory"]
    assert account.returning.log_evidence > math.log(1_000)
    other = new_watch(arrays=RARE)
    other.restore(watch.snapshot())
    assert other.snapshot() == watch.snapshot()
    assert other.windows["acme"].slow == SLOW
    assert ask(other, THINGS[900:901]).log_evidence == ask(watch, THINGS[900:901]).log_evidence
    watch.forgive("mallory")
    assert account.returning is None


def test_snapshots_from_before_there_were_returns_are_restored():
    watch = new_watch(arrays=watch_arrays())
    ask(watch, THINGS[:20])
    memory = msgspec.msgpack.decode(watch.snapshot())
    memory[3] = [account[:-1] for account in memory[3]]
    other = new_watch(arrays=watch_arrays())
    other.restore(msgspec.msgpack.encode(memory))
    assert other.snapshot() == watch.snapshot()


def test_evidence_of_other_bets_is_refused():
    watch = full_watch()
    ask(watch, THINGS[600:601])
    memory = msgspec.msgpack.decode(watch.snapshot())
    memory[3][0][-1][1] = [0.0] * (BETS + 1)
    with pytest.raises(SnapshotInvalid):
        new_watch(key=KEY, arrays=RARE).restore(msgspec.msgpack.encode(memory))
