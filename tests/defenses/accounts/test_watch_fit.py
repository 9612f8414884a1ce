"""Fitting a watch: it tells what benign streams do, is measured on other rows, and refuses what it cannot do."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest

from defenses.accounts.benign_traffic import BenignTraffic, WatchKind, corrected, seen_again
from defenses.accounts.observed import Asker
from defenses.accounts.returns import AGE
from defenses.accounts.watch import BOUNDS, Watch
from defenses.accounts.watch_fit import ROOM, fit_watch, flights, measure_watch
from defenses.errors import CalibrationInvalid
from tests.watching import KEY, around, ask, images

ROWS, OTHERS = images(1, 900), images(2, 900)
KIND = WatchKind.of_images("image", ROWS)
TRAFFIC = BenignTraffic(queries=300)
ASKER = Asker("alice", "acme")


@pytest.fixture(scope="module")
def fitted():
    return fit_watch(ROWS, OTHERS, KIND, traffic=TRAFFIC, streams=(40, 30))


def test_the_report_is_plain_json_and_says_what_was_measured_on_other_rows(fitted):
    _, report = fitted
    assert json.loads(json.dumps(report)) == report
    assert (report["returns"], report["returns_bound"]) == (None, None)
    assert report["repeat_share"] == pytest.approx(0.05, abs=0.02)
    measured = report["measured"]
    assert (measured["streams"], measured["queries"]) == (30, 300)
    for point in measured["reached"]:
        low, high = point["interval"]
        assert low <= point["rate"] <= high
        assert low <= point["alpha"]


def test_the_arrays_make_a_watch_that_finds_a_search_and_no_innocent_account(fitted):
    arrays, report = fitted
    watch = Watch.from_calibration(arrays, key=KEY)
    assert ask(watch, around(OTHERS[0], 3, 60)).log_evidence.max() >= math.log(1_000)
    assert report["measured"]["log_evidence_max"] < math.log(1_000)


def test_bounds_lie_above_what_was_seen(fitted):
    arrays, report = fitted
    bounds = arrays[BOUNDS]
    assert bounds[2, 1] > ROOM * 0.01  # how often bursts begin
    assert (bounds[2, 2:] < 0.02).all()  # nobody comes back to a hot anchor after a while
    assert 0.5 < bounds[0, 0] < bounds[0, 1:].sum() + 0.05  # within a burst the next is likely
    assert report["bounds"] == bounds.tolist()


def test_the_same_seed_fits_the_same_and_says_how_far_it_is(fitted):
    told: list[tuple[int, int]] = []
    again, _ = fit_watch(
        ROWS, OTHERS, KIND, traffic=TRAFFIC, streams=(40, 1), progress=lambda done, total: told.append((done, total))
    )
    assert all((again[name] == array).all() for name, array in fitted[0].items())
    assert told == [(done, 41) for done in range(1, 42)]


def test_returns_are_fitted_where_somebody_says_how_often_they_come():
    long = BenignTraffic(queries=700, returns=0.02)
    arrays, report = fit_watch(ROWS, OTHERS, KIND, traffic=long, streams=(6, 1))
    assert arrays["similarity.returns"].shape == (1,)
    assert 0.012 < arrays["similarity.returns"][0] < 0.08
    assert (report["returns"], report["returns_bound"]) == (0.02, arrays["similarity.returns"].tolist())
    with pytest.raises(CalibrationInvalid):  # no window is ever full
        fit_watch(ROWS, OTHERS, KIND, traffic=BenignTraffic(queries=300, returns=0.0), streams=(2, 2))


def test_a_thing_returns_after_a_while_as_often_as_it_is_said():
    rows = images(7, 2_100)
    stream = BenignTraffic(duplicates=0.001, queries=2_000, returns=0.1).stream(rows, KIND, np.random.default_rng(8))
    fresh = {row.tobytes() for row in rows}
    assert np.mean([row.tobytes() not in fresh for row in stream]) == pytest.approx(0.1, abs=0.03)
    assert all(row.tobytes() in fresh for row in stream[:AGE])
    plain = BenignTraffic(queries=500)
    streams = [replace(plain, returns=share).stream(rows, KIND, np.random.default_rng(9)) for share in (None, 0.0)]
    assert (streams[0] == streams[1]).all()


def test_queries_in_flight_come_in_another_order_and_are_the_same():
    rows = images(7, 600)
    plain, mixed = (
        BenignTraffic(queries=500, in_flight=flight).stream(rows, KIND, np.random.default_rng(9)) for flight in (1, 16)
    )
    places = {row.tobytes(): place for place, row in enumerate(plain)}
    moved = np.array([place - places[row.tobytes()] for place, row in enumerate(mixed)])
    assert sorted(row.tobytes() for row in plain) == sorted(row.tobytes() for row in mixed)
    assert 8 < np.abs(moved).max() < 17  # of two that are alike to the bit the last is in `places`


def test_bounds_hold_for_those_who_wait_and_those_who_do_not():
    assert flights(1) == [1]
    assert flights(4) == [1, 4]
    assert flights(64) == [1, 4, 16, 64]
    (waits, _), (both, report) = (
        fit_watch(ROWS, OTHERS, KIND, traffic=BenignTraffic(queries=300, in_flight=flight), streams=(12, 2))
        for flight in (1, 16)
    )
    assert report["in_flight"] == 16
    assert (both[BOUNDS] >= waits[BOUNDS]).all()
    assert both[BOUNDS][1, 0] > 1.5 * waits[BOUNDS][1, 0]  # a burst goes on after two others


def test_traffic_that_repeats_itself_more_is_measured_as_it_is(fitted):
    busy = measure_watch(fitted[0], OTHERS, KIND, traffic=BenignTraffic(0.5, 30.0, 100, 300), streams=5, seed=1)
    assert busy["reached"][0]["streams"] > 0  # what it was not fitted to it does take for a search


def test_rows_that_all_look_alike_are_refused():
    rng = np.random.default_rng(4)
    alike = np.clip(ROWS[0] + rng.normal(0, 0.02, (900, 28, 28)), 0, 1).astype(np.float32)
    with pytest.raises(CalibrationInvalid):
        fit_watch(alike, OTHERS, KIND, traffic=TRAFFIC, streams=(2, 2))


def test_too_few_rows_are_refused():
    with pytest.raises(CalibrationInvalid):
        fit_watch(ROWS[:150], OTHERS, KIND, traffic=BenignTraffic(queries=100), streams=(2, 2))


def test_a_stream_that_repeats_itself_all_the_time_is_refused():
    with pytest.raises(CalibrationInvalid):
        fit_watch(ROWS, OTHERS, KIND, traffic=BenignTraffic(0.9, 100.0, 1_000, 300), streams=(10, 2))


def test_numbers_are_near_where_all_but_a_few_are_equal_or_all_are_close():
    rng = np.random.default_rng(5)
    rows = rng.gamma(2.0, 100.0, (800, 12)).astype(np.float32)
    rows[:, 3] = 7.0  # says nothing
    kind = WatchKind.of_numbers("features", rows[:400])
    arrays, report = fit_watch(rows[:400], rows[400:], kind, traffic=TRAFFIC, streams=(20, 20))
    assert report["cells"] == 11
    watch = Watch.from_calibration(arrays, key=KEY, answer_names=frozenset())
    base = rows[500]
    one_changed, all_close = base.copy(), base * np.float32(1.002)
    one_changed[0] += 500
    for row, near in ((base, False), (one_changed, True), (all_close, True), (rows[501], False)):
        asked = {"features": row[None]}
        seen = watch.observe([ASKER], np.zeros(1, np.intp), asked, {}, 0)
        assert bool(seen.anchors) == near


def test_near_duplicates_are_near_and_in_range():
    rng = np.random.default_rng(6)
    for manner in range(3):
        again = seen_again(ROWS[0], manner, rng)
        assert again.dtype == np.float32
        assert again.shape == ROWS[0].shape
        assert 0 <= again.min() <= again.max() <= 1
        assert (again != ROWS[0]).any()
    row = np.arange(10, dtype=np.float32)
    assert 1 <= (corrected(row, row + 1, rng) != row).sum() <= 2


def test_a_stream_has_as_many_near_duplicates_as_it_says():
    traffic = BenignTraffic(duplicates=0.2, queries=2_000)
    stream = traffic.stream(images(7, 2_100), KIND, np.random.default_rng(8))
    fresh = {row.tobytes() for row in images(7, 2_100)}
    assert len(stream) == 2_000
    assert np.mean([row.tobytes() not in fresh for row in stream]) == pytest.approx(0.2, abs=0.04)
