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
        outcome = gcra.spend(tat_ns, now_ns, cost, interval_ns, burst * interval_ns)
        assert (outcome.admitted, outcome.remaining, outcome.retry_after_ns) == slow.spend(now_ns, cost)
        tat_ns = outcome.tat_ns


@given(STEPS, st.integers(1, 700), st.integers(1, 10))
def test_no_window_admits_more_than_the_burst_and_the_rate(steps, interval_ns, burst):
    tat_ns, now_ns, admitted = 0, 0, []
    for passed_ns, cost in steps:
        now_ns += passed_ns
        outcome = gcra.spend(tat_ns, now_ns, cost, interval_ns, burst * interval_ns)
        tat_ns = outcome.tat_ns
        if outcome.admitted:
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
    outcome = gcra.spend(tat_ns, now_ns, cost, interval_ns, burst * interval_ns)
    if outcome.admitted:
        assert outcome.retry_after_ns == 0
    elif cost > burst:
        assert outcome.retry_after_ns == gcra.NEVER
        assert not gcra.spend(outcome.tat_ns, now_ns + 10**18, cost, interval_ns, burst * interval_ns).admitted
    else:
        later_ns = now_ns + outcome.retry_after_ns
        assert gcra.spend(outcome.tat_ns, later_ns, cost, interval_ns, burst * interval_ns).admitted
        assert not gcra.spend(outcome.tat_ns, later_ns - 1, cost, interval_ns, burst * interval_ns).admitted


def test_the_burst_is_admitted_and_one_more_is_not():
    tat_ns = 0
    for left in (2, 1, 0):
        outcome = gcra.spend(tat_ns, 1_000, 1, 100, 300)
        tat_ns = outcome.tat_ns
        assert outcome == (1_300 - left * 100, True, left, 0)
    assert gcra.spend(tat_ns, 1_000, 1, 100, 300) == (1_300, False, 0, 100)


@given(st.integers(0, 10**6), st.integers(0, 10**6), st.integers(0, 5))
def test_a_clock_that_jumps_back_refuses_no_longer_than_the_burst(now_ns, back_ns, cost):
    tat_ns = gcra.spend(now_ns, now_ns, 5, 100, 500).tat_ns
    outcome = gcra.spend(tat_ns, now_ns - back_ns, cost, 100, 500)
    assert outcome.retry_after_ns <= 500
    assert outcome.tat_ns <= now_ns - back_ns + 500


@pytest.mark.parametrize("cost", [0, 1, 3])
def test_a_refusal_leaves_the_bucket_as_it_was(cost):
    assert gcra.spend(1_299, 1_000, 3, 100, 300).tat_ns == 1_299
    assert gcra.spend(500, 1_000, cost, 100, 300).tat_ns == 1_000 + cost * 100
