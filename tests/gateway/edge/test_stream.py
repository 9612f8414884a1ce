"""The shapes of a stream, read with the clients' own message classes."""

import pytest

from gateway.edge.stream import stream_answer, stream_refusal, stream_shape
from stockade.open_inference.grpc_service_pb2 import ModelInferResponse
from tests.gateway.wire_samples import client_message

REPLY = ModelInferResponse(model_name="kiosk", id="42", raw_output_contents=[bytes(300)]).SerializeToString()


@pytest.mark.parametrize(
    ("stream_format", "grpc_error", "wrapped", "status_errors"),
    [
        (None, False, True, False),
        (None, True, True, True),
        ("mlserver", False, False, True),
        ("mlserver", True, False, True),
        ("MLServer", False, True, False),
        ("", False, True, False),
    ],
)
def test_the_metadata_chooses_the_shape(stream_format, grpc_error, wrapped, status_errors):
    shape = stream_shape(stream_format, triton_grpc_error=grpc_error)
    assert (shape.wrapped, shape.status_errors) == (wrapped, status_errors)


@pytest.mark.parametrize("client", ["tritonclient-2.41.0", "tritonclient-2.73.0"])
def test_triton_reads_a_wrapped_answer_and_that_nothing_follows_it(client):
    data = stream_answer(REPLY, stream_shape(None, triton_grpc_error=False))
    told = client_message(client, "ModelStreamInferResponse").FromString(data)
    assert told.error_message == ""
    assert told.infer_response.parameters["triton_final_response"].bool_param
    del told.infer_response.parameters["triton_final_response"]
    assert told.infer_response.SerializeToString() == REPLY


def test_mlserver_reads_a_bare_answer():
    data = stream_answer(REPLY, stream_shape("mlserver", triton_grpc_error=False))
    assert data == REPLY
    assert client_message("mlserver-1.7.1", "ModelInferResponse").FromString(data).id == "42"


@pytest.mark.parametrize("client", ["tritonclient-2.41.0", "tritonclient-2.73.0"])
def test_triton_reads_a_refusal_and_whose_it_is(client):
    told = client_message(client, "ModelStreamInferResponse").FromString(stream_refusal("[QUEUE_FULL] Full.", "42"))
    assert told.error_message == "[QUEUE_FULL] Full."
    assert told.infer_response.id == "42"
    assert not told.infer_response.outputs
