"""grpc.health.v1 over what the gateway really can do: the process as a whole (""), and each model by its name.

Serving means: the recorder takes records, their replica keeps up, the model's engine is ready, and the gateway is not
draining. Versions that are out of service do not count, but a model without any other is not serving. `Watch` sends the
state at once and then every change (gRPC health checking protocol).

A model is known by its name to who may ask of it whether it is ready, or for an inference; to everybody else it is as
one that is not there.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from grpc_health.v1 import health_pb2

from gateway import errors
from gateway.codec import parse_as
from gateway.request.completion import record_alone
from gateway.request.item import Answer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from gateway.edge.service import Call
    from gateway.request.gateway import Gateway

WATCH_EVERY_S = 0.5
_Status = health_pb2.HealthCheckResponse.ServingStatus


def status_of(service: str, gw: Gateway) -> int | None:
    """Return SERVING or NOT_SERVING, None for a service that is not known here."""
    chosen = [served for (name, _), served in gw.served.items() if service in ("", name)]
    if service and not chosen:
        return None
    loaded = [served for served in chosen if not served.unloaded]
    ready = all(served.engine.ready() for served in loaded) and bool(loaded or not service)
    able = ready and gw.sink.available and not gw.draining and not gw.elsewhere.behind
    return int(_Status.SERVING if able else _Status.NOT_SERVING)


def status_for(call: Call, service: str) -> int | None:
    """Return the same as far as this caller may know, by the policy that is in force now."""
    return status_of(service, call.gw) if not service or service in known_to(call) else None


def known_to(call: Call) -> set[str]:
    """Return the names of the models whose health this caller may know."""
    caller, rights = call.record.caller(), call.gw.active.rights
    return {
        name
        for name, version in call.gw.served
        if any(rights.may_use(caller, right, name, version) for right in ("ModelReady", "ModelInfer"))
    }


def serving(gw: Gateway) -> bool:
    """Say whether the process as a whole can serve."""
    return bool(status_of("", gw) == _Status.SERVING)


async def check(call: Call, body: bytes) -> Answer:
    """Say how one service is; an unknown one is NOT_FOUND."""
    request = parse_as(health_pb2.HealthCheckRequest, body, call.gw.codec_limits)
    status = status_for(call, request.service)
    if status is None:
        raise errors.ModelUnknown
    return Answer(health_pb2.HealthCheckResponse(status=status).SerializeToString())


async def list_all(call: Call, body: bytes) -> Answer:
    """Say how every service is that the caller may know of."""
    parse_as(health_pb2.HealthListRequest, body, call.gw.codec_limits)
    reply = health_pb2.HealthListResponse()
    for service in ("", *sorted(known_to(call))):
        status = status_of(service, call.gw)
        reply.statuses[service].status = _Status.SERVICE_UNKNOWN if status is None else status
    return Answer(reply.SerializeToString())


async def watch(call: Call, bodies: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """Send the state of one service now and at every change. Recorded once, before the first state leaves."""
    body = await anext(bodies, None)
    if body is None:
        return
    request = parse_as(health_pb2.HealthCheckRequest, body, call.gw.codec_limits)
    await record_alone(call.record, call.gw)
    told: int | None = None
    while True:
        draining = call.gw.draining  # looked at before the state, so that the last state told is that of a drain
        status = status_for(call, request.service)
        now = int(_Status.SERVICE_UNKNOWN) if status is None else status
        if now != told:
            told = now
            yield health_pb2.HealthCheckResponse(status=now).SerializeToString()
        if draining:
            return
        await asyncio.sleep(WATCH_EVERY_S)
