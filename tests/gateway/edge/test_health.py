"""Health is what the gateway can really do now: record, run its models, and take new calls."""

from __future__ import annotations

import asyncio
import json

import grpc
import pytest
from grpc_health.v1 import health_pb2

from gateway.edge.health import status_of
from gateway.host import worker
from tests.gateway.rig import ended, open_rig, until

SERVING, NOT_SERVING = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING
UNKNOWN = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN


def ask(rig, method: str, service: str = "", caller: str = "plenty"):
    body = health_pb2.HealthCheckRequest(service=service).SerializeToString()
    return rig.channel.unary_unary(f"/grpc.health.v1.Health/{method}")(body, metadata=rig.site.bearer(caller))


@pytest.mark.parametrize("service", ["", "tiny"])
async def test_serving_means_that_everything_it_takes_is_there(rig, service):
    def now() -> int:
        return health_pb2.HealthCheckResponse.FromString(reply.body).status

    reply = await ended(ask(rig, "Check", service))
    assert now() == SERVING
    rig.gw.draining = True
    assert status_of(service, rig.gw) == NOT_SERVING
    rig.gw.draining = False
    rig.sink.available = False
    reply = await ended(ask(rig, "Check", service))
    assert now() == NOT_SERVING
    rig.sink.available = True
    rig.engine.close()
    reply = await ended(ask(rig, "Check", service))
    assert now() == NOT_SERVING


async def test_an_unknown_service_is_not_found(rig):
    assert status_of("nothing", rig.gw) is None
    reply = await ended(ask(rig, "Check", "nothing"))
    assert reply.code is grpc.StatusCode.NOT_FOUND


async def test_a_list_has_the_process_and_every_model(rig):
    reply = await ended(ask(rig, "List"))
    statuses = health_pb2.HealthListResponse.FromString(reply.body).statuses
    assert {name: each.status for name, each in statuses.items()} == {"": SERVING, "tiny": SERVING}


async def test_a_model_of_others_is_as_one_that_is_not_there(made_site, tmp_path):
    def policy(document) -> None:
        document["roles"]["rival"] = [{"methods": ["Health"]}]

    async with open_rig(made_site, tmp_path, policy=policy) as rig:
        refused = [await ended(ask(rig, "Check", service, caller="rival")) for service in ("tiny", "nothing")]
        assert [(each.code, each.reason) for each in refused] == [(grpc.StatusCode.NOT_FOUND, "MODEL_UNKNOWN")] * 2
        listed = await ended(ask(rig, "List", caller="rival"))
        assert dict(health_pb2.HealthListResponse.FromString(listed.body).statuses).keys() == {""}

        async def one():
            yield health_pb2.HealthCheckRequest(service="tiny").SerializeToString()

        watched = rig.channel.stream_stream("/grpc.health.v1.Health/Watch")(one(), metadata=rig.site.bearer("rival"))
        assert health_pb2.HealthCheckResponse.FromString(await watched.read()).status == UNKNOWN
        watched.cancel()


async def test_a_watch_tells_the_state_and_its_changes_and_ends_with_the_gateway(rig):
    async def one():
        yield health_pb2.HealthCheckRequest().SerializeToString()

    call = rig.channel.stream_stream("/grpc.health.v1.Health/Watch")(one(), metadata=rig.site.bearer("plenty"))

    async def told() -> int:
        async with asyncio.timeout(60):
            return health_pb2.HealthCheckResponse.FromString(await call.read()).status

    assert await told() == SERVING
    assert len(rig.sink.records(method="/grpc.health.v1.Health/Watch")) == 1
    rig.sink.available = False
    assert await told() == NOT_SERVING
    rig.sink.available = True
    assert await told() == SERVING
    rig.gw.draining = True
    assert await told() == NOT_SERVING
    assert await call.read() is grpc.aio.EOF
    rig.gw.draining = False
    assert len(rig.sink.records(method="/grpc.health.v1.Health/Watch")) == 1


async def test_a_watch_of_an_unknown_service_waits_for_it(rig):
    async def one():
        yield health_pb2.HealthCheckRequest(service="later").SerializeToString()

    call = rig.channel.stream_stream("/grpc.health.v1.Health/Watch")(one(), metadata=rig.site.bearer("plenty"))
    assert health_pb2.HealthCheckResponse.FromString(await call.read()).status == UNKNOWN
    call.cancel()


async def test_a_worker_tells_its_supervisor_what_the_health_service_would_say(rig, capsys, monkeypatch):
    monkeypatch.setattr(worker, "HEALTH_EVERY_S", 0.001)
    said: list[dict] = []

    def told(count: int) -> bool:
        said.extend(json.loads(line) for line in capsys.readouterr().out.splitlines())
        return len(said) >= count

    telling = asyncio.create_task(worker.tell_health(rig.gw))
    try:
        await until(lambda: told(1))
        rig.sink.available = False  # such as when the recorder has said that its disk is full
        await until(lambda: told(2))
        rig.sink.available = True
        await until(lambda: told(3))
        rig.gw.draining = True
        await until(lambda: told(4))
    finally:
        rig.gw.draining = False
        telling.cancel()
    assert said == [{"event": "health", "able": able} for able in (True, False, True, False)]
