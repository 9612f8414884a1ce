"""The parameter maps of a request: the few we honour, and the bounds on all others.

`priority` and `timeout` are read from int64, uint64 and string values, because the clients' stubs differ in what they
can send. Parameters that mean something to other servers (sequence_id and the like) are ignored: no model here keeps
state between requests.
"""

from collections.abc import Mapping

from gateway.codec.request import CodecLimits
from gateway.errors import RequestTooLarge, TensorInvalid
from stockade.open_inference.grpc_service_pb2 import InferParameter

_UINT64_MAX = 2**64 - 1
_DIGITS_MAX = 20  # of 2**64 - 1


def check_parameters(parameters: Mapping[str, InferParameter], field: str, limits: CodecLimits) -> None:
    """Bounds, and no memory that the client names."""
    if len(parameters) > limits.parameters_max:
        raise RequestTooLarge(field, limits.parameters_max)
    for key, value in parameters.items():
        if len(key.encode()) > limits.string_bytes_max or len(value.string_param.encode()) > limits.string_bytes_max:
            raise RequestTooLarge(f"{field}, a key or text", limits.string_bytes_max)
        if key.startswith("shared_memory_"):
            raise TensorInvalid(field, "asks for shared memory, which is not offered")


def whole_number(parameters: Mapping[str, InferParameter], key: str, field: str) -> int | None:
    """A number from 0 to 2**64 - 1, however the client wrote it; None when it is not there."""
    if key not in parameters:  # a plain subscript would add the key to the message
        return None
    value = parameters[key]
    number = -1
    match value.WhichOneof("parameter_choice"):
        case "int64_param":
            number = value.int64_param
        case "uint64_param":
            number = value.uint64_param
        case "string_param":
            text = value.string_param
            if text.isascii() and text.isdecimal() and len(text) <= _DIGITS_MAX:
                number = int(text)
    if not 0 <= number <= _UINT64_MAX:
        raise TensorInvalid(f"{field}[{key}]", "is not a whole number from 0 to 2^64 - 1")
    return number
