import itertools
from contextlib import ExitStack

import grpc
import pytest

from gateway.tools.bench import phases
from gateway.tools.bench.load import Endpoint, first_request
from gateway.tools.bench.machine import free_ports
from gateway.tools.bench.phases import Phase, as_json, asking, wait_for
from gateway.tools.bench.runner import NotMeasured, running
from gateway.tools.bench.targets import TARGETS, Place
from gateway.tools.samples import bundles_directory

REQUEST = first_request()


def test_callers_count_answers_by_version_and_every_other_end_as_an_error(tmp_path):
    """A real server that answers, and then is gone while they go on."""
    place = Place(tmp_path, bundles_directory(), tmp_path, None)
    with ExitStack() as stack:
        server = stack.enter_context(running(TARGETS["echo"].launch(place), REQUEST))
        with asking(server.endpoint, REQUEST, callers=2) as seen:
            seen.more(50)
            assert not seen.errors
            assert seen.versions.keys() == {"1"}
            stack.close()
            wait_for(lambda: seen.errors["UNAVAILABLE"] > 10, "error")
            assert seen.versions["1"] >= 50
        assert seen.total == seen.versions["1"] + seen.errors.total()


def test_a_refusal_is_an_error_by_its_reason_and_so_is_an_answer_that_is_no_prediction(serving):
    calls = itertools.count()

    def answer(_request, context):
        if next(calls) % 2:
            context.abort(grpc.StatusCode.UNAVAILABLE, "[BACKEND_UNAVAILABLE] The model is away. (request_id=1)")
        return b"\xff"

    with asking(serving(answer), REQUEST, callers=1) as seen:
        seen.more(10)
    assert not seen.versions
    assert seen.errors.keys() == {"UNAVAILABLE [BACKEND_UNAVAILABLE]", "the reply is no ModelInferResponse"}
    assert seen.total == seen.errors.total()


def test_what_does_not_come_is_named(monkeypatch):
    monkeypatch.setattr(phases, "CHANGE_S_MAX", 0.0)
    with asking(Endpoint(free_ports(1)[0]), REQUEST, callers=1) as seen, pytest.raises(NotMeasured, match="no tea"):
        wait_for(lambda: seen.versions["1"] > 0, "tea")


def test_the_report_has_each_phase_or_null():
    phase = Phase(1000, {"UNAVAILABLE [BACKEND_UNAVAILABLE]": 2, "INTERNAL": 1}, {"1": 997}, 12.34)
    report = as_json({"replica_kill": phase})
    assert (report["replica_kill_errors"], report["replica_kill_requests"]) == (3, 1000)
    assert (report["rolling_update_errors"], report["rolling_update_requests"]) == (None, None)
    assert report["phases"]["replica_kill"]["answered_by_version"] == {"1": 997}
    assert report["phases"]["replica_kill"]["seconds"] == 12.3
