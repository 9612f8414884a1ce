"""The threads around the queue: every item ends once, no thread is lost, and nothing waits for a timer."""

import logging
import threading
import weakref

import pytest

from serving.batcher import Batcher
from serving.errors import BatcherClosed, QueueFull
from serving.pace import RETRY_MS_MAX, RETRY_MS_UNKNOWN

PATIENCE_S = 60  # only ever spent by a test that fails


class Harness:
    """Runs batches that wait at a gate, and writes down how each item ended."""

    def __init__(self, run=None, **limits):
        self.batches, self.failed, self.shed = [], [], []
        self.gate, self.started = threading.Semaphore(0), threading.Semaphore(0)
        self.body = run or (lambda items: None)
        self.batcher = Batcher(
            self.run,
            on_error=lambda items, error: self.failed.append((list(items), error)),
            shed=lambda item: self.shed.append((item, threading.current_thread())),
            **{"threads": 1, "batch_rows_max": 8, "queue_rows_max": 16, "queue_bytes_max": 1000} | limits,
        )

    def run(self, items):
        self.batches.append(list(items))
        self.started.release()
        assert self.gate.acquire(timeout=PATIENCE_S)
        self.body(items)

    def submit(self, item, *, rows=1, nbytes=1, lane=0, flow="a"):
        self.batcher.submit(item, rows=rows, nbytes=nbytes, lane=lane, flow=flow)

    def open(self, batches=1000):
        self.gate.release(batches)

    def occupy(self):
        """Return once the only thread is busy, so that what follows waits."""
        self.submit("busy", flow="busy")
        assert self.started.acquire(timeout=PATIENCE_S)


@pytest.fixture
def make():
    made = []

    def build(*args, **limits):
        made.append(Harness(*args, **limits))
        return made[-1]

    yield build
    for harness in made:
        harness.open()
        assert harness.batcher.close(drain=False, timeout_s=PATIENCE_S)


def test_a_batch_is_what_waited_when_the_thread_came_free(make):
    harness = make()
    harness.occupy()
    for number in range(10):
        harness.submit(number)
    assert harness.batcher.queued_rows == harness.batcher.queued_bytes == 10
    harness.open()
    assert harness.batcher.close(drain=True, timeout_s=PATIENCE_S)
    assert harness.batches == [["busy"], [*range(8)], [8, 9]]
    assert harness.batcher.queued_rows == harness.batcher.queued_bytes == 0


def test_threads_run_batches_side_by_side(make):
    meeting = threading.Barrier(3)
    harness = make(lambda items: meeting.wait(PATIENCE_S), threads=3, batch_rows_max=1)
    harness.open()
    for number in range(3):
        harness.submit(number)
    assert harness.batcher.close(drain=True, timeout_s=PATIENCE_S)
    assert not harness.failed  # a broken barrier would be an error


def test_what_a_thread_leaves_behind_wakes_the_next(make):
    meeting = threading.Barrier(2)
    harness = make(lambda items: meeting.wait(PATIENCE_S), threads=2, batch_rows_max=1)
    harness.open()
    batcher, both_sleep = harness.batcher, False
    while not both_sleep:
        with batcher._lock:
            both_sleep = batcher._idle == 2
            if both_sleep:  # as if two submits came before the thread that was called could look
                for number in range(2):
                    batcher._queue.push(number, rows=1, nbytes=1, lane=0, flow="a")
                    batcher._call_one()
    for _ in range(2):
        assert harness.started.acquire(timeout=PATIENCE_S)  # before close, which wakes everybody
    assert batcher.close(drain=True, timeout_s=PATIENCE_S)
    assert not harness.failed


@pytest.mark.parametrize("error", [RuntimeError("model"), SystemExit(3), KeyboardInterrupt()])
def test_an_exception_reaches_on_error_and_the_thread_goes_on(make, error):
    def run(items):
        if 1 in items:
            raise error

    harness = make(run)
    harness.open()
    harness.submit(1)
    assert harness.started.acquire(timeout=PATIENCE_S)
    harness.submit(2)
    assert harness.batcher.close(drain=True, timeout_s=PATIENCE_S)
    assert harness.failed == [([1], error)]
    assert harness.batches == [[1], [2]]


def test_callbacks_that_raise_are_logged_and_harm_nobody(make, caplog):
    def run(items):
        raise RuntimeError("first")

    harness = make(run, queue_rows_max=2)
    harness.batcher._on_error = lambda items, error: 1 / 0
    harness.batcher._shed = lambda item: 1 / 0
    harness.occupy()
    harness.submit(1, flow="heavy")
    harness.submit(2, flow="heavy")
    harness.submit(3, flow="light")
    harness.open()
    with caplog.at_level(logging.ERROR):
        assert harness.batcher.close(drain=True, timeout_s=PATIENCE_S)
    assert {record.message for record in caplog.records} == {"on_error raised", "shed raised"}
    assert harness.batches == [["busy"], [1, 3]]


