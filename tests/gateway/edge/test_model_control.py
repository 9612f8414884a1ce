"""What a request to load or unload a model means, and what it may not hold."""

from __future__ import annotations

import grpc
import pytest

from gateway.edge.model_control import meant
from gateway.errors import ArgumentInvalid
from stockade.open_inference.grpc_service_pb2 import RepositoryModelLoadRequest, RepositoryModelUnloadRequest
from tests.gateway.rig import ended

LOAD = "/inference.GRPCInferenceService/RepositoryModelLoad"


def request(**fields):
    return RepositoryModelLoadRequest(**fields)


def with_parameter(name: str, **value) -> RepositoryModelLoadRequest:
    made = request(model_name="tiny")
    for kind, given in value.items():
        setattr(made.parameters[name], kind, given)
    return made


def test_the_name_stands_where_triton_or_kserve_puts_it():
    assert meant(request(model_name="tiny")) == ("tiny", "")
    assert meant(request(repository_name="tiny")) == ("tiny", "")
    assert meant(with_parameter("version", string_param="2")) == ("tiny", "2")
    unload = RepositoryModelUnloadRequest(model_name="tiny")
    unload.parameters["unload_dependents"].bool_param = True
    assert meant(unload) == ("tiny", "")


@pytest.mark.parametrize(
    ("wrong", "field"),
    [
        (request(), "model_name"),
        (request(model_name="tiny", repository_name="elsewhere"), "repository_name"),
        (with_parameter("config", string_param="{}"), "parameters"),
        (with_parameter("file:1/model.onnx", bytes_param=b"\x08"), "parameters"),
        (with_parameter("version", int64_param=2), "parameters.version"),
    ],
    ids=["nothing", "two names", "a configuration", "a model", "a version that is a number"],
)
def test_a_model_cannot_be_pushed(wrong, field):
    with pytest.raises(ArgumentInvalid) as refused:
        meant(wrong)
    assert refused.value.field == field


async def test_where_nobody_could_do_it_it_is_not_offered(rig):
    call = rig.channel.unary_unary(LOAD)
    reply = await ended(call(request(model_name="tiny").SerializeToString(), metadata=rig.site.bearer("rival")))
    assert reply.code is grpc.StatusCode.UNIMPLEMENTED
    assert len(rig.sink.records(reason="METHOD_UNIMPLEMENTED")) == 1
