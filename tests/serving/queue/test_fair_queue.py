"""The queue against a slow model that states the rules in the plainest way, and its bounds one by one."""

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from serving.queue.fair_queue import GUARD_EVERY, LANES, FairQueue

ROWS_MAX, BYTES_MAX = 12, 40
FLOWS = ("a", "b", "c", "d")


def push(queue, item, *, rows=1, nbytes=1, lane=0, flow="a"):
    return queue.push(item, rows=rows, nbytes=nbytes, lane=lane, flow=flow)


class Model:
    """Lists and scans: what `FairQueue` promises, without how it keeps it."""

    def __init__(self):
        self.waiting = []  # (lane, flow, item, rows, nbytes), in order of arrival
        self.heads = {}  # (lane, flow) -> (tag, turn)
        self.virtual = [0] * LANES
        self.turn = self.batches = 0
        self.guard = LANES - 1

    def weight(self, lane, flow):
        return sum(w[3] for w in self.waiting if w[:2] == (lane, flow))

    def fits(self, rows, nbytes):
        rows += sum(w[3] for w in self.waiting)
        nbytes += sum(w[4] for w in self.waiting)
        return rows <= ROWS_MAX and nbytes <= BYTES_MAX

    def enter(self, lane, flow):
        first = next((w for w in self.waiting if w[:2] == (lane, flow)), None)
        self.heads.pop((lane, flow), None)
        if first:
            self.turn += 1
            self.heads[lane, flow] = (self.virtual[lane] + first[3], self.turn)

    def take(self, rows_max):
        self.batches += 1
        order = list(range(LANES))
        if self.batches % GUARD_EVERY == 0:
            for _ in range(1, LANES):
                lane, self.guard = self.guard, self.guard - 1 or LANES - 1
                if any(w[0] == lane for w in self.waiting):
                    order = [lane, *(other for other in order if other != lane)]
                    break
        batch, room = [], rows_max
        for lane in order:
            while heads := {key: head for key, head in self.heads.items() if key[0] == lane}:
                key = min(heads, key=heads.__getitem__)
                first = next(w for w in self.waiting if w[:2] == key)
                if first[3] > room and batch:
                    return batch
                self.waiting.remove(first)
                self.virtual[lane] = heads[key][0]
                self.enter(*key)
                batch.append(first[2])
                room -= first[3]
                if room <= 0:
                    return batch
        return batch


class Machine(RuleBasedStateMachine):
    @initialize()
    def begin(self):
        self.queue = FairQueue(rows_max=ROWS_MAX, bytes_max=BYTES_MAX)
        self.model = Model()
        self.number = 0

    @rule(
        rows=st.integers(1, ROWS_MAX + 1),
        nbytes=st.integers(0, BYTES_MAX + 1),
        lane=st.integers(0, LANES - 1),
        flow=st.sampled_from(FLOWS),
    )
    def push(self, rows, nbytes, lane, flow):
        self.number += 1
        model = self.model
        displaced = self.queue.push(self.number, rows=rows, nbytes=nbytes, lane=lane, flow=flow)
        if displaced is None:
            # Refused although it fits is the one thing that cannot be; that nothing changed shows in what follows.
            assert not model.fits(rows, nbytes)
            return
        assert bool(displaced) == (not model.fits(rows, nbytes))
        for item in displaced:
            victim = next(w for w in model.waiting if w[2] == item)
            lowest = max(w[0] for w in model.waiting)
            assert victim[0] == lowest >= lane
            weights = {f: model.weight(lowest, f) for f in FLOWS}
            assert weights[victim[1]] == max(weights.values())
            own = model.weight(lane, flow) + rows
            assert own < weights[victim[1]] or (lowest > lane and own == weights[victim[1]])
            assert not model.fits(rows, nbytes)  # no more give way than must
            newest = [w for w in model.waiting if w[:2] == victim[:2]][-1]
            assert newest == victim
            model.waiting.remove(victim)
            if not model.weight(*victim[:2]):
                del model.heads[victim[:2]]
        assert model.fits(rows, nbytes)
        model.waiting.append((lane, flow, self.number, rows, nbytes))
        if (lane, flow) not in model.heads:
            model.enter(lane, flow)

    @rule(rows_max=st.integers(1, ROWS_MAX))
    def take(self, rows_max):
        assert self.queue.take(rows_max) == self.model.take(rows_max)

    @invariant()
    def counts_are_true_and_bounded(self):
        waiting = self.model.waiting
        assert self.queue.count == len(waiting)
        assert self.queue.rows == sum(w[3] for w in waiting) <= ROWS_MAX
        assert self.queue.nbytes == sum(w[4] for w in waiting) <= BYTES_MAX

    @invariant()
    def only_what_waits_holds_memory(self):
        for number, lane in enumerate(self.queue._lanes):
            names = {w[1] for w in self.model.waiting if w[0] == number}
            assert set(lane.flows) == names
            assert {name for alike in lane.by_weight.values() for name in alike} == names
            assert len(lane.heap) <= 2 * ROWS_MAX

    def teardown(self):
        while self.model.waiting:
            assert self.queue.take(5) == self.model.take(5)
        assert self.queue.take(5) == []


