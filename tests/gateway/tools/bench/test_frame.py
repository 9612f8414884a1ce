import numpy as np
import pytest

from gateway.tools.bench.frame import NotAnAnswer, echo_reply, framed, image_request, read_answer
from stockade.open_inference import grpc_service_pb2 as oip


def reply(**changes):
    response = oip.ModelInferResponse.FromString(echo_reply("kiosk"))
    changes["edit"](response)
    return response.SerializeToString()


@pytest.mark.parametrize("size", [0, 1, 255, 256, 70_000])
def test_a_frame_is_five_bytes_and_the_message(size):
    body = framed(b"x" * size)
    assert body[0] == 0
    assert int.from_bytes(body[1:5], "big") == size
    assert body[5:] == b"x" * size


def test_the_request_carries_one_raw_image():
    image = np.arange(784, dtype=np.float64).reshape(28, 28) / 784
    request = oip.ModelInferRequest.FromString(image_request("kiosk", image))
    (tensor,) = request.inputs
    assert (request.model_name, tensor.name, tensor.datatype) == ("kiosk", "image", "FP32")
    assert list(tensor.shape) == [1, 28, 28]
    sent = np.frombuffer(request.raw_input_contents[0], dtype="<f4").reshape(28, 28)
    np.testing.assert_array_equal(sent, image.astype(np.float32))


def test_the_echo_is_an_answer():
    assert read_answer(echo_reply("kiosk")).tolist() == pytest.approx([0.1] * 10)


def test_the_probabilities_may_stand_beside_other_outputs():
    def more(response):
        response.outputs.add(name="energy", datatype="FP32", shape=[1])
        response.raw_output_contents.append(b"\0\0\0\0")

    assert read_answer(reply(edit=more)).shape == (10,)


@pytest.mark.parametrize(
    ("edit", "problem"),
    [
        (lambda response: response.ClearField("outputs"), "not the probabilities"),
        (lambda response: response.ClearField("raw_output_contents"), "not raw"),
        (lambda response: response.outputs[0].shape.__setitem__(1, 9), "shape"),
        (lambda response: response.raw_output_contents.__setitem__(0, b"\0" * 36), "36 bytes"),
        (lambda response: response.raw_output_contents.__setitem__(0, b"\0" * 40), "sum to one"),
    ],
)
def test_what_is_no_prediction_is_refused(edit, problem):
    with pytest.raises(NotAnAnswer, match=problem):
        read_answer(reply(edit=edit))


def test_bytes_that_are_no_message_are_refused():
    with pytest.raises(NotAnAnswer, match="no ModelInferResponse"):
        read_answer(b"\xff\xff\xff")
