import gc
import sys
import tracemalloc
from collections import OrderedDict, defaultdict

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.admission.limiter import BURST_NS_MAX, Bucket, Rule
from gateway.admission.memory import COPIES_TRIED, MemoryLimiter

S = 1_000_000_000
T0 = 1_000 * S
RULE = Rule("requests", interval_ns=S // 10, burst=5)


def bucket(name):
    return Bucket(f"requests/{name}", RULE)


def take(limiter, name, cost=1, at_ns=T0):
    return limiter.spend([(bucket(name), cost)], at_ns).admitted


def drain(limiter, name, at_ns=T0):
    """Spend one at a time until refused; return how many were admitted."""
    return next(count for count in range(10_000) if not take(limiter, name, at_ns=at_ns))


def test_the_table_holds_its_bound_and_one_more_key_gets_no_row():
    limiter = MemoryLimiter(buckets_max=3)
    for name in "abc":
        take(limiter, name)
    assert limiter.buckets == 3
    assert take(limiter, "d")
    assert limiter.buckets == 3


def test_a_bucket_in_debt_is_never_forgotten_whatever_else_arrives():
    limiter = MemoryLimiter(buckets_max=8)
    for name in range(8):
        assert drain(limiter, name) == 5
    for number in range(20_000):
        take(limiter, f"flood-{number}")
    assert [drain(limiter, name) for name in range(8)] == [0] * 8


def test_only_full_buckets_make_room():
    limiter = MemoryLimiter(buckets_max=2)
    take(limiter, "debtor", 5)
    take(limiter, "quick", 1)
    later_ns = T0 + S // 10  # "quick" is full again, "debtor" is not
    take(limiter, "new", 5, at_ns=later_ns)
    assert limiter.buckets == 2
    assert not take(limiter, "new", at_ns=later_ns)
    assert drain(limiter, "debtor", at_ns=later_ns) == 1


def test_a_key_without_a_row_has_its_limit_all_the_same():
    limiter = MemoryLimiter(buckets_max=1)
    drain(limiter, "holder")
    assert drain(limiter, "late") == 5
    assert limiter.buckets == 1
    assert drain(limiter, "late", at_ns=T0 + S // 10) == 1


def test_a_key_that_moves_into_the_table_takes_its_debt_along():
    limiter = MemoryLimiter(buckets_max=1)
    take(limiter, "holder", 1)
    assert take(limiter, "late", 5)  # in the sketch: the table is full
    now_ns = T0 + S // 10  # the holder's bucket is full again, so there is room for a row
    assert drain(limiter, "late", at_ns=now_ns) == 1


def test_a_slot_that_is_shared_refuses_too_much_and_never_admits_too_much():
    limiter = MemoryLimiter(buckets_max=1, sketch_slots=1)
    drain(limiter, "holder")
    assert take(limiter, "one", 3)
    assert take(limiter, "two", 2)
    assert not take(limiter, "one")
    assert not take(limiter, "three")


def test_a_refused_spend_that_was_written_to_the_sketch_is_taken_back():
    limiter = MemoryLimiter(buckets_max=1, sketch_slots=1)
    drain(limiter, "holder")
    charges = [(bucket("one"), 2), (bucket("two"), 2), (bucket("holder"), 1)]
    assert not limiter.spend(charges, T0).admitted
    assert drain(limiter, "three") == 5


def test_more_principals_than_fit_cost_bounded_memory_and_keep_their_limits():
    bound, principals = 5_000, 25_000
    tracemalloc.start()
    try:
        limiter = MemoryLimiter(buckets_max=bound, sketch_slots=16_384)
        for number in range(bound):
            take(limiter, number, 5)
        gc.collect()
        at_the_bound, _ = tracemalloc.get_traced_memory()
        admitted = sum(take(limiter, number) for number in range(principals))
        gc.collect()
        past_it, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert limiter.buckets == bound
    assert past_it < at_the_bound * 1.01
    assert at_the_bound / bound < 400  # bytes a bucket, the key included
    assert admitted > (principals - bound) * 0.75  # the sketch is shared, and still tells most keys apart
    assert not any(take(limiter, number) for number in range(bound))


def test_all_principals_fit_when_the_bound_is_the_default():
    limiter = MemoryLimiter()
    for number in range(120_000):
        assert limiter.spend([(bucket(number), 5)], T0 + number).admitted
    assert limiter.buckets == 120_000
    assert not any(take(limiter, number, at_ns=T0 + 120_000) for number in range(0, 120_000, 97))
    assert sys.getsizeof(limiter._tats_ns) < 40_000_000


def test_the_longest_refill_fits_the_sketch():
    limiter = MemoryLimiter(buckets_max=1)
    long = Rule("long", interval_ns=BURST_NS_MAX, burst=1)
    limiter.spend([(Bucket("a", long), 1)], 1 << 62)
    assert limiter.spend([(Bucket("b", long), 1)], 1 << 62).admitted
    assert not limiter.spend([(Bucket("b", long), 1)], 1 << 62).admitted


@pytest.mark.parametrize("bounds", [{"buckets_max": 0}, {"sketch_slots": 0}])
def test_bounds_of_nothing_are_refused(bounds):
    with pytest.raises(ValueError):
        MemoryLimiter(**bounds)


@pytest.mark.parametrize(("interval_ns", "burst"), [(0, 1), (1, 0), (-1, 1), (BURST_NS_MAX, 2), (BURST_NS_MAX + 1, 1)])
def test_rules_out_of_range_are_refused(interval_ns, burst):
    with pytest.raises(ValueError, match="odd"):
        Rule("odd", interval_ns, burst)


@settings(max_examples=60)
@given(
    st.lists(
        st.tuples(st.integers(0, S), st.lists(st.tuples(st.integers(0, 9), st.integers(0, 4)), min_size=1, max_size=3)),
        max_size=60,
    ),
    st.integers(1, 4),
    st.integers(1, 3),
)
def test_no_order_of_arrivals_gives_a_key_more_than_it_has_alone(calls, buckets_max, slots):
    crowded, roomy = MemoryLimiter(buckets_max=buckets_max, sketch_slots=slots), MemoryLimiter()
    admitted = defaultdict(list)
    now_ns = T0
    for passed_ns, charges in calls:
        now_ns += passed_ns
        spends = [(bucket(name), cost) for name, cost in charges]
        if crowded.spend(spends, now_ns).admitted:
            assert roomy.spend(spends, now_ns).admitted  # never admits what an unbounded table would refuse
            for name, cost in charges:
                admitted[name].append((now_ns, cost))
    assert crowded.buckets <= buckets_max
    for spends in admitted.values():
        total = sum(cost for _, cost in spends)
        assert total * RULE.interval_ns <= RULE.burst_ns + spends[-1][0] - spends[0][0]


def test_a_row_that_changes_while_debts_are_copied_is_no_error():
    """What walks through the rows in another thread may be interrupted by whoever changes them: it begins again."""

    class Changing(OrderedDict):
        changes = 3

        def items(self):
            if Changing.changes:
                Changing.changes -= 1
                raise RuntimeError("OrderedDict mutated during iteration")
            return super().items()

    limiter = MemoryLimiter()
    limiter._tats_ns = Changing({"a": 5, "b": 1})
    assert limiter.debts(2) == [("a", 3)]
    Changing.changes = COPIES_TRIED
    with pytest.raises(RuntimeError):
        limiter.debts(2)