Machine.TestCase.settings = settings(max_examples=80, stateful_step_count=40, deadline=None)
TestAgainstModel = Machine.TestCase


@given(
    st.dictionaries(st.sampled_from(FLOWS), st.lists(st.integers(1, 9), min_size=2, max_size=25), min_size=2),
    st.integers(1, 20),
)
@settings(deadline=None)
def test_backlogged_flows_never_drift_apart_by_more_than_their_largest_items(sizes, batch_rows):
    queue = FairQueue(rows_max=10_000, bytes_max=1)
    for flow, items in sizes.items():
        for number, rows in enumerate(items):
            push(queue, (flow, number, rows), rows=rows, nbytes=0, flow=flow)
    served, left = Counter(), {flow: len(items) for flow, items in sizes.items()}
    history = [served.copy()]
    while all(left.values()):
        for flow, _, rows in queue.take(batch_rows):
            if not all(left.values()):
                break
            served[flow] += rows
            left[flow] -= 1
            history.append(served.copy())
    for one in sizes:
        for other in sizes:
            lead = [moment[one] - moment[other] for moment in history]
            # Over any interval, not only from the start.
            assert max(lead) - min(lead) <= max(sizes[one]) + max(sizes[other])


def test_items_of_one_row_go_round_robin():
    queue = FairQueue(rows_max=100, bytes_max=100)
    for flow in "aaaabbc":
        push(queue, flow, flow=flow)
    assert "".join(queue.take(100)) == "abcabaa"


def test_a_light_flow_does_not_wait_for_a_heavy_one():
    queue = FairQueue(rows_max=1000, bytes_max=100)
    for _ in range(3):
        push(queue, "heavy", rows=64, flow="heavy")
    push(queue, "light", flow="light")
    assert queue.take(1) == ["light"]


def test_lanes_go_by_priority_and_a_waiting_lane_leads_in_time():
    queue = FairQueue(rows_max=1000, bytes_max=1000)
    leaders = []
    for _ in range(6 * GUARD_EVERY):
        for lane in range(LANES):
            push(queue, lane, lane=lane, flow=str(lane))
        leaders.append(queue.take(1)[0])
    for begin in range(len(leaders) - 3 * GUARD_EVERY + 1):
        window = leaders[begin : begin + 3 * GUARD_EVERY]
        assert set(window) == set(range(LANES))
        assert window.count(0) == 3 * GUARD_EVERY - 3


def test_the_guard_passes_over_lanes_that_do_not_wait():
    queue = FairQueue(rows_max=1000, bytes_max=1000)
    leaders = []
    for _ in range(2 * GUARD_EVERY):
        for lane in (0, 2):
            push(queue, lane, lane=lane)
        leaders.append(queue.take(1)[0])
    assert leaders.count(2) == 2


