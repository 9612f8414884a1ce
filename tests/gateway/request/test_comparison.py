"""Running a version beside another: what differs is counted, what is in the way is dropped, and nobody waits."""

from __future__ import annotations

import threading
from types import SimpleNamespace

import numpy as np
import pytest

from defenses.drift.shift import ROWS_MIN
from gateway.models.rules import Mirror
from gateway.request import comparison
from gateway.request.comparison import BATCHES_MAX, BYTES_MAX, Comparer, Ran, differ
from gateway.request.drifts import Drifts, beside
from serving.errors import BackendFailed, BackendTimedOut, BackendUnavailable

PATIENCE_S = 20


class Engine:
    """Answers with its input; fails on negative numbers, and waits when it is told to."""

    def __init__(self) -> None:
        self.go = threading.Event()
        self.go.set()
        self.entered = threading.Event()
        self.problem: Exception | None = None
        self.runs = 0

    def infer(self, inputs):
        self.runs += 1
        self.entered.set()
        assert self.go.wait(PATIENCE_S)
        if self.problem is not None:
            raise self.problem
        if (inputs["x"] < 0).any():
            raise BackendFailed("kiosk/2", "negative")
        return {"probabilities": inputs["x"][:, ::-1].copy()}


def rules(version, engine=None, mirror=None):
    bundle = SimpleNamespace(name="kiosk", version=version)
    return SimpleNamespace(
        served=SimpleNamespace(bundle=bundle, engine=engine),
        prediction="probabilities",
        screens={},
        screen_rules={},
        harden_flagged=False,
        mirror=mirror,
    )


class Bench:
    """A comparer and what it said."""

    def __init__(self, rate: float = 1.0) -> None:
        self.engine = Engine()
        self.rules = rules("1", mirror=Mirror(rules("2", self.engine), rate, "probabilities"))
        self.done: list = []
        self.dropped: list = []
        self.judged: list = []
        self.drifts = Drifts()
        self.heard = threading.Semaphore(0)
        self.comparer = Comparer(
            done=self._done,
            judged=lambda rules, judgements, scores: self.judged.append((rules.served.bundle.version, scores.tolist())),
            both=self.drifts.observe_both,
            dropped=lambda model, version, requests: self.dropped.append((model, version, requests)),
            clock_ns=lambda: 0,
        )

    def _done(self, model, version, compared) -> None:
        self.done.append((model, version, compared))
        self.heard.release()

    def offer(self, *rows, starts=(0,)) -> None:
        array = np.array(rows, np.float32)
        said = [("first", np.zeros(len(array), np.uint8), array[:, 0].astype(np.float64))]
        self.comparer.offer(Ran(self.rules, {"x": array}, array, np.array(starts, np.intp), 7, said))

    def answered(self) -> None:
        self.comparer.answered(self.rules.served)

    def wait(self):
        assert self.heard.acquire(timeout=PATIENCE_S)
        return self.done[-1]


@pytest.fixture
def bench():
    made = Bench()
    yield made
    made.engine.go.set()
    made.comparer.close()


def test_what_two_versions_say_is_compared_by_row(bench):
    bench.offer([0.9, 0.1], [0.5, 0.5], [0.2, 0.8], starts=(0, 2))
    bench.answered()
    model, version, compared = bench.wait()
    assert (model, version, compared.requests, compared.errors) == ("kiosk", "2", 2, 0)
    assert (compared.rows, compared.disagreements) == (3, 2)
    assert compared.difference == pytest.approx(0.8 + 0.0 + 0.6)
    assert bench.judged == [("2", pytest.approx([0.9, 0.5, 0.8]))]


def test_nothing_is_run_before_the_replies_have_gone(bench):
    bench.answered()  # of an earlier batch: nothing waits
    bench.offer([0.9, 0.1])
    assert not bench.engine.entered.wait(0.05)
    bench.answered()
    bench.wait()


