"""What any bytes may do to the codec: give a value, or one of its three errors. Nothing else, ever.

hypothesis tries it in test_codec_properties.py, libFuzzer in fuzz_codec.py.
"""

import numpy as np

from gateway.codec import CodecLimits, InferRequest, decode, encode, parse
from gateway.codec.datatypes import DATATYPES
from gateway.errors import MalformedMessage, RequestTooLarge, TensorInvalid
from stockade.open_inference.grpc_service_pb2 import ModelInferRequest, ModelInferResponse
from tests.gateway.wire_samples import Tensor

LIMITS = CodecLimits(message_bytes_max=70_000, rows_max=8, elements_max=64, tensors_max=4, string_bytes_max=64)
SPECS = {name: (Tensor("x", name, (-1, -1), -1.0, 1.0),) for name in DATATYPES}
OUTPUTS = (Tensor("y", "FP32", (-1, 3)), Tensor("half", "FP16", (-1,)), Tensor("words", "BYTES", (-1,)))


def check(body: bytes) -> InferRequest | None:
    """Parse and decode `body`; when that gives a request, answer it and read the answer back."""
    try:
        message = parse(body, LIMITS)
        datatype = message.inputs[0].datatype if message.inputs else "FP32"
        request = decode(message, SPECS.get(datatype, SPECS["FP32"]), OUTPUTS, LIMITS)
    except (MalformedMessage, RequestTooLarge, TensorInvalid):
        return None
    for array in request.inputs.values():
        assert array.shape[0] == request.rows <= LIMITS.rows_max
        assert array.size <= LIMITS.elements_max
        assert not array.flags.writeable
        assert array.dtype == object or np.isfinite(array).all()
    outputs = {
        "y": np.ones((request.rows, 3), np.float32),
        "half": np.ones(request.rows, np.float16),
        "words": np.full(request.rows, b"w", object),
    }
    datatypes = {spec.name: spec.datatype for spec in OUTPUTS}
    reply = ModelInferResponse.FromString(encode(request, request.model_name, "1", outputs, datatypes))
    assert reply.id == request.id
    return request


def seeds() -> list[bytes]:
    """A good request for each datatype, raw and typed where that exists."""
    found = []
    for name, datatype in DATATYPES.items():
        data = b"\x01\x00\x00\x00w" if name == "BYTES" else bytes(datatype.wire.itemsize)
        raw = ModelInferRequest(model_name="m", id="1", raw_input_contents=[data])
        raw.inputs.add(name="x", datatype=name, shape=[1, 1])
        raw.outputs.add(name="y").parameters["classification"].int64_param = 2
        raw.parameters["timeout"].string_param = "5"
        found.append(raw.SerializeToString())
        if datatype.contents:
            typed = ModelInferRequest(model_name="m", id="1")
            contents = typed.inputs.add(name="x", datatype=name, shape=[1, 1]).contents
            getattr(contents, datatype.contents).append(b"w" if name == "BYTES" else 1)
            typed.outputs.add(name="words")
            found.append(typed.SerializeToString())
    return found
