"""From records to metrics: each call once, in one go, whatever it was."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

import pytest

from gateway.admission.limiter import Decision
from gateway.auth.principal import Principal
from gateway.request.record import Record
from gateway.request.tally import BatchRun, Tally, batches_of, done_of
from ops.metrics import Metrics
from ops.metrics.scrape import expose
from tests.e2e.running import samples, total
from tests.gateway.rig import until

METHOD = "/inference.GRPCInferenceService/ModelInfer"
CALLER = Principal("plenty", "plenty", "standard", 1, frozenset(), "plenty", "api_key", None)


@pytest.fixture
def metrics(tmp_path):
    made = Metrics(tmp_path / "metrics", "worker-0", methods={METHOD: "unary"}, reasons={"RATE_LIMITED"})
    made.serve_classes(["standard"])
    yield made
    made.close()


def record(*, in_stream: bool = False, admitted: bool = True) -> Record:
    made = Record(bytes(16), METHOD, "ModelInfer", "ab" * 32, 1, 0)
    made.principal, made.in_stream = CALLER, in_stream
    made.limited(Decision(admitted, "principal-requests", 2, 1, 1, 0 if admitted else 7))
    made.stages({"auth": 5_000, "infer": 7_000})
    made.stage("total", 90_000)
    if not admitted:
        made.end("refused", "refuse", "RATE_LIMITED", 8)
    return made


def counted(tmp_path, name: str, **labels: str) -> float:
    return total(samples(expose(tmp_path / "metrics").decode()), name, **labels)


async def test_what_ends_within_a_moment_is_written_at_once(metrics, tmp_path):
    tally = Tally(metrics, asyncio.get_running_loop())
    for _ in range(3):
        tally.started(METHOD)
        tally.ended(record())
    assert counted(tmp_path, "stockade_requests_total") == 0
    await until(lambda: counted(tmp_path, "stockade_requests_total"))
    assert counted(tmp_path, "stockade_requests_total", outcome="served", reason="OK") == 3
    assert counted(tmp_path, "grpc_server_started_total", grpc_method="ModelInfer") == 3
    assert counted(tmp_path, "grpc_server_handled_total", grpc_code="OK") == 3
    tally.ended(record())
    await until(lambda: counted(tmp_path, "stockade_requests_total") == 4)


async def test_a_message_of_a_stream_is_a_request_and_not_a_call(metrics, tmp_path):
    tally = Tally(metrics, asyncio.get_running_loop())
    tally.ended(record(in_stream=True))
    tally.flush()
    assert counted(tmp_path, "stockade_requests_total") == 1
    assert counted(tmp_path, "grpc_server_handled_total") == 0


async def test_decisions_of_the_limiter_are_counted_by_class(metrics, tmp_path):
    tally = Tally(metrics, asyncio.get_running_loop())
    for admitted in (True, True, False):
        tally.ended(record(admitted=admitted))
    tally.flush()
    decided = {
        decision: counted(tmp_path, "stockade_ratelimit_decisions_total", **{"class": "standard", "decision": decision})
        for decision in ("admit", "refuse")
    }
    assert decided == {"admit": 2, "refuse": 1}


async def test_a_stranger_has_no_class(metrics, tmp_path):
    tally = Tally(metrics, asyncio.get_running_loop())
    tally.ended(Record(bytes(16), "/no/such", "", "ab" * 32, 1, 0))
    tally.credential_refused("jwt", "RATE_LIMITED")
    tally.flush()
    assert counted(tmp_path, "stockade_ratelimit_decisions_total") == 0
    assert counted(tmp_path, "stockade_auth_failures_total", method="jwt") == 1


def test_the_total_is_not_a_stage():
    done = done_of(record())
    assert done.total_us == 90
    assert done.stages_us == (("auth", 5), ("infer", 7))


def test_a_batch_shares_its_time_and_cost_among_classes_by_rows():
    rules = SimpleNamespace(cost_per_row=2, served=SimpleNamespace(batcher=SimpleNamespace(queued_rows=9)))
    one = BatchRun(rules, {"interactive": 3, "standard": 1}, {}, None, None, 4_000_000)
    other = BatchRun(rules, {"standard": 2}, {}, None, None, 1_000_000)
    done = batches_of(rules, [one, other])
    assert done.rows == [4, 2]
    assert done.cost == {"interactive": 6, "standard": 6}
    assert done.compute_us == {"interactive": 3000.0, "standard": 2000.0}
    assert done.waiting_rows == 9