def test_a_full_queue_sheds_the_heaviest_flow_in_the_thread_that_submits(make):
    harness = make(queue_rows_max=3)
    harness.occupy()
    for number in range(3):
        harness.submit(number, flow="heavy")
    with pytest.raises(QueueFull):
        harness.submit(3, flow="heavy")
    harness.submit("light", flow="light")
    assert harness.shed == [(2, threading.current_thread())]
    assert harness.batcher.queued_rows == 3


def test_the_retry_hint_is_the_time_to_serve_what_waits(make):
    readings = iter([0, 30_000_000])  # the first batch: one row, 30 ms

    harness = make(queue_rows_max=4, threads=1, clock_ns=lambda: next(readings, 30_000_000))
    harness.occupy()
    harness.open(1)
    harness.occupy()  # by now the first batch is over and timed
    for number in range(4):
        harness.submit(number)
    with pytest.raises(QueueFull) as full:
        harness.submit(4)
    assert full.value.retry_after_ms == 4 * 30


def test_the_retry_hint_before_anything_was_timed(make):
    harness = make(queue_rows_max=1)
    harness.occupy()
    harness.submit(1)
    with pytest.raises(QueueFull) as full:
        harness.submit(2)
    assert full.value.retry_after_ms == RETRY_MS_UNKNOWN


@pytest.mark.parametrize(("ns_per_row", "hint"), [(1.0, 1), (1e15, RETRY_MS_MAX)])
def test_the_retry_hint_is_bounded(make, ns_per_row, hint):
    harness = make(queue_rows_max=1)
    harness.occupy()
    harness.batcher._pace._ns_per_row = ns_per_row
    harness.submit(1)
    with pytest.raises(QueueFull) as full:
        harness.submit(2)
    assert full.value.retry_after_ms == hint


def test_close_without_drain_sheds_what_waits_and_finishes_what_runs(make):
    harness = make()
    harness.occupy()
    harness.submit(1)
    harness.submit(2, lane=3)
    assert not harness.batcher.close(drain=False, timeout_s=0)  # still busy
    assert [item for item, _ in harness.shed] == [1, 2]
    harness.open()
    assert harness.batcher.close(drain=False, timeout_s=PATIENCE_S)
    assert harness.batches == [["busy"]]


def test_nothing_is_taken_after_close(make):
    harness = make()
    assert harness.batcher.close(drain=True)
    assert harness.batcher.close(drain=True)
    with pytest.raises(BatcherClosed):
        harness.submit(1)


def test_a_sleeping_thread_holds_no_request_alive(make):
    class Request:
        pass

    harness = make()
    harness.batcher._run = lambda items: None
    freed = threading.Event()
    request = Request()
    watch = weakref.ref(request, lambda _: freed.set())
    harness.submit(request)
    del request
    assert freed.wait(PATIENCE_S)
    assert watch() is None


@pytest.mark.parametrize("bad", [{"threads": 0}, {"batch_rows_max": 0}, {"queue_rows_max": 0}, {"queue_bytes_max": 0}])
def test_limits_below_one_are_refused(make, bad):
    with pytest.raises(ValueError):
        make(**bad)


def test_many_tenants_at_once_every_item_ends_exactly_once():
    ran, failed, shed, refused = [], [], [], []

    def run(items):
        if items[0][1] % 7 == 0:
            raise RuntimeError
        ran.extend(items)

    batcher = Batcher(
        run,
        on_error=lambda items, error: failed.extend(items),
        shed=shed.append,
        threads=1,
        batch_rows_max=8,
        queue_rows_max=40,
        queue_bytes_max=10_000,
    )

    def tenant(name):
        for number in range(400):
            try:
                batcher.submit((name, number), rows=1 + number % 3, nbytes=9, lane=name % 4, flow=str(name % 5))
            except QueueFull:
                refused.append((name, number))

    tenants = [threading.Thread(target=tenant, args=(name,)) for name in range(8)]
    for thread in tenants:
        thread.start()
    for thread in tenants:
        thread.join()
    assert batcher.close(drain=True, timeout_s=PATIENCE_S)
    assert sorted(ran + failed + shed + refused) == [(name, number) for name in range(8) for number in range(400)]
    assert ran
    for name in range(8):
        numbers = [item[1] for item in ran if item[0] == name]
        assert numbers == sorted(numbers)
