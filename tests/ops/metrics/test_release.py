"""What is counted of versions comes out for the whole host, as the one who decides about canaries reads it."""

from __future__ import annotations

import pytest

from ops.metrics import TIMES, Compared, Metrics, expose, read_versions

METHODS = {"/a.B/C": "unary"}
REQUEST = ("/a.B/C", 13, "kiosk", "2", "failed", "MODEL_ERROR", 1000, ())


@pytest.fixture
def workers(tmp_path):
    made = [Metrics(tmp_path, f"worker-{number}", methods=METHODS, reasons=["MODEL_ERROR"]) for number in range(2)]
    for worker in made:
        worker.serve_model("kiosk", "2", {})
        worker.release.serve_releases({"kiosk": ["1", "2"]})
    yield made
    for worker in made:
        worker.close()


def test_counts_of_all_workers_are_summed_and_drift_is_the_largest(workers, tmp_path):
    from ops.metrics import RequestDone

    for number, worker in enumerate(workers):
        worker.requests_done([RequestDone(*REQUEST)] * 3)
        worker.release.answered([("kiosk", "2", 1_000), ("kiosk", "2", 20_000_000), ("kiosk", "1", 100)])
        worker.release.compared("kiosk", "2", Compared(4, 1, 40, 3, 0.5, 0.25, 0.125))
        worker.release.dropped("kiosk", "2", 7)
        worker.release.drift([("kiosk", "2", "p-values-evidence", 0.1 + number / 10)])
    found = read_versions(tmp_path)
    one, two = found["kiosk", "1"], found["kiosk", "2"]
    assert two.outcomes["failed", "MODEL_ERROR"] == 6
    assert [(index, count) for index, count in enumerate(two.times) if count] == [(10, 2), (len(TIMES), 2)]
    assert TIMES[10] == pytest.approx(0.001)
    assert [(index, count) for index, count in enumerate(one.times) if count] == [(0, 2)]
    assert two.shadow == {
        "requests": 8,
        "errors": 2,
        "dropped": 14,
        "rows": 80,
        "disagreements": 6,
        "difference": 1.0,
        "seconds": 0.5,
        "answered_seconds": 0.25,
    }
    assert two.drift == {"p-values-evidence": pytest.approx(0.2)}


def test_models_without_a_release_have_no_series(workers, tmp_path):
    workers[0].release.answered([("tiny", "1", 1_000)])
    assert ("tiny", "1") not in read_versions(tmp_path)
    workers[0].release.serve_releases({})
    workers[0].release.answered([("kiosk", "1", 1_000)])
    assert sum(read_versions(tmp_path)["kiosk", "1"].times) == 0


def test_weights_that_are_gone_are_zero(workers, tmp_path):
    workers[0].release.weights("kiosk", {"1": 0.9, "2": 0.1})
    workers[0].release.weights("kiosk", {"1": 1.0})
    workers[0].release.event("kiosk", "rolled-back")
    page = expose(tmp_path).decode()
    assert 'stockade_release_weight{model="kiosk",version="1"} 1.0' in page
    assert 'stockade_release_weight{model="kiosk",version="2"} 0.0' in page
    assert 'stockade_release_events_total{event="rolled-back",model="kiosk"} 1.0' in page


def test_an_empty_directory_has_counted_nothing(tmp_path):
    assert read_versions(tmp_path) == {}
