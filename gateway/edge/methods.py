"""What the data port offers: one table from gRPC paths to what runs.

Inference goes through the pipeline; everything else answers from facts that are already in memory. Who may call what is
decided before a method runs (`Rights.require_method`); what concerns one model is checked here (`permitted`), and a
model that is not yours looks like one that is not there.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from grpc_health.v1 import health_pb2

from gateway.codec import parse_as
from gateway.edge import health, metadata
from gateway.edge.feedback import RIGHT as FEEDBACK_RIGHT
from gateway.edge.feedback import submit
from gateway.edge.model_control import load_model, unload_model
from gateway.edge.reflection import REFLECTION_PATHS, reflect
from gateway.edge.service import Stream, Unary
from gateway.edge.streaming import stream_infer
from gateway.policy.checks import PUBLIC_METHODS
from gateway.request.item import Answer
from gateway.request.pipeline import answer, route, share
from stockade.open_inference import grpc_service_pb2 as pb

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping

    from google.protobuf.message import Message

    from gateway.admission.budget import Charges
    from gateway.edge.service import Call
    from gateway.models.rules import ModelRules
    from gateway.models.served import Served
    from serving.bundles.manifest import TensorSpec

INFERENCE = "inference.GRPCInferenceService"
HEALTH = health_pb2.DESCRIPTOR.services_by_name["Health"].full_name
FEEDBACK = "stockade.v1.Feedback"


async def model_infer(call: Call, body: bytes) -> Answer:
    return await answer(call.record, body, call.active, call.gw)


def server_live(call: Call, request: pb.ServerLiveRequest) -> Message:  # noqa: ARG001  alive is what answers
    return pb.ServerLiveResponse(live=True)


def server_ready(call: Call, request: pb.ServerReadyRequest) -> Message:  # noqa: ARG001  the request is empty
    return pb.ServerReadyResponse(ready=health.serving(call.gw))


def server_metadata(call: Call, request: pb.ServerMetadataRequest) -> Message:  # noqa: ARG001  the request is empty
    return metadata.server_metadata(call.gw.site.build)


def model_ready(call: Call, request: pb.ModelReadyRequest) -> Message:
    rules = route(call.record, request.name, request.version, call.active)
    return pb.ModelReadyResponse(ready=rules.served.engine.ready() and not call.gw.draining)


def outputs_of(call: Call, rules: ModelRules) -> tuple[TensorSpec, ...]:
    """Return the outputs that this caller may have."""
    return rules.outputs_for(call.record.caller().roles)


def model_metadata(call: Call, request: pb.ModelMetadataRequest) -> Message:
    rules = route(call.record, request.name, request.version, call.active)
    bundle = rules.served.bundle
    versions = [other.served.bundle.version for other in permitted(call) if other.served.bundle.name == bundle.name]
    elsewhere = bundle.manifest.get("upstream") is not None
    return metadata.model_metadata(bundle, versions, bundle.inputs, outputs_of(call, rules), elsewhere=elsewhere)


def model_config(call: Call, request: pb.ModelConfigRequest) -> Message:
    rules = route(call.record, request.name, request.version, call.active)
    bundle = rules.served.bundle
    rows_max, elsewhere = call.gw.codec_limits.rows_max, bundle.manifest.get("upstream") is not None
    return metadata.model_config(bundle, bundle.inputs, outputs_of(call, rules), rows_max, elsewhere=elsewhere)


def model_statistics(call: Call, request: pb.ModelStatisticsRequest) -> Message:
    named = bool(request.name)
    chosen = [route(call.record, request.name, request.version, call.active)] if named else list(permitted(call))
    return metadata.model_statistics((rules.served.bundle, rules.served.counters.totals()) for rules in chosen)


def repository_index(call: Call, request: pb.RepositoryIndexRequest) -> Message:
    models = ((rules.served.bundle, absence(rules.served)) for rules in permitted(call))
    return metadata.repository_index(models, ready_only=request.ready)


def absence(served: Served) -> str:
    """Return why a version cannot answer, in Triton's words; empty when it can."""
    if served.unloaded:
        return "unloaded"
    return "" if served.engine.ready() else "not ready"


