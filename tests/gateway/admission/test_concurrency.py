import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.admission.budget import Budget
from gateway.admission.concurrency import LANE_CEILINGS_PERCENT, LANES, SHARE_FACTOR, Concurrency
from gateway.errors import Overloaded, RateLimited


def budget(principal="p", tenant="t", lane=0, own=1_000_000, tenants=1_000_000):
    return Budget(principal, tenant, lane, own, tenants, (), ())


def fill(concurrency, of, most=100_000):
    """Enter until refused; return the tickets."""
    tickets = []
    while len(tickets) < most:
        try:
            tickets.append(concurrency.enter(of))
        except (Overloaded, RateLimited):
            break
    return tickets


def test_a_principal_and_a_tenant_have_their_limits():
    concurrency = Concurrency(1_000)
    assert len(fill(concurrency, budget("a", own=3))) == 3
    with pytest.raises(RateLimited) as own:
        concurrency.enter(budget("a", own=3))
    assert (own.value.rule, own.value.retry_after_ms) == ("principal-in-flight", 100)
    assert len(fill(concurrency, budget("b", tenants=5))) == 2
    with pytest.raises(RateLimited) as shared:
        concurrency.enter(budget("b", tenants=5))
    assert shared.value.rule == "tenant-in-flight"
    assert concurrency.in_flight == 5


def test_leaving_gives_back_once_however_often_it_is_done():
    concurrency = Concurrency(1_000)
    first, second = concurrency.enter(budget()), concurrency.enter(budget())
    for _ in range(3):
        concurrency.leave(first)
    assert (concurrency.in_flight, concurrency.of_principal("p"), concurrency.of_tenant("t")) == (1, 1, 1)
    concurrency.leave(second)
    assert (concurrency.in_flight, concurrency.of_principal("p"), concurrency.of_tenant("t")) == (0, 0, 0)


def test_a_refused_call_counts_nowhere():
    concurrency = Concurrency(1_000)
    fill(concurrency, budget(own=1))
    with pytest.raises(RateLimited):
        concurrency.enter(budget(own=1))
    full = Concurrency(1)
    fill(full, budget())
    with pytest.raises(Overloaded):
        full.enter(budget("q", "u"))
    assert (concurrency.in_flight, full.in_flight, full.of_principal("q"), full.of_tenant("u")) == (1, 1, 0, 0)


def test_the_bound_is_reached_and_not_passed():
    concurrency = Concurrency(100, retry_after_ms=250)
    tickets = [fill(concurrency, budget(f"p{tenant}", f"t{tenant}")) for tenant in range(200)]
    assert concurrency.in_flight == sum(map(len, tickets)) == 100
    with pytest.raises(Overloaded) as refused:
        concurrency.enter(budget("late", "late"))
    assert refused.value.retry_after_ms == 250


def test_one_tenant_alone_leaves_room_for_a_newcomer():
    concurrency = Concurrency(900)
    assert len(fill(concurrency, budget())) == 900 * SHARE_FACTOR // (1 + SHARE_FACTOR) == 800
    assert len(fill(concurrency, budget("new", "new"))) > 80


def test_the_tenant_above_its_share_is_refused_before_the_one_below_it():
    concurrency = Concurrency(900)
    heavy = fill(concurrency, budget("heavy", "heavy"))
    light = fill(concurrency, budget("light", "light"))
    for ticket in heavy:  # work finishes, both ask for more: in the end they have equal parts
        concurrency.leave(ticket)
        for _ in range(2):
            for name in ("heavy", "light"):
                try:
                    concurrency.enter(budget(name, name))
                except Overloaded:
                    continue
    assert light
    share = 900 * SHARE_FACTOR // (1 + 2 * SHARE_FACTOR)
    assert abs(concurrency.of_tenant("heavy") - share) <= SHARE_FACTOR + 1
    assert abs(concurrency.of_tenant("light") - share) <= SHARE_FACTOR + 1


def test_lower_lanes_are_refused_first():
    concurrency = Concurrency(100)
    reached = []
    for lane in reversed(range(LANES)):
        while fill(concurrency, budget(f"{concurrency.in_flight}", f"{concurrency.in_flight}", lane), most=1):
            pass
        reached.append(concurrency.in_flight)
    assert reached == list(reversed(LANE_CEILINGS_PERCENT))


def test_a_lane_that_does_not_exist_is_a_fault_of_ours():
    with pytest.raises(IndexError):
        Concurrency(10).enter(budget(lane=LANES))


def test_a_gateway_with_room_for_one_serves_every_lane():
    for lane in range(LANES):
        concurrency = Concurrency(1)
        assert len(fill(concurrency, budget(lane=lane))) == 1
    with pytest.raises(ValueError):
        Concurrency(0)


def test_memory_is_bounded_by_what_is_in_flight():
    concurrency = Concurrency(50)
    for number in range(100_000):
        concurrency.leave(concurrency.enter(budget(f"p{number}", f"t{number}")))
    assert concurrency._principals == concurrency._tenants == {}


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("enter"), st.integers(0, 5), st.integers(0, LANES - 1)),
        st.tuples(st.just("leave"), st.integers(0, 80), st.just(0)),
    ),
    max_size=150,
)


@given(STEPS, st.integers(1, 30))
def test_counts_are_exact_after_any_order_of_entering_and_leaving(steps, in_flight_max):
    concurrency = Concurrency(in_flight_max)
    handed_out, held = [], set()
    for action, number, lane in steps:
        if action == "enter":
            of = budget(f"p{number}", f"t{number % 3}", lane, own=6, tenants=10)
            try:
                ticket = concurrency.enter(of)
            except (Overloaded, RateLimited):
                continue
            handed_out.append(ticket)
            held.add(ticket)
        elif handed_out:
            ticket = handed_out[number % len(handed_out)]
            concurrency.leave(ticket)
            held.discard(ticket)
        assert concurrency.in_flight == len(held) <= in_flight_max
        for name in range(6):
            assert concurrency.of_principal(f"p{name}") == sum(ticket.principal == f"p{name}" for ticket in held) <= 6
        for name in range(3):
            assert concurrency.of_tenant(f"t{name}") == sum(ticket.tenant == f"t{name}" for ticket in held) <= 10


@given(STEPS, st.integers(1, 30), st.integers(1, LANES - 1))
def test_whenever_a_lane_is_let_in_every_higher_lane_would_have_been(steps, in_flight_max, lane):
    concurrency = Concurrency(in_flight_max)
    for action, number, _ in steps:
        if action == "enter":
            fill(concurrency, budget(f"p{number}", f"t{number}", 0), most=1)
    lower = fill(concurrency, budget("x", "x", lane), most=1)
    for ticket in lower:
        concurrency.leave(ticket)
    if lower:
        assert fill(concurrency, budget("x", "x", lane - 1), most=1)
