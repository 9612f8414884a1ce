"""The contract of `gateway.admission.limiter.Limiter`, over every implementation.

A new implementation joins by a line in LIMITERS: a factory for an empty limiter that keeps at most `buckets` exact
buckets (one that has no such bound may ignore it). Times are whole microseconds: no clock needs to be finer.
"""

from collections import defaultdict
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.admission.gcra import NEVER
from gateway.admission.limiter import Bucket, Rule
from gateway.admission.memory import MemoryLimiter
from tests.gateway.admission.stepped import stepped
from tests.redis_server import needs_redis

US = 1_000
MS = 1_000 * US
T0 = 1_000_000 * MS

LIMITERS = [
    pytest.param(lambda buckets=1_000: MemoryLimiter(buckets_max=buckets), id="memory"),
    pytest.param(lambda buckets=1_000: MemoryLimiter(buckets_max=1, sketch_slots=4_096), id="memory-full"),
    pytest.param(stepped, id="redis", marks=needs_redis),
]
pytestmark = pytest.mark.parametrize("new_limiter", LIMITERS)

FAST = Rule("fast", interval_ns=MS, burst=10)
SLOW = Rule("slow", interval_ns=100 * MS, burst=3)


def bucket(name, rule=FAST):
    return Bucket(f"{rule.name}/{name}", rule)


def spend(limiter, *charges, at_ns=T0):
    return limiter.spend(charges, at_ns)


def level(limiter, of, at_ns=T0):
    """What is left, read without spending."""
    return spend(limiter, (of, 0), at_ns=at_ns).remaining


def test_the_burst_is_admitted_and_one_more_is_not(new_limiter):
    limiter = new_limiter()
    for left in range(9, -1, -1):
        decision = spend(limiter, (bucket("a"), 1))
        assert decision.admitted
        assert (decision.rule, decision.limit, decision.remaining, decision.retry_after_ms) == ("fast", 10, left, 0)
        assert decision.reset_ms == 10 - left
    refused = spend(limiter, (bucket("a"), 1))
    assert refused == (False, "fast", 10, 0, 10, 1)
    assert refused.state == (10, 0, 10)


def test_time_gives_back_the_rate_and_never_more_than_the_burst(new_limiter):
    limiter = new_limiter()
    spend(limiter, (bucket("a"), 10))
    assert not spend(limiter, (bucket("a"), 1), at_ns=T0 + MS - US).admitted
    assert spend(limiter, (bucket("a"), 1), at_ns=T0 + MS).admitted
    assert level(limiter, bucket("a"), T0 + 10_000 * MS) == 10


