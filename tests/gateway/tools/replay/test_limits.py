"""Spends done again: equal where the beginning is known, never called different where it is not."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.admission.limiter import Bucket, Rule
from gateway.admission.memory import MemoryLimiter
from gateway.tools.replay.history import History, Scope
from gateway.tools.replay.limits import OPEN, Bounds, spends_of
from ops.audit.log.entry import canonical
from ops.audit.log.schemas.requests import Limit
from tests.ops.audit.samples import number_id, request, small

BUCKETS = (Bucket("principal-requests/a", Rule("principal-requests", 70, 5)), Bucket("tenant/t", Rule("tenant", 30, 9)))
spends = st.lists(st.tuples(st.integers(0, 400), st.integers(0, 6)), min_size=1, max_size=60)


def recorded(steps):
    """What a gateway's limiter decides, and what is recorded of it: (charges, limit, clock)."""
    limiter, now_ns, made = MemoryLimiter(), 10**6, []
    for wait_ns, cost in steps:
        now_ns += wait_ns
        charges = ((BUCKETS[0], 1), (BUCKETS[1], cost))
        decision = limiter.spend(charges, now_ns)
        verdict = "admit" if decision.admitted else "refuse"
        made.append((charges, Limit(decision=verdict, rule=decision.rule, tokens=decision.remaining), now_ns))
    return made


@given(spends)
def test_from_the_beginning_every_spend_is_equal_to_the_bit(steps):
    bounds = Bounds(known=True)
    for charges, limit, now_ns in recorded(steps):
        was, is_now = bounds.compare(charges, limit, now_ns)
        assert was == is_now


@given(spends, st.integers(0, 59))
def test_from_the_middle_nothing_that_was_right_is_called_different(steps, first):
    bounds = Bounds(known=False)
    for charges, limit, now_ns in recorded(steps)[first:]:
        came = bounds.compare(charges, limit, now_ns)
        assert came == OPEN or came[0] == came[1]


def test_from_the_middle_the_state_becomes_known():
    """After a pause in which all buckets fill up there is one state left."""
    bounds = Bounds(known=False)
    came = [bounds.compare(*one) for one in recorded([(0, 3)] * 4 + [(400, 1)] * 5)]
    assert came[0] == OPEN
    assert OPEN not in came[4:]


def test_what_is_told_of_a_bucket_makes_its_state_known():
    """It takes days to fill up, so that waiting tells nothing; what the first record says of it does."""
    slow = ((Bucket("principal-requests/a", Rule("principal-requests", 10**14, 5)), 1),)
    limiter, bounds, now_ns = MemoryLimiter(), Bounds(known=False), 2
    limiter.spend(slow, 1)
    first, second, third = (admitted(limiter.spend(slow, now_ns).remaining) for _ in range(3))
    assert bounds.compare(slow, first, now_ns) == OPEN
    was, is_now = bounds.compare(slow, second, now_ns)
    assert was == is_now
    was, is_now = bounds.compare(slow, admitted(third.tokens + 1), now_ns)
    assert was != is_now


@pytest.mark.parametrize("lie", [("refuse", 3), ("admit", 4), ("admit", 1)])
def test_what_no_state_could_have_led_to_is_found_though_the_state_is_open(lie):
    """A nanosecond later two or three are left. So it is neither refused, nor are there more or less."""
    slow = ((Bucket("principal-requests/a", Rule("principal-requests", 10**14, 5)), 1),)
    for decision, tokens, found in ((*lie, True), ("admit", 3, False), ("admit", 2, False)):
        bounds = Bounds(known=False)
        assert bounds.compare(slow, admitted(3), 2) == OPEN
        came = bounds.compare(slow, Limit(decision=decision, rule="principal-requests", tokens=tokens), 3)
        assert (came != OPEN) == found


def admitted(tokens: int) -> Limit:
    return Limit(decision="admit", rule="principal-requests", tokens=tokens)


def test_an_admitted_spend_may_have_left_nothing_though_another_bucket_was_told():
    """The bucket that is told is empty and charged nothing; of the other one only bounds are known."""
    told, other = (Bucket(name, Rule(name, interval, 5)) for name, interval in (("told", 10**12), ("other", 10)))
    limiter, bounds, now_ns = MemoryLimiter(), Bounds(known=False), 10**6
    limiter.spend(((told, 5), (other, 3)), now_ns)
    for wait_ns, cost in ((0, 0), (10, 3), (0, 1), (0, 2)):
        now_ns += wait_ns
        charges = ((told, 0), (other, cost))
        decision = limiter.spend(charges, now_ns)
        verdict = "admit" if decision.admitted else "refuse"
        came = bounds.compare(charges, Limit(decision=verdict, rule=decision.rule, tokens=decision.remaining), now_ns)
        assert came == OPEN or came[0] == came[1]


@given(spends, st.data())
def test_a_decision_that_does_not_follow_is_found(steps, data):
    made = recorded(steps)
    at = data.draw(st.integers(0, len(made) - 1))
    charges, limit, now_ns = made[at]
    other = data.draw(st.sampled_from(["decision", "tokens"]))
    changed = Limit(
        decision=({"admit": "refuse", "refuse": "admit"}[limit.decision] if other == "decision" else limit.decision),
        rule=limit.rule,
        tokens=limit.tokens + (other == "tokens"),
    )
    bounds = Bounds(known=True)
    for one in made[:at]:
        bounds.compare(*one)
    was, is_now = bounds.compare(charges, changed, now_ns)
    assert was != is_now


def history_of(*entries: bytes) -> History:
    history = History(Scope())
    for index, data in enumerate(entries):
        history.take(index, data)
    return history


def spent(number: int, clock_ns: int, *, gateway: str = "host/0", batch: int = 1) -> bytes:
    limit = {"clock_ns": str(clock_ns), "decision": "admit", "rule": "principal-requests", "tokens": 1}
    where = {"id": batch, "padded": 1, "position": 0, "rows": 1, "size": 1}
    return canonical(request(number, limits=[limit], gateway=gateway, batch=where))


def recover() -> bytes:
    own = {"build": "0", "id": number_id(9), "time_ns": "1800000000000000000", "v": 1}
    return canonical(own | {"kind": "recover", "cause": "crash", "cut_bytes": 0, "root": "e" * 64, "size": 4})


@pytest.mark.parametrize(
    ("entries", "lives"),
    [
        ([spent(1, 30), spent(2, 10), spent(3, 20)], [[10, 20, 30]]),
        ([spent(1, 30), spent(2, 10, gateway="host/1")], [[30], [10]]),
        ([spent(1, 30), recover(), spent(2, 10)], [[30], [10]]),
        ([spent(1, 30, batch=500), spent(2, 10, batch=483)], [[30], [10]]),
        ([spent(1, 30, batch=500), spent(2, 10, batch=484)], [[10, 30]]),
        ([small(1), canonical(request(2))], []),
    ],
)
def test_spends_stand_in_their_order_life_by_life(entries, lives):
    found = spends_of(history_of(*entries))
    assert [[spend.clock_ns for spend in life] for life in found] == lives
    assert [life[0].first_life for life in found][1:] == [life[0].one.entry.gateway != "host/0" for life in found][1:]


def test_a_clock_that_is_none_is_passed_over():
    entry = json.loads(spent(1, 30))
    entry["limits"][0]["clock_ns"] = "soon"
    assert spends_of(history_of(canonical(entry))) == []
