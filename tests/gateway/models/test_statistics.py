"""The numbers of ModelStatistics, and the estimate that deadlines are held against."""

from __future__ import annotations

import threading
from dataclasses import dataclass

import pytest

from gateway import errors
from gateway.models.statistics import ModelCounters, ServiceTime, Totals

MS = 1_000_000


@dataclass(frozen=True)
class Ended:
    """As much of an item as the counters look at."""

    kind: str
    queued_ns: int

    @property
    def served(self):
        return self.kind == "served"


def test_a_run_counts_batches_rows_and_stages():
    counters = ModelCounters()
    counters.ran(5_000 * MS, 7, {"screen": 10, "infer": 20, "harden": 30})
    counters.ran(6_000 * MS, 3, {"screen": 1, "infer": 2, "harden": 3})
    assert counters.totals() == Totals(batches=2, rows=10, last_unix_ms=6_000, screen_ns=44, infer_ns=22)


def test_requests_are_counted_by_how_they_ended():
    counters = ModelCounters()
    counters.ended([Ended("served", 10), Ended("refused", 20), Ended("served", 30)], 40, 100)
    assert counters.totals() == Totals(requests=2, failures=1, queue_ns=60, failure_ns=80)


def test_batches_are_numbered_once_from_any_thread():
    counters = ModelCounters()
    numbers: list[int] = []

    def take() -> None:
        numbers.extend([counters.next_batch() for _ in range(500)])

    threads = [threading.Thread(target=take) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(numbers) == list(range(1, 2001))


def test_nothing_is_expected_before_anything_was_seen():
    fresh = ServiceTime()
    assert fresh.expected_ns(10_000, 0) == 0
    fresh.require(1, 10_000, 0)


def test_a_deadline_is_met_at_the_expected_time_and_not_one_before():
    service_time = ServiceTime()
    for _ in range(200):
        service_time.observe(10 * MS, 10, now_ns=0)
    expected_ns = service_time.expected_ns(20, 0)
    assert expected_ns == pytest.approx(30 * MS, rel=0.01)
    service_time.require(expected_ns, 20, 0)
    with pytest.raises(errors.DeadlineUnmeetable):
        service_time.require(expected_ns - 1, 20, 0)


@pytest.mark.parametrize("left_ns", [0, -1])
def test_a_deadline_that_has_passed_has_passed_whatever_is_expected(left_ns):
    with pytest.raises(errors.DeadlinePassed):
        ServiceTime().require(left_ns, 0, 0)


def test_a_model_that_was_slow_once_is_tried_again_though_every_call_has_a_deadline():
    service_time = ServiceTime()
    for _ in range(50):
        service_time.observe(2000 * MS, 1, now_ns=0)
    with pytest.raises(errors.DeadlineUnmeetable):
        service_time.require(100 * MS, 0, 0)
    service_time.require(100 * MS, 0, 6_000 * MS)
