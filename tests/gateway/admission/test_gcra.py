from fractions import Fraction

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gateway.admission import gcra

STEPS = st.lists(st.tuples(st.integers(0, 4_000), st.integers(0, 12)), max_size=40)  # time passes, then a cost


class SlowBucket:
    """The textbook token bucket in exact fractions: what the algorithm must equal."""

    def __init__(self, interval_ns, burst):
        self.interval_ns, self.burst = interval_ns, burst
        self.level, self.at_ns = Fraction(burst), 0

    def spend(self, now_ns, cost):
        self.level = min(Fraction(self.burst), self.level + Fraction(now_ns - self.at_ns, self.interval_ns))
        self.at_ns = now_ns
        if cost <= self.level:
            self.level -= cost
            return True, int(self.level), 0
        if cost > self.burst:
            return False, int(self.level), gcra.NEVER
        return False, int(self.level), (cost - self.level) * self.interval_ns


@given(STEPS, st.integers(1, 700), st.integers(1, 10))
@example([(0, 10), (0, 1), (699, 1), (1, 1)], 700, 10)
def test_it_equals_the_token_bucket_to_the_nanosecond(steps, interval_ns, burst):
    slow, tat_ns, now_ns = SlowBucket(interval_ns, burst), 0, 0
    for passed_ns, cost in steps:
        now_ns += passed_ns
        tat_ns, *outcome = gcra.spend(tat_ns, now_ns, cost, interval_ns, burst * interval_ns)
        assert tuple(outcome) == slow.spend(now_ns, cost)


@given(STEPS, st.integers(1, 700), st.integers(1, 10))
def test_no_window_admits_more_than_the_burst_and_the_rate(steps, interval_ns, burst):
    tat_ns, now_ns, admitted = 0, 0, []
    for passed_ns, cost in steps:
        now_ns += passed_ns
        tat_ns, is_admitted, _, _ = gcra.spend(tat_ns, now_ns, cost, interval_ns, burst * interval_ns)
        if is_admitted:
            admitted.append((now_ns, cost))
    for first, (begin_ns, _) in enumerate(admitted):
        total = 0
        for end_ns, cost in admitted[first:]:
            total += cost
            assert total * interval_ns <= burst * interval_ns + (end_ns - begin_ns)


@given(
    st.integers(-10_000, 10_000), st.integers(0, 10_000), st.integers(1, 20), st.integers(1, 700), st.integers(1, 10)
)
def test_waiting_as_told_is_enough_and_a_nanosecond_less_is_not(tat_ns, now_ns, cost, interval_ns, burst):
    after_ns, admitted, _, wait_ns = gcra.spend(tat_ns, now_ns, cost, interval_ns, burst * interval_ns)

    def admitted_at(later_ns):
        return gcra.spend(after_ns, later_ns, cost, interval_ns, burst * interval_ns)[1]

    if admitted:
        assert wait_ns == 0
    elif cost > burst:
        assert wait_ns == gcra.NEVER
        assert not admitted_at(now_ns + 10**18)
    else:
        assert admitted_at(now_ns + wait_ns)
        assert not admitted_at(now_ns + wait_ns - 1)


def test_the_burst_is_admitted_and_one_more_is_not():
    tat_ns = 0
    for left in (2, 1, 0):
        outcome = gcra.spend(tat_ns, 1_000, 1, 100, 300)
        tat_ns = outcome[0]
        assert outcome == (1_300 - left * 100, True, left, 0)
    assert gcra.spend(tat_ns, 1_000, 1, 100, 300) == (1_300, False, 0, 100)


@given(st.integers(0, 10**6), st.integers(0, 10**6), st.integers(0, 5))
def test_a_clock_that_jumps_back_refuses_no_longer_than_the_burst(now_ns, back_ns, cost):
    tat_ns, *_ = gcra.spend(now_ns, now_ns, 5, 100, 500)
    tat_ns, _, _, wait_ns = gcra.spend(tat_ns, now_ns - back_ns, cost, 100, 500)
    assert wait_ns <= 500
    assert tat_ns <= now_ns - back_ns + 500


@pytest.mark.parametrize("cost", [0, 1, 3])
def test_a_refusal_leaves_the_bucket_as_it_was(cost):
    assert gcra.spend(1_299, 1_000, 3, 100, 300)[:2] == (1_299, False)
    assert gcra.spend(500, 1_000, cost, 100, 300)[0] == 1_000 + cost * 100
