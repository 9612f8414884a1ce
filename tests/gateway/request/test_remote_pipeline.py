"""What the pipeline makes of a model that runs elsewhere: who runs it may be gone, or silent, or say no."""

from __future__ import annotations

import asyncio

import grpc
import numpy as np
import pytest

from gateway.config.engine import Engine
from gateway.request.batch import finite_requests, scores_of
from gateway.request.batching import REMOTE_THREADS, threads_of
from serving.errors import BackendFailed, BackendTimedOut, BackendUnavailable
from tests.gateway.oip_server import settings
from tests.gateway.rig import ended, image, poisoned, tiny_body, until

CODE = grpc.StatusCode


async def batch_of_five(rig):
    """Five requests in one batch, of which one makes the engine raise; returns how they ended."""
    rig.engine.go.clear()
    first = rig.infer(tiny_body(image(0.9)))
    await asyncio.to_thread(rig.engine.entered.acquire)
    calls = [rig.infer(tiny_body(image(value / 10))) for value in range(1, 5)] + [rig.infer(tiny_body(poisoned()))]
    await until(lambda: rig.gw.served["tiny", "1"].batcher.queued_rows >= 5)
    rig.engine.go.set()
    replies = [await ended(call) for call in calls]
    assert (await ended(first)).code is CODE.OK
    return replies


@pytest.mark.parametrize(
    ("error", "code", "reason", "pushback", "kind"),
    [
        (lambda: BackendUnavailable("tiny/1", "x"), CODE.UNAVAILABLE, "BACKEND_UNAVAILABLE", "1000", "failed"),
        (lambda: BackendTimedOut("tiny/1", 100), CODE.UNAVAILABLE, "BACKEND_TIMED_OUT", "-1", "failed"),
    ],
    ids=["gone", "silent"],
)
async def test_a_batch_that_nobody_answers_is_not_asked_again_row_by_row(rig, *, error, code, reason, pushback, kind):
    rig.engine.error = error
    replies = await batch_of_five(rig)
    assert {(reply.code, reply.reason) for reply in replies} == {(code, reason)}
    assert {reply.trailers["grpc-retry-pushback-ms"] for reply in replies} == {pushback}
    assert rig.engine.batches == [1, 5]
    entries = rig.sink.records(kind=kind)
    assert sorted(entry["id"] for entry in entries) == sorted(reply.request_id for reply in replies)
    assert {entry["reason"] for entry in entries} == {reason}


async def test_a_failure_says_in_the_log_what_it_was_in_our_own_words_alone(rig):
    rig.engine.error = lambda: BackendFailed("tiny/1", "the value was 0.123", remark="a server said INTERNAL")
    (reply,) = [await ended(rig.infer(tiny_body(poisoned())))]
    assert reply.reason == "MODEL_ERROR"
    assert '"problem":"a server said INTERNAL"' in rig.stderr.getvalue().replace(": ", ":")
    assert "0.123" not in rig.stderr.getvalue() + reply.details


@pytest.mark.parametrize(
    ("engine", "threads"),
    [
        (Engine(kind="inprocess"), 0),
        (Engine(kind="inprocess", threads=2), 2),
        (Engine(kind="oip", oip=settings("127.0.0.1:1")), REMOTE_THREADS),
        (Engine(kind="oip", oip=settings("127.0.0.1:1"), threads=3), 3),
    ],
)
def test_what_waits_for_a_network_does_not_run_on_the_loop(engine, threads):
    assert threads_of(engine) == threads


def test_a_model_without_a_prediction_is_held_to_numbers_in_every_output():
    outputs = {
        "boxes": np.array([[0.0], [np.nan], [0.0], [0.0]], np.float32),
        "labels": np.array([b"a", b"b", b"c", b"d"], object),
        "scores": np.array([0.0, 0.0, 0.0, np.inf]),
    }
    starts = np.array([0, 1, 2])
    assert finite_requests(outputs, None, starts) == [True, False, False]
    assert finite_requests(outputs, "scores", starts) == [True, True, False]
    assert finite_requests({"labels": outputs["labels"]}, None, starts) == [True, True, True]
    assert scores_of(outputs, None).size == 0
    np.testing.assert_array_equal(scores_of({"p": np.array([[0.1, 0.9], [0.7, 0.3]])}, "p"), [0.9, 0.7])