def test_an_item_larger_than_a_batch_goes_alone():
    queue = FairQueue(rows_max=100, bytes_max=100)
    push(queue, "large", rows=9, flow="a")
    for flow in "bc":
        push(queue, flow, rows=8, flow=flow)
    assert [queue.take(8) for _ in range(4)] == [["b"], ["c"], ["large"], []]


def test_rows_at_the_bound_and_one_past_it():
    queue = FairQueue(rows_max=3, bytes_max=100)
    assert push(queue, 1, rows=3) == []
    assert push(queue, 2, rows=1) is None
    assert queue.take(9) == [1]
    assert push(queue, 3, rows=4) is None


def test_bytes_at_the_bound_and_one_past_it():
    queue = FairQueue(rows_max=100, bytes_max=10)
    assert push(queue, 1, nbytes=10) == []
    assert push(queue, 2, nbytes=0) == []
    assert push(queue, 3, nbytes=1) is None
    assert queue.take(9) == [1, 2]
    assert push(queue, 4, nbytes=11) is None


def test_a_flood_sheds_itself_until_the_newcomer_is_no_lighter():
    queue = FairQueue(rows_max=4, bytes_max=100)
    for number in range(4):
        push(queue, f"flood {number}", flow="flood")
    assert push(queue, "x0", flow="x") == ["flood 3"]
    assert push(queue, "x1", flow="x") == ["flood 2"]
    assert push(queue, "x2", flow="x") is None  # 3 rows against 2
    assert push(queue, "flood 4", flow="flood") is None


def test_equals_do_not_displace_each_other_but_priority_breaks_the_tie():
    queue = FairQueue(rows_max=2, bytes_max=100)
    push(queue, "a", lane=1, flow="a")
    push(queue, "b", lane=1, flow="b")
    assert push(queue, "c", lane=1, flow="c") is None
    assert push(queue, "d", lane=2, flow="d") is None
    assert push(queue, "first", lane=0, flow="first") == ["a"]


def test_a_refused_item_that_had_begun_to_make_room_changes_nothing():
    queue = FairQueue(rows_max=8, bytes_max=100)
    for number in range(5):
        push(queue, number, flow="heavy")
    push(queue, 5, rows=3, flow="mid")
    # Four rows against five: the first victim would go, after it heavy has four and is no heavier.
    assert push(queue, "late", rows=4, flow="late") is None
    assert (queue.count, queue.rows) == (6, 8)
    assert queue.take(8) == [0, 1, 5, 2, 3, 4]


def test_a_flow_emptied_to_make_room_in_vain_keeps_its_turn():
    queue = FairQueue(rows_max=8, bytes_max=100)
    push(queue, "heavy", rows=5, flow="heavy")
    push(queue, "mid", rows=3, nbytes=99, flow="mid")
    # The rows of heavy would do, but not its bytes, and mid is lighter than the newcomer.
    assert push(queue, "late", rows=4, nbytes=50, flow="late") is None
    assert (queue.count, queue.rows, queue.nbytes) == (2, 8, 100)
    assert queue.take(8) == ["mid", "heavy"]


def test_flows_emptied_by_displacement_leave_nothing_behind():
    queue = FairQueue(rows_max=64, bytes_max=100)
    for number in range(32):
        push(queue, number, rows=2, nbytes=1, flow=str(number))
    assert len(push(queue, "wide", nbytes=100, flow="wide")) == 32
    lane = queue._lanes[0]
    assert len(lane.heap) == len(lane.flows) == len(lane.by_weight) == 1
    assert queue.take(9) == ["wide"]


@pytest.mark.parametrize("bad", [{"lane": LANES}, {"lane": -1}, {"rows": 0}, {"nbytes": -1}])
def test_nonsense_is_refused(bad):
    with pytest.raises(ValueError, match="no such item"):
        push(FairQueue(rows_max=8, bytes_max=8), "x", **bad)


@pytest.mark.parametrize("bad", [{"rows_max": 0}, {"bytes_max": 0}])
def test_a_queue_has_room(bad):
    with pytest.raises(ValueError, match="no room"):
        FairQueue(**{"rows_max": 1, "bytes_max": 1} | bad)
