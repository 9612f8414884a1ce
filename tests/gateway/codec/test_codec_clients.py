"""The codec on a real socket, between an unmodified tritonclient and a server that echoes what it decoded."""

import queue
from concurrent.futures import ThreadPoolExecutor

import grpc
import numpy as np
import pytest
import tritonclient.grpc as triton
from tritonclient.utils import InferenceServerException, triton_to_np_dtype

from gateway.codec import decode, encode, parse, parse_as
from gateway.edge import metadata
from gateway.edge.stream import stream_answer, stream_refusal, stream_shape
from gateway.errors import Refusal, render
from stockade.open_inference import grpc_service_pb2 as pb
from tests.gateway.wire_samples import LIMITS, Tensor

SPECS = {
    name: (Tensor("x", name, (-1, 4)),) for name in ("FP32", "FP16", "INT8", "UINT64", "BOOL", "BYTES", "FP64", "INT32")
}
SERVICE = "inference.GRPCInferenceService"


class Echo(grpc.GenericRpcHandler):
    """Answers ModelInfer with the input under the name of the model's datatype, and keeps the last decoded request."""

    def __init__(self):
        self.last = None

    def answer(self, body):
        message = parse(body, LIMITS)
        specs = SPECS[message.model_name]
        self.last = decode(message, specs, specs, LIMITS)
        names = ("zero", "one", "two", "three")
        datatypes = {"x": message.model_name}
        return encode(self.last, message.model_name, "7", self.last.inputs, datatypes, class_names=names)

    def unary(self, body, context):
        try:
            return self.answer(body)
        except Refusal as refusal:
            rendered = render(refusal, "0" * 32)
            context.set_trailing_metadata(rendered.trailers)
            context.abort(rendered.code, rendered.details)

    def stream(self, bodies, context):
        shape = stream_shape(None, triton_grpc_error=False)
        for body in bodies:
            try:
                yield stream_answer(self.answer(body), shape)
            except Refusal as refusal:
                yield stream_refusal(render(refusal, "0" * 32).details, parse(body, LIMITS).id)

    def config(self, body, context):
        name = parse_as(pb.ModelConfigRequest, body, LIMITS).name
        model = type("Model", (), {"name": name, "version": "7", "class_names": ()})
        return metadata.model_config(model, SPECS[name], SPECS[name], 256).SerializeToString()

    def service(self, call):
        return {
            f"/{SERVICE}/ModelInfer": grpc.unary_unary_rpc_method_handler(self.unary),
            f"/{SERVICE}/ModelStreamInfer": grpc.stream_stream_rpc_method_handler(self.stream),
            f"/{SERVICE}/ModelConfig": grpc.unary_unary_rpc_method_handler(self.config),
        }.get(call.method)


@pytest.fixture(scope="module")
def echo():
    handler = Echo()
    server = grpc.server(ThreadPoolExecutor(2))
    server.add_generic_rpc_handlers((handler,))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    client = triton.InferenceServerClient(f"127.0.0.1:{port}")
    try:
        yield handler, client
    finally:
        client.close()
        server.stop(None).wait()


def tensor(values, datatype):
    found = triton.InferInput("x", list(values.shape), datatype)
    found.set_data_from_numpy(values)
    return found


def values_of(datatype):
    if datatype == "BYTES":
        return np.array([[b"", b"a", b"\x00\xff", "\u00e4".encode()]], object)
    return np.array([[0, 1, 1, 0], [1, 1, 0, 0]]).astype(triton_to_np_dtype(datatype))


@pytest.mark.parametrize("datatype", SPECS)
def test_each_datatype_goes_there_and_back(echo, datatype):
    _, client = echo
    values = values_of(datatype)
    result = client.infer(datatype, [tensor(values, datatype)], request_id="a b/\u00e4")
    np.testing.assert_array_equal(result.as_numpy("x"), values)
    response = result.get_response()
    assert (response.id, response.model_name, response.model_version) == ("a b/\u00e4", datatype, "7")


def test_options_of_a_request_arrive(echo):
    handler, client = echo
    outputs = [triton.InferRequestedOutput("x")]
    options = {"priority": 3, "timeout": 250_000, "sequence_id": 9}
    client.infer("FP32", [tensor(values_of("FP32"), "FP32")], outputs=outputs, **options)
    assert handler.last.requested_outputs == ("x",)
    assert (handler.last.priority, handler.last.timeout_us) == (3, 250_000)


def test_classes_come_in_the_form_the_client_knows(echo):
    _, client = echo
    values = np.array([[0.25, 0.5, 0.125, 0.0]], np.float32)
    outputs = [triton.InferRequestedOutput("x", class_count=2)]
    result = client.infer("FP32", [tensor(values, "FP32")], outputs=outputs)
    assert result.as_numpy("x").tolist() == [[b"0.500000:1:one", b"0.250000:0:zero"]]


def test_a_refusal_reaches_the_user_with_its_reason_and_field(echo):
    _, client = echo
    wrong = tensor(np.zeros((1, 5), np.float32), "FP32")
    with pytest.raises(InferenceServerException) as caught:
        client.infer("FP32", [wrong])
    assert caught.value.message().startswith("[TENSOR_INVALID] ")
    assert "inputs[0].shape[1]" in caught.value.message()


def test_a_stream_answers_in_order_and_survives_a_refusal(echo):
    _, client = echo
    got = queue.Queue()
    client.start_stream(lambda result, error: got.put((result, error)))
    try:
        good, bad = tensor(values_of("FP32"), "FP32"), tensor(np.zeros((1, 5), np.float32), "FP32")
        for number, sent in enumerate([good, bad, good]):
            client.async_stream_infer("FP32", [sent], request_id=str(number))
        answers = [got.get(timeout=30) for _ in range(3)]
    finally:
        client.stop_stream()
    assert [error is None for _, error in answers] == [True, False, True]
    assert [answers[0][0].get_response().id, answers[2][0].get_response().id] == ["0", "2"]
    assert "[TENSOR_INVALID]" in str(answers[1][1])
    assert answers[0][0].get_response().parameters["triton_final_response"].bool_param


def test_the_configuration_is_readable_as_json(echo):
    _, client = echo
    config = client.get_model_config("BYTES", as_json=True)["config"]
    assert (config["max_batch_size"], config["input"][0]["data_type"]) == (256, "TYPE_STRING")