def test_waits_are_rounded_up_and_enough(new_limiter):
    limiter = new_limiter()
    spend(limiter, (bucket("a", SLOW), 3))
    refused = spend(limiter, (bucket("a", SLOW), 1), at_ns=T0 + MS // 2)
    assert refused.retry_after_ms == 100
    assert spend(limiter, (bucket("a", SLOW), 1), at_ns=T0 + MS // 2 + refused.retry_after_ms * MS).admitted


def test_keys_are_apart_and_equal_keys_are_one_bucket(new_limiter):
    limiter = new_limiter()
    spend(limiter, (bucket("a"), 10))
    assert level(limiter, bucket("b")) == 10
    assert level(limiter, bucket("a")) == 0


def test_a_refused_spend_changes_nothing_wherever_the_refusal_stands(new_limiter):
    for position in range(3):
        limiter = new_limiter()
        empty = bucket("empty", SLOW)
        spend(limiter, (empty, 3))
        full = [bucket("x"), bucket("y")]
        charges = [(of, 4) for of in full]
        charges.insert(position, (empty, 1))
        assert not limiter.spend(charges, T0).admitted
        assert [level(limiter, of) for of in full] == [10, 10]
        assert level(limiter, empty) == 0
        assert level(limiter, empty, T0 + 100 * MS) == 1


def test_an_admitted_spend_charges_every_bucket(new_limiter):
    limiter = new_limiter()
    charges = [(bucket(name), cost) for name, cost in (("a", 1), ("b", 2), ("c", 3), ("d", 0))]
    assert limiter.spend(charges, T0).admitted
    assert [level(limiter, of) for of, _ in charges] == [9, 8, 7, 10]


def test_a_bucket_named_twice_is_charged_twice(new_limiter):
    limiter = new_limiter()
    assert spend(limiter, (bucket("a"), 3), (bucket("a"), 4)).remaining == 3
    assert not spend(limiter, (bucket("a"), 2), (bucket("a"), 2)).admitted
    assert level(limiter, bucket("a")) == 3


def test_an_admission_tells_of_the_emptiest_bucket_and_a_refusal_of_the_longest_wait(new_limiter):
    limiter = new_limiter()
    admitted = spend(limiter, (bucket("a"), 1), (bucket("a", SLOW), 1), (bucket("b"), 1))
    assert (admitted.rule, admitted.remaining) == ("slow", 2)
    spend(limiter, (bucket("a", SLOW), 2), (bucket("a"), 9))
    for charges in ([(bucket("a"), 1), (bucket("a", SLOW), 1)], [(bucket("a", SLOW), 1), (bucket("a"), 1)]):
        refused = limiter.spend(charges, T0)
        assert (refused.admitted, refused.rule, refused.retry_after_ms) == (False, "slow", 100)


def test_the_whole_burst_fits_and_what_exceeds_it_never_does(new_limiter):
    limiter = new_limiter()
    never = spend(limiter, (bucket("a"), 11), (bucket("a", SLOW), 3))
    assert (never.admitted, never.rule, never.retry_after_ms) == (False, "fast", NEVER)
    assert spend(limiter, (bucket("a"), 10), (bucket("a", SLOW), 3)).admitted
    waits = spend(limiter, (bucket("a", SLOW), 1), (bucket("a"), 11))
    assert (waits.rule, waits.retry_after_ms) == ("fast", NEVER)
    assert spend(limiter, (bucket("a"), 11), (bucket("a", SLOW), 1)).retry_after_ms == NEVER


def test_a_cost_of_nothing_reads_and_is_always_admitted(new_limiter):
    limiter = new_limiter()
    spend(limiter, (bucket("a"), 10))
    for _ in range(3):
        assert spend(limiter, (bucket("a"), 0)) == (True, "fast", 10, 0, 10, 0)


@pytest.mark.parametrize("charges", [[], [(bucket("a"), -1)], [(bucket("a"), 5), (bucket("b"), -1)]])
def test_a_spend_that_is_none_is_refused_before_it_changes_anything(new_limiter, charges):
    limiter = new_limiter()
    with pytest.raises(ValueError):
        limiter.spend(charges, T0)
    assert level(limiter, bucket("a")) == 10


def test_the_rule_of_a_bucket_may_change(new_limiter):
    limiter = new_limiter()
    spend(limiter, (Bucket("k", Rule("before", 100 * MS, 100)), 100))
    narrower = Bucket("k", Rule("after", MS, 10))
    assert not spend(limiter, (narrower, 1)).admitted
    assert spend(limiter, (narrower, 1), at_ns=T0 + 20_000 * MS).admitted


NAMES = st.sampled_from(["a", "b", "c", "d"])
CALLS = st.lists(
    st.tuples(
        st.integers(0, 40_000).map(lambda us: us * US),
        st.lists(st.tuples(NAMES, st.sampled_from([FAST, SLOW]), st.integers(0, 6)), min_size=1, max_size=4),
    ),
    max_size=40,
)


@settings(max_examples=60, deadline=None)
@given(calls=CALLS)
def test_no_bucket_admits_more_than_its_burst_and_its_rate_in_any_window(new_limiter, calls):
    limiter, now_ns = new_limiter(buckets=2), T0
    admitted = defaultdict(list)
    for passed_ns, charges in calls:
        now_ns += passed_ns
        if limiter.spend([(bucket(name, rule), cost) for name, rule, cost in charges], now_ns).admitted:
            for name, rule, cost in charges:
                admitted[bucket(name, rule)].append((now_ns, cost))
    for of, spends in admitted.items():
        for first, (begin_ns, _) in enumerate(spends):
            total = 0
            for end_ns, cost in spends[first:]:
                total += cost
                assert total <= of.rule.burst + Fraction(end_ns - begin_ns, of.rule.interval_ns)