def test_what_screens_say_is_kept_of_rows_that_both_versions_judged_and_of_no_others(bench):
    good, bad = [[share, 0.5] for share in np.linspace(0, 1, ROWS_MIN)], [-1.0, 0.5]
    bench.offer(*good, bad, starts=(0, ROWS_MIN // 2, ROWS_MIN))
    bench.answered()
    assert bench.wait()[2].errors == 1
    ((*labels, value),) = bench.drifts.values()  # the other version's rules have no screen
    assert labels == ["kiosk", "1", beside("2") + "first"]
    assert value < 0.01


def test_each_request_with_a_bad_row_counts_as_a_failure(bench):
    bench.offer([0.9, 0.1], [-1.0, 0.5], [-0.6, 0.4], [0.3, 0.7], [-0.1, 0.2], starts=(0, 1, 2, 4))
    bench.answered()
    compared = bench.wait()[2]
    assert (compared.requests, compared.errors, compared.rows) == (4, 3, 1)
    assert compared.seconds == 0


@pytest.mark.parametrize("problem", [BackendTimedOut("kiosk/2", 5000), BackendUnavailable("kiosk/2", "gone")])
def test_who_gives_no_answer_is_asked_once_and_has_failed_all_requests(bench, problem):
    bench.engine.problem = problem
    bench.offer([0.9, 0.1], [0.5, 0.5], [0.2, 0.8], starts=(0, 1, 2))
    bench.answered()
    compared = bench.wait()[2]
    assert (compared.requests, compared.errors, compared.rows, bench.engine.runs) == (3, 3, 0, 1)


def test_the_end_waits_for_no_server(bench, monkeypatch):
    monkeypatch.setattr(comparison, "CLOSE_S", 0.01)
    bench.engine.go.clear()
    bench.offer([-0.9, 0.1], [-0.5, 0.5], [-0.2, 0.8], starts=(0, 1, 2))
    bench.answered()
    assert bench.engine.entered.wait(PATIENCE_S)
    bench.comparer.close()
    thread = bench.comparer._thread
    assert thread.is_alive(), "it was waited for"
    bench.engine.go.set()
    thread.join(PATIENCE_S)
    assert (bench.engine.runs, bench.done, bench.judged) == (1, [], [])


def test_a_prediction_that_is_no_number_is_a_failure(bench):
    bench.offer([0.9, np.nan])
    bench.answered()
    compared = bench.wait()[2]
    assert (compared.errors, compared.rows) == (1, 0)


def test_a_busy_thread_looks_at_nothing_whose_replies_are_on_the_way(bench):
    bench.engine.go.clear()
    bench.offer([0.9, 0.1])
    bench.answered()
    assert bench.engine.entered.wait(PATIENCE_S)
    bench.offer([0.9, 0.1])
    bench.engine.go.set()
    bench.wait()
    bench.comparer.answered(rules("3").served)  # another version's
    assert not bench.heard.acquire(timeout=0.05)
    bench.answered()
    bench.wait()


def test_what_finds_no_room_is_dropped_and_counted(bench):
    bench.engine.go.clear()
    bench.offer([0.9, 0.1])
    bench.answered()
    assert bench.engine.entered.wait(PATIENCE_S)
    for _ in range(BATCHES_MAX):
        bench.offer([0.9, 0.1])
    assert bench.dropped == []
    bench.offer([0.9, 0.1], [0.9, 0.1], starts=(0, 1))
    assert bench.dropped == [("kiosk", "2", 2)]
    bench.engine.go.set()
    bench.answered()
    for _ in range(BATCHES_MAX + 1):
        bench.wait()
    bench.offer([0.9, 0.1])
    assert len(bench.dropped) == 1, "room did not come back"


def test_bytes_have_a_bound_too(bench):
    large = np.zeros((1, BYTES_MAX // 4), np.float32)
    small = np.zeros((1, 2), np.float32)
    bench.comparer.offer(Ran(bench.rules, {"x": large}, small, np.zeros(1, np.intp), 0))
    assert bench.dropped == []
    bench.offer([0.9, 0.1])
    assert bench.dropped == [("kiosk", "2", 1)]
    bench.answered()
    assert bench.wait()[2].errors == 1, "what does not fit the other version is its failure"
    bench.offer([0.9, 0.1])
    assert len(bench.dropped) == 1, "room did not come back"


@pytest.mark.parametrize("rate", [1.0, 0.75, 0.25, 0.3, 0.05])
def test_the_rate_is_a_share_of_the_batches(rate):
    bench = Bench(rate)
    bench.engine.go.clear()
    for _ in range(20):
        bench.offer([0.9, 0.1])
    noted = len(bench.comparer._noted) + len(bench.dropped)
    assert 20 * rate - 1 <= noted <= 20 * rate
    bench.comparer.close()


def test_without_a_mirror_there_is_nothing_to_do_and_no_thread(bench):
    array = np.zeros((1, 2), np.float32)
    bench.comparer.offer(Ran(rules("1"), {"x": array}, array, np.zeros(1, np.intp), 0))
    bench.answered()
    assert bench.comparer._thread is None


def test_after_the_end_everything_is_dropped(bench):
    bench.comparer.close()
    bench.offer([0.9, 0.1])
    bench.answered()
    assert bench.dropped == [("kiosk", "2", 1)]


def test_rows_that_are_no_numbers_are_left_out_of_the_comparison():
    one = np.array([[0.9, 0.1], [np.nan, 0.0]])
    other = np.array([[0.1, 0.9], [0.5, 0.5]])
    found = differ(one, other)
    assert (found.rows, found.disagreements) == (1, 1)
    assert differ(one[1:], other[1:]).rows == 0
