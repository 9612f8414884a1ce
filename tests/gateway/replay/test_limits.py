"""Spends done again: equal where the beginning is known, never called different where it is not."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.admission.limiter import Bucket, Rule
from gateway.admission.memory import MemoryLimiter
from gateway.replay.history import History, Scope
from gateway.replay.limits import OPEN, Bounds, spends_of
from ops.audit.entry import canonical
from ops.audit.schemas import Limit
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
        ([spent(1, 30, batch=500), spent(2, 10, batch=1)], [[30], [10]]),
        ([spent(1, 30, batch=500), spent(2, 10, batch=450)], [[10, 30]]),
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