def trace_setting(call: Call, request: pb.TraceSettingRequest) -> Message:  # noqa: ARG001  the same for all callers
    return metadata.trace_settings(request)


def log_settings(call: Call, request: pb.LogSettingsRequest) -> Message:
    return metadata.log_settings(request, call.gw.log_level)


def permitted(call: Call) -> Iterator[ModelRules]:
    """The models that this caller may know of, by this method."""
    caller = call.record.caller()
    for (name, version), rules in call.active.models.items():
        if call.active.rights.may_use(caller, call.record.right, name, version):
            yield rules


def told(request_class: type[Message], build: Callable[..., Message]) -> Callable[[Call, bytes], Awaitable[Answer]]:
    """Return a method that answers from memory: parse, build the reply, serialise."""

    async def run(call: Call, body: bytes) -> Answer:
        return Answer(build(call, parse_as(request_class, body, call.gw.codec_limits)).SerializeToString())

    return run


_TOLD: Mapping[str, tuple[type[Message], Callable[..., Message]]] = {
    "ServerLive": (pb.ServerLiveRequest, server_live),
    "ServerReady": (pb.ServerReadyRequest, server_ready),
    "ServerMetadata": (pb.ServerMetadataRequest, server_metadata),
    "ModelReady": (pb.ModelReadyRequest, model_ready),
    "ModelMetadata": (pb.ModelMetadataRequest, model_metadata),
    "ModelConfig": (pb.ModelConfigRequest, model_config),
    "ModelStatistics": (pb.ModelStatisticsRequest, model_statistics),
    "RepositoryIndex": (pb.RepositoryIndexRequest, repository_index),
    "TraceSetting": (pb.TraceSettingRequest, trace_setting),
    "LogSettings": (pb.LogSettingsRequest, log_settings),
}


def charged(method: Unary | Stream) -> Unary | Stream:
    """Return the method as it is where gateways share limits: each call takes from them before it runs.

    An inference does so itself, once its cost is known, and so does what takes labels. What touches neither a model nor
    a tenant is left out: whether a gateway is alive must not depend on where the limits are kept.
    """
    if method.right in PUBLIC_METHODS or method.right in {"ModelInfer", FEEDBACK_RIGHT}:
        return method

    def charges(call: Call) -> Charges:
        return call.active.budgets[call.record.caller().name].request_charges

    if isinstance(method, Unary):
        answered = method.run

        async def run(call: Call, body: bytes) -> Answer:
            await share(call.record, charges(call), call.gw)
            return await answered(call, body)

        return replace(method, run=run)
    streamed = method.run

    async def run_stream(call: Call, bodies: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        await share(call.record, charges(call), call.gw)
        async for reply in streamed(call, bodies):
            yield reply

    return replace(method, run=run_stream)


def data_methods(*, reflection: bool, shared_limits: bool = False) -> dict[str, Unary | Stream]:
    """Return every method of the data port by its gRPC path.

    What else the protocol has is answered with UNIMPLEMENTED: shared memory, because a client would name memory of the
    gateway's host.
    """
    methods: dict[str, Unary | Stream] = {
        f"/{INFERENCE}/ModelInfer": Unary("ModelInfer", model_infer),
        f"/{INFERENCE}/ModelStreamInfer": Stream("ModelStreamInfer", stream_infer),
        f"/{INFERENCE}/RepositoryModelLoad": Unary("RepositoryModelLoad", load_model),
        f"/{INFERENCE}/RepositoryModelUnload": Unary("RepositoryModelUnload", unload_model),
        f"/{FEEDBACK}/Submit": Unary(FEEDBACK_RIGHT, submit),
        f"/{HEALTH}/Check": Unary("Health", health.check),
        f"/{HEALTH}/List": Unary("Health", health.list_all),
        f"/{HEALTH}/Watch": Stream("Health", health.watch),
    }
    for name, (request_class, build) in _TOLD.items():
        methods[f"/{INFERENCE}/{name}"] = Unary(name, told(request_class, build))
    if reflection:
        methods |= dict.fromkeys(REFLECTION_PATHS, Stream("Reflection", reflect))
    return {path: charged(method) for path, method in methods.items()} if shared_limits else methods
