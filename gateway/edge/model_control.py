"""Loading and unloading of models by clients: Triton's model control, within what the signed policy allows.

Nothing is pushed here. `load` looks for signed bundles of a model that the policy names, in the directory of bundles,
and puts a version that was taken out of service back; `unload` takes versions out of service, until they are loaded
again, also over restarts. Without the parameter `version` (ours) either means every version that the caller has the
right for. The supervisor decides and all workers of the host follow, or none; other hosts are not told.

Compatibility (found by running the clients): Triton sends the model's name in field 2, KServe in field 1.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from gateway import errors
from gateway.codec import parse_as
from gateway.request.item import Answer
from gateway.request.pipeline import note_model
from stockade.open_inference import grpc_service_pb2 as pb

if TYPE_CHECKING:
    from collections.abc import Mapping

    from gateway.edge.service import Call

VERSION = "version"
IGNORED = frozenset({"unload_dependents"})  # there are no ensembles: nothing depends on a model
Control = pb.RepositoryModelLoadRequest | pb.RepositoryModelUnloadRequest


async def load_model(call: Call, body: bytes) -> Answer:
    """Put versions of a model into service; returns when every worker serves them."""
    request = parse_as(pb.RepositoryModelLoadRequest, body, call.gw.codec_limits)
    name = await control("load", request, call)
    return Answer(pb.RepositoryModelLoadResponse(model_name=name, isLoaded=True).SerializeToString())


async def unload_model(call: Call, body: bytes) -> Answer:
    """Take versions of a model out of service; returns when no worker takes calls for them any more."""
    request = parse_as(pb.RepositoryModelUnloadRequest, body, call.gw.codec_limits)
    name = await control("unload", request, call)
    return Answer(pb.RepositoryModelUnloadResponse(model_name=name, isUnloaded=True).SerializeToString())


async def control(action: str, request: Control, call: Call) -> str:
    """Have the supervisor do it. Returns the model's name.

    Raises:
        ModelUnknown: there is no such version for this caller.
        ModelNotLoaded: a bundle of it cannot be used; the log says why.
    """
    if call.gw.host is None:
        raise errors.MethodUnimplemented
    name, version = meant(request)
    caller = call.record.caller().name
    answer = await call.gw.host.ask(do=action, model=name, version=version, principal=caller, request=call.record.id)
    match answer.get("outcome"):
        case "done":
            if (rules := call.gw.active.models.get((name, str(answer.get("version"))))) is not None:
                note_model(call.record, rules.served)
            return name
        case "unknown":
            raise errors.ModelUnknown
        case _:
            raise errors.ModelNotLoaded


def meant(request: Control) -> tuple[str, str]:
    """Return the name and the version that a request is about; the version is empty for all. Raises ArgumentInvalid."""
    name = request.model_name or request.repository_name
    if not name:
        raise errors.ArgumentInvalid("model_name", "is empty")
    if request.model_name and request.repository_name:
        raise errors.ArgumentInvalid("repository_name", "must be empty: there is one repository")
    parameters: Mapping[str, pb.ModelRepositoryParameter] = request.parameters
    if set(parameters) - IGNORED - {VERSION}:
        raise errors.ArgumentInvalid("parameters", "may hold nothing but a version: models come from signed bundles")
    if VERSION not in parameters:
        return name, ""
    version = parameters[VERSION].string_param
    if not version:
        raise errors.ArgumentInvalid("parameters.version", "must be a string")
    return name, version
