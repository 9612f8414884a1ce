"""Our wire types against what the clients have compiled in, and beside their stubs in one process."""

import subprocess
import sys
from pathlib import Path

import pytest
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.descriptor_pb2 import FileDescriptorSet

from stockade.open_inference import grpc_service_pb2, model_config_pb2
from stockade.pool import POOL
from tests.gateway.wire_samples import CLIENTS, VECTORS, client_pool

ROOT = Path(__file__).parent.parent.parent
SERVICE = "inference.GRPCInferenceService"

# What a client has and we do not, or under another name: each is a rule of the wire contract.
NOT_OURS = {
    "inference.ModelMetadataResponse.parameters",  # filling field 6 would break another client
    "inference.ModelMetadataResponse.TensorMetadata.parameters",
}
OTHER_NAME = {  # KServe's name for what Triton calls the repository
    ("kserve-0.21.0", "inference.RepositoryModelLoadRequest.model_name"): "repository_name",
    ("kserve-0.21.0", "inference.RepositoryModelUnloadRequest.model_name"): "repository_name",
}


def files(client):
    return FileDescriptorSet.FromString((VECTORS / f"{client}.binpb").read_bytes()).file


def messages(client):
    """Every message of a client, nested ones too; map entries are compared through their fields."""
    pool = client_pool(client)

    def below(message: Descriptor):
        yield message
        for nested in message.nested_types:
            yield from below(nested)

    for file in files(client):
        for message in file.message_type:
            yield from below(pool.FindMessageTypeByName(f"{file.package}.{message.name}"))


def kind(field: FieldDescriptor):
    """Everything about a field that its bytes depend on."""
    oneof = field.containing_oneof.name if field.containing_oneof is not None else None
    return field.number, field.type, field.is_repeated, oneof, field.message_type and field.message_type.full_name


@pytest.mark.parametrize("client", CLIENTS)
def test_each_field_of_a_client_is_ours(client):
    compared = 0
    for message in messages(client):
        if message.full_name.endswith("ParametersEntry") and message.containing_type.full_name in {
            "inference.ModelMetadataResponse",
            "inference.ModelMetadataResponse.TensorMetadata",
        }:
            continue
        ours = POOL.FindMessageTypeByName(message.full_name)
        for field in message.fields:
            if field.full_name in NOT_OURS:
                assert field.number not in ours.fields_by_number
                continue
            assert kind(field) == kind(ours.fields_by_name[OTHER_NAME.get((client, field.full_name), field.name)])
            compared += 1
    assert compared > 60


@pytest.mark.parametrize("client", CLIENTS)
def test_each_enum_value_of_a_client_is_ours(client):
    for message in messages(client):
        for enum in message.enum_types:
            ours = POOL.FindEnumTypeByName(enum.full_name)
            assert {value.name: value.number for value in enum.values} == {
                value.name: value.number for value in ours.values
            }


def test_the_datatypes_are_the_clients():
    for client in ("tritonclient-2.41.0", "tritonclient-2.73.0"):
        theirs = client_pool(client).FindEnumTypeByName("inference.DataType")
        assert {v.name: v.number for v in theirs.values} == dict(model_config_pb2.DataType.items())


@pytest.mark.parametrize("client", CLIENTS)
def test_each_method_of_a_client_is_ours(client):
    ours = POOL.FindServiceByName(SERVICE).methods_by_name
    for method in client_pool(client).FindServiceByName(SERVICE).methods:
        own = ours[method.name]
        assert own.input_type.full_name == method.input_type.full_name
        assert own.client_streaming == method.client_streaming
        assert own.server_streaming == method.server_streaming
        if (client, method.name) == ("mlserver-1.7.1", "ModelStreamInfer"):
            assert (
                method.output_type.full_name == "inference.ModelInferResponse"
            )  # served on request, by gateway.stream
        else:
            assert own.output_type.full_name == method.output_type.full_name


def test_we_invent_nothing():
    """Every field of ours is the newest Triton client's, but for the two that KServe reads in repository replies."""
    theirs = {field.full_name for message in messages("tritonclient-2.73.0") for field in message.fields}
    ours = {
        field.full_name
        for module in (grpc_service_pb2, model_config_pb2)
        for message in module.DESCRIPTOR.message_types_by_name.values()
        for field in message.fields
    }
    assert ours - theirs == {
        "inference.RepositoryModelLoadResponse.model_name",
        "inference.RepositoryModelLoadResponse.isLoaded",
        "inference.RepositoryModelUnloadResponse.model_name",
        "inference.RepositoryModelUnloadResponse.isUnloaded",
    }


def run(*command: str) -> subprocess.CompletedProcess:
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)


@pytest.mark.parametrize("order", [("tritonclient.grpc", "stockade"), ("stockade", "tritonclient.grpc")])
def test_a_client_and_our_types_live_in_one_process(order):
    """In a fresh interpreter, so that both orders of import are really tried."""
    modules = {
        "tritonclient.grpc": "from tritonclient.grpc import service_pb2 as theirs",
        "stockade": "from stockade.open_inference import grpc_service_pb2 as ours",
    }
    program = "\n".join(
        [
            *(modules[name] for name in order),
            "data = theirs.ModelInferRequest(model_name='m', id='i').SerializeToString()",
            "assert ours.ModelInferRequest.FromString(data).id == 'i'",
            "assert ours.ModelInferRequest is not theirs.ModelInferRequest",
            "assert ours.ModelInferRequest.DESCRIPTOR.full_name == theirs.ModelInferRequest.DESCRIPTOR.full_name",
        ]
    )
    result = run(sys.executable, "-c", program)
    assert result.returncode == 0, result.stderr


def test_the_wire_types_bring_no_grpc_along():
    program = (
        "import sys\nfrom stockade.open_inference import grpc_service_pb2\n"
        "from stockade.v1 import admin_pb2, audit_pb2\n"
        "sys.exit('grpc' in sys.modules)"
    )
    assert run(sys.executable, "-c", program).returncode == 0


def test_the_generated_files_are_those_of_the_protos():
    result = run(sys.executable, "scripts/generate_proto.py", "--check")
    assert result.returncode == 0, result.stderr
