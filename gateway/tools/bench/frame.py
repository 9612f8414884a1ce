"""The one request every target gets: one 28 x 28 FP32 image, raw, as gRPC puts it on the wire.

A gRPC message is framed by one byte that says "not compressed" and four that say how long it is, big-endian
(gRPC over HTTP/2, Length-Prefixed-Message). Pure: numbers in, bytes out.
"""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
from google.protobuf.message import DecodeError

from stockade.open_inference import grpc_service_pb2 as oip

METHOD = "/inference.GRPCInferenceService/ModelInfer"
FRAME_HEADER_BYTES = 5
IMAGE_SIDE = 28
CLASSES = 10


class NotAnAnswer(ValueError):
    """What came back is no prediction for one image. `problem` says why."""

    def __init__(self, problem: str) -> None:
        super().__init__(problem)
        self.problem = problem


def framed(message: bytes) -> bytes:
    """A serialized message as the body of a unary gRPC request."""
    return struct.pack(">BI", 0, len(message)) + message


def image_request(model: str, image: np.ndarray[Any, Any]) -> bytes:
    """The serialized ModelInferRequest for one image, float32 (28, 28) in [0, 1]."""
    request = oip.ModelInferRequest(model_name=model)
    tensor = request.inputs.add()
    tensor.name = "image"
    tensor.datatype = "FP32"
    tensor.shape.extend((1, IMAGE_SIDE, IMAGE_SIDE))
    request.raw_input_contents.append(np.ascontiguousarray(image, dtype="<f4").tobytes())
    return request.SerializeToString()


def echo_reply(model: str) -> bytes:
    """The fixed ModelInferResponse of the echoes: as long as a real one that carries the probabilities."""
    response = oip.ModelInferResponse(model_name=model, model_version="1")
    tensor = response.outputs.add()
    tensor.name = "probabilities"
    tensor.datatype = "FP32"
    tensor.shape.extend((1, CLASSES))
    response.raw_output_contents.append(np.full(CLASSES, 1 / CLASSES, dtype="<f4").tobytes())
    return response.SerializeToString()


def read_answer(reply: bytes) -> np.ndarray[Any, Any]:
    """The probabilities, float32 (10,), of a serialized ModelInferResponse. Raises NotAnAnswer."""
    try:
        response = oip.ModelInferResponse.FromString(reply)
    except DecodeError:
        raise NotAnAnswer("the reply is no ModelInferResponse") from None
    names = [output.name for output in response.outputs]
    if "probabilities" not in names:
        raise NotAnAnswer(f"the reply holds {names}, not the probabilities")
    at = names.index("probabilities")
    if len(response.raw_output_contents) != len(names):
        raise NotAnAnswer("the reply is not raw, although the request was")
    raw = response.raw_output_contents[at]
    if list(response.outputs[at].shape) != [1, CLASSES] or len(raw) != 4 * CLASSES:
        raise NotAnAnswer(f"the probabilities have shape {list(response.outputs[at].shape)} and {len(raw)} bytes")
    probabilities = np.frombuffer(raw, dtype="<f4")
    if not abs(float(probabilities.sum()) - 1) < 0.01:  # hardening may round each of them
        raise NotAnAnswer("the probabilities do not sum to one")
    return probabilities
