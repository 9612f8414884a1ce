"""An answer that has to wait for a replica or for witnesses leaves when its record is there, and not before."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import pytest

from gateway.config.document import FileRejected
from gateway.request.elsewhere import Elsewhere
from stockade.open_inference import grpc_service_pb2 as pb
from tests.e2e.caller import infer_body
from tests.gateway.rig import Rig, ended, image, open_rig, tiny_body, until

CODE = grpc.StatusCode
ONE = tiny_body(image(0.5))
SHORT_MS = 200


def replicated(config) -> None:
    config["audit"]["replication"] = {"url": "file:///nowhere"}
    config["audit"]["acknowledge_timeout"] = f"{SHORT_MS}ms"


def patient(config) -> None:
    replicated(config)
    config["audit"]["acknowledge_timeout"] = "60s"


def replica(policy) -> None:
    policy["models"]["tiny"]["acknowledge"] = "replica"


@pytest.fixture
async def rig(made_site, tmp_path: Path) -> AsyncIterator[Rig]:
    async with open_rig(made_site, tmp_path, config=patient, policy=replica) as opened:
        yield opened


def tell(rig: Rig, replica: int, witnessed: int = 0, *, behind: bool = False) -> None:
    rig.gw.elsewhere.told({"replica": (1, replica), "witnessed": (1, witnessed)}, behind=behind)


async def waiting(rig: Rig, count: int = 1) -> None:
    await until(lambda: len(rig.gw.elsewhere._waiting) == count)


async def test_it_leaves_when_its_record_is_in_the_replica_and_not_before(rig):
    call = rig.infer(ONE)
    await waiting(rig)
    assert len(rig.sink.entries) == 1, "its record is durable"
    for size, witnessed in ((0, 0), (0, 9)):  # one entry too few, and what only witnesses have
        tell(rig, size, witnessed)
        await asyncio.sleep(0.05)
        assert not call.done()
    tell(rig, 1)
    reply = await ended(call)
    assert (reply.reason, reply.trailers["x-stockade-audit-index"]) == ("OK", "0")
    assert not rig.gw.elsewhere._waiting


async def test_each_waits_for_its_own_record(rig):
    calls = [rig.infer(ONE) for _ in range(3)]
    await waiting(rig, 3)
    tell(rig, 2)
    await until(lambda: sum(call.done() for call in calls) == 2)
    await waiting(rig, 1)
    tell(rig, 3)
    replies = [await ended(call) for call in calls]
    assert sorted(int(reply.trailers["x-stockade-audit-index"]) for reply in replies) == [0, 1, 2]


async def test_what_is_there_already_is_not_waited_for(rig):
    tell(rig, 100)
    tell(rig, 0)  # a size that shrinks takes nothing back
    assert (await rig.ask(ONE)).reason == "OK"


async def test_a_refusal_does_not_wait(rig):
    assert (await rig.ask(infer_body(model="none"))).reason == "MODEL_UNKNOWN"
    assert not rig.gw.elsewhere._waiting


async def test_when_the_time_is_over_there_is_no_answer_and_one_record(made_site, tmp_path):
    async with open_rig(made_site, tmp_path, config=replicated, policy=replica) as rig:
        reply = await rig.ask(ONE)
        assert (reply.code, reply.reason, reply.body) == (CODE.DEADLINE_EXCEEDED, "NOT_ACKNOWLEDGED", b"")
        assert reply.trailers["grpc-retry-pushback-ms"] == "-1"
        assert reply.trailers["x-stockade-audit-index"] == "0"
        tell(rig, 100)
        assert (await rig.ask(ONE)).reason == "OK"
        first, _ = rig.sink.records()
        assert (first["id"], first["kind"], first["reason"]) == (reply.request_id, "served", "OK")
        await until(lambda: rig.at_work == 0)
        assert rig.counted("stockade_requests_total", reason="NOT_ACKNOWLEDGED") == 1
        assert rig.counted("stockade_requests_total", reason="OK") == 1
        assert not rig.gw.elsewhere._waiting


async def test_a_deadline_that_comes_first_counts(rig, monkeypatch):
    """The request's own timeout: gRPC knows nothing of it, so it is ours to keep."""
    waited: list[int] = []
    wait = Elsewhere.wait

    async def spied(self, level, index, timeout_ns) -> None:
        waited.append(timeout_ns)
        await wait(self, level, index, min(timeout_ns, 150_000_000))

    monkeypatch.setattr(Elsewhere, "wait", spied)
    request = pb.ModelInferRequest.FromString(ONE)
    request.parameters["timeout"].int64_param = 150_000  # microseconds
    reply = await rig.ask(request.SerializeToString())
    assert (reply.code, reply.reason) == (CODE.DEADLINE_EXCEEDED, "NOT_ACKNOWLEDGED")
    assert [timeout_ns <= 150_000_000 for timeout_ns in waited] == [True]


async def test_a_caller_who_hangs_up_is_not_waited_for(rig):
    call = rig.infer(ONE)
    await waiting(rig)
    call.cancel()
    await until(lambda: rig.at_work == 0 and not rig.gw.elsewhere._waiting)
    assert [entry["reason"] for entry in rig.sink.records()] == ["OK"], "the model had worked, and the record says so"
    assert rig.gw.concurrency.in_flight == 0


async def test_each_message_of_a_stream_waits(rig):
    stream = rig.stream([ONE])
    await waiting(rig)
    tell(rig, 1)
    replies = [pb.ModelStreamInferResponse.FromString(reply) async for reply in stream]
    assert [bool(reply.error_message) for reply in replies] == [False]


async def test_what_waits_holds_its_place_among_the_calls_in_flight(rig):
    first = rig.infer(ONE, caller="single")
    await waiting(rig)
    assert (await rig.ask(ONE, caller="single")).reason == "RATE_LIMITED"
    tell(rig, 100)
    assert (await ended(first)).reason == "OK"


async def test_too_far_behind_nothing_is_taken_and_health_says_so(rig):
    tell(rig, 100, behind=True)
    reply = await rig.ask(ONE)
    assert (reply.code, reply.reason) == (CODE.UNAVAILABLE, "REPLICA_BEHIND")
    assert int(reply.trailers["grpc-retry-pushback-ms"]) > 0
    assert reply.trailers["x-stockade-audit-index"] == "0", "the refusal is recorded"
    assert rig.engine.batches == []
    health = rig.channel.unary_unary("/grpc.health.v1.Health/Check")(b"", metadata=rig.site.bearer("plenty"))
    health = await ended(health)
    assert (health.code, health.body) == (CODE.OK, b"\x08\x02"), "NOT_SERVING, and whoever asks is told"
    tell(rig, 100)
    assert (await rig.ask(ONE)).reason == "OK"


@pytest.mark.parametrize(("level", "key"), [("replica", "replication"), ("witnessed", "witnesses")])
async def test_a_level_that_is_not_configured_is_refused(made_site, tmp_path, level, key):
    def change(policy) -> None:
        policy["models"]["tiny"]["acknowledge"] = level

    with pytest.raises(FileRejected, match=f"models.tiny.acknowledge: {level} needs `audit.{key}`"):
        async with open_rig(made_site, tmp_path, policy=change):
            pass


async def test_a_wait_ends_with_its_time():
    elsewhere = Elsewhere(10**9)
    with pytest.raises(TimeoutError):
        await elsewhere.wait("replica", (1, 0), 1_000_000)
    assert not elsewhere._waiting
