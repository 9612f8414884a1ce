"""The batcher of the event loop, with a loop made of a list: a turn runs what was scheduled before it began."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.errors import BatcherClosed, QueueFull
from serving.queue.batcher import QUIET_TURNS, RETRY_MS_UNKNOWN, TURNS_MAX, Batcher


@dataclass
class Loop:
    """A batcher with everything around it written down. `coming` is what `expected` says."""

    rows_max: int = 8
    queue_rows_max: int = 64
    at_once: int = 1
    coming: int = 0
    error: BaseException | None = None
    scheduled: list = field(default_factory=list)
    batches: list = field(default_factory=list)
    failed: list = field(default_factory=list)
    dropped: list = field(default_factory=list)
    now_ns: int = 0

    def __post_init__(self):
        self.batcher = Batcher(
            self.run,
            on_error=lambda batch, error: self.failed.append((list(batch), error)),
            shed=self.dropped.append,
            soon=lambda call: self.scheduled.append(call),  # noqa: PLW0108  the list is another one each turn
            expected=lambda: self.coming,
            batch_rows_max=self.rows_max,
            queue_rows_max=self.queue_rows_max,
            queue_bytes_max=10_000,
            clock_ns=lambda: self.now_ns,
            at_once=self.at_once,
        )

    def run(self, batch):
        self.batches.append(list(batch))
        if self.error is not None:
            raise self.error

    def submit(self, *items, flow="one", rows=1):
        for item in items:
            self.batcher.submit(item, rows=rows, nbytes=1, lane=1, flow=flow)

    def turn(self):
        due, self.scheduled = self.scheduled, []
        for call in due:
            call()

    def turns(self, count):
        for _ in range(count):
            self.turn()


@pytest.fixture
def loop():
    return Loop()


def test_an_item_that_is_alone_waits_for_one_turn(loop):
    loop.coming = 1
    loop.submit("a")
    assert not loop.batches
    loop.turn()
    assert loop.batches == [["a"]]


def test_items_of_one_turn_make_one_batch(loop):
    loop.submit("a", "b", "c")
    loop.turn()
    assert loop.batches == [["a", "b", "c"]]


def test_what_arrives_while_a_batch_is_recorded_is_the_next_batch(loop):
    loop.submit("a")
    loop.turn()
    loop.submit("b", "c")
    loop.turns(3)
    assert loop.batches == [["a"]], "one batch at a time"
    loop.batcher.freed()
    loop.turn()
    assert loop.batches == [["a"], ["b", "c"]]


@pytest.mark.parametrize(("at_once", "ahead"), [(1, 12), (4, 3), (5, 2)])
def test_what_is_queued_is_shared_out_over_the_batches_that_run_side_by_side(at_once, ahead):
    loop = Loop(at_once=at_once)
    loop.submit("a", "b", "c", rows=4)
    assert loop.batcher.rows_ahead == ahead


def test_while_more_is_coming_in_the_loop_takes_it_in_first(loop):
    loop.coming = 4
    loop.submit("a")
    for item in "bc":
        loop.turn()
        loop.submit(item)
    assert not loop.batches
    loop.turn()
    loop.submit("d")  # now nobody else is on the way
    loop.turn()
    assert loop.batches == [["a", "b", "c", "d"]]


def test_what_is_expected_and_does_not_come_is_not_waited_for(loop):
    loop.coming = 100
    loop.submit("a")
    loop.turns(QUIET_TURNS - 1)
    assert not loop.batches
    loop.turn()
    assert loop.batches == [["a"]]


def test_a_trickle_does_not_hold_a_batch_up_for_ever():
    loop = Loop(rows_max=1000, queue_rows_max=1000, coming=1000)
    loop.submit(0)
    for item in range(1, TURNS_MAX):
        loop.turn()
        loop.submit(item)
    assert not loop.batches
    loop.turn()
    assert len(loop.batches) == 1


def test_a_full_batch_starts_at_once(loop):
    loop.coming = 100
    loop.submit(*range(20))
    loop.turn()
    assert loop.batches == [list(range(8))]


def test_with_room_for_two_batches_the_second_starts_beside_the_first_and_the_third_waits():
    loop = Loop(at_once=2)
    for item in "abc":
        loop.submit(item)
        loop.turns(2)
    assert loop.batches == [["a"], ["b"]]
    loop.batcher.freed()
    loop.turn()
    assert loop.batches == [["a"], ["b"], ["c"]]


def test_with_room_for_two_batches_what_is_left_of_one_is_the_other_at_once():
    loop = Loop(at_once=2)
    loop.submit(*range(20))
    loop.turns(2)
    assert loop.batches == [list(range(8)), list(range(8, 16))]


def test_what_is_under_way_is_not_waited_for():
    loop = Loop(at_once=2, coming=3)
    loop.submit("a", "b")
    loop.turns(1 + QUIET_TURNS)
    assert loop.batches == [["a", "b"]]
    loop.submit("c")  # three calls are open, and two of them are being answered
    loop.turn()
    assert loop.batches == [["a", "b"], ["c"]]


@pytest.mark.parametrize("error", [ValueError("broken"), SystemExit(3)])
def test_an_exception_reaches_on_error_and_the_next_batch_runs(loop, error):
    loop.error = error
    loop.submit("a")
    loop.turn()
    assert [batch for batch, _ in loop.failed] == [["a"]]
    loop.error = None
    loop.submit("b")
    loop.turn()
    assert loop.batches[-1] == ["b"]


def test_an_on_error_that_raises_does_not_stop_the_batches(loop):
    def worse(batch, error):
        raise RuntimeError("on_error itself")

    loop.error = ValueError("broken")
    loop.batcher._on_error = worse
    loop.submit("a")
    with pytest.raises(RuntimeError):
        loop.turn()
    loop.error = None
    loop.submit("b")
    loop.turn()
    assert loop.batches == [["a"], ["b"]]


def test_a_full_queue_refuses_with_a_hint_and_sheds_the_heaviest_flow():
    loop = Loop(queue_rows_max=4)
    loop.submit(*range(4), flow="heavy")
    with pytest.raises(QueueFull) as full:
        loop.submit(4, flow="heavy")
    assert full.value.retry_after_ms == RETRY_MS_UNKNOWN
    loop.submit("light", flow="light")
    assert loop.dropped == [3]


def test_the_retry_hint_is_the_time_to_serve_what_waits():
    loop = Loop(queue_rows_max=4)
    loop.submit("first")
    loop.turn()
    loop.now_ns += 50_000_000
    loop.batcher.freed()
    loop.submit(*range(4))
    with pytest.raises(QueueFull) as full:
        loop.submit("more")
    assert full.value.retry_after_ms == 200, "4 rows at 50 ms a row"


@pytest.mark.parametrize("drain", [True, False])
def test_close_starts_what_waits_or_sheds_it(loop, drain):
    loop.submit(*range(10))
    loop.batcher.close(drain=drain)
    loop.turns(2)
    done = [item for batch in loop.batches for item in batch]
    assert (done, loop.dropped) == ((list(range(10)), []) if drain else ([], list(range(10))))
    with pytest.raises(BatcherClosed):
        loop.submit("late")


@pytest.mark.parametrize("limit", ["rows_max", "at_once"])
def test_a_limit_below_one_is_refused(limit):
    with pytest.raises(ValueError, match="nothing would run"):
        Loop(**{limit: 0})


@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("submit"), st.sampled_from("abc"), st.integers(1, 9)),
            st.tuples(st.sampled_from(["turn", "freed"])),
        ),
        max_size=60,
    ),
    st.integers(0, 20),
    st.integers(1, 3),
)
def test_every_item_ends_exactly_once(steps, coming, at_once):
    loop = Loop(coming=coming, queue_rows_max=20, at_once=at_once)
    taken = []
    ended = 0
    for number, step in enumerate(steps):
        if step[0] == "submit":
            try:
                loop.submit((step[1], number), flow=step[1], rows=step[2])
            except QueueFull:
                continue
            taken.append((step[1], number))
        elif step[0] == "turn":
            loop.turn()
        elif len(loop.batches) > ended:
            ended += 1
            loop.batcher.freed()
        assert len(loop.batches) <= ended + at_once
    loop.batcher.close(drain=True)
    assert sorted([item for batch in loop.batches for item in batch] + loop.dropped) == sorted(taken)


def test_what_goes_wrong_in_the_rest_of_a_batch_frees_the_batcher(loop):
    loop.submit("a")
    loop.turn()
    loop.submit("b")

    def step():
        raise ValueError("broken")

    loop.batcher.resume(["a"], step)
    assert [(batch, str(error)) for batch, error in loop.failed] == [(["a"], "broken")]
    loop.turn()
    assert loop.batches == [["a"], ["b"]]


def test_the_rest_of_a_batch_that_goes_well_frees_nothing_by_itself(loop):
    loop.submit("a")
    loop.turn()
    loop.submit("b")
    loop.batcher.resume(["a"], lambda: None)
    loop.turns(5)
    assert loop.batches == [["a"]]
    loop.batcher.freed()
    loop.turn()
    assert loop.batches == [["a"], ["b"]]
