"""Server reflection, v1 and v1alpha, so that grpcurl and its kind find services without our .proto files.

grpcio-reflection answers the questions; both versions have the same messages on the wire. Its servicer is given the
pool our wire types live in, together with the descriptors of health and reflection themselves. One record a call,
durable before the first answer.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2
from grpc_reflection.v1alpha.reflection import aio

from gateway.codec import parse_as
from gateway.request.completion import record_alone
from stockade.open_inference import grpc_service_pb2
from stockade.pool import POOL
from stockade.v1 import feedback_pb2

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from gateway.edge.service import Call

VERSIONS = ("grpc.reflection.v1.ServerReflection", "grpc.reflection.v1alpha.ServerReflection")
REFLECTION_PATHS = tuple(f"/{service}/ServerReflectionInfo" for service in VERSIONS)


@cache
def servicer() -> aio.ReflectionServicer:
    """Return the servicer that knows what the data port offers; made at the first question."""
    for module in (health_pb2, reflection_pb2):
        POOL.AddSerializedFile(module.DESCRIPTOR.serialized_pb)
    services = [service.full_name for service in grpc_service_pb2.DESCRIPTOR.services_by_name.values()]
    services.append(feedback_pb2.DESCRIPTOR.services_by_name["Feedback"].full_name)
    services += [health_pb2.DESCRIPTOR.services_by_name["Health"].full_name, *VERSIONS]
    return aio.ReflectionServicer(services, pool=POOL)


async def reflect(call: Call, bodies: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """Answer questions about services and their messages."""

    async def questions() -> AsyncIterator[reflection_pb2.ServerReflectionRequest]:
        async for body in bodies:
            yield parse_as(reflection_pb2.ServerReflectionRequest, body, call.gw.codec_limits)

    await record_alone(call.record, call.gw)
    async for reply in servicer().ServerReflectionInfo(questions(), None):
        yield reply.SerializeToString()
