"""Bytes to messages, within limits.

protobuf itself bounds depth and refuses what is truncated or not UTF-8. What it does not bound is amplification: two
bytes of an empty sub-message become some eighty bytes of object, and 4 MiB of them 176 MB; a byte of a packed list of
numbers becomes eight. A body large enough for that to matter is walked first, its fields and packed numbers counted
without making anything of them; a small one goes straight to protobuf.
"""

from typing import TypeVar

import numpy as np
from google.protobuf.message import DecodeError, Message

from gateway.codec.fields import next_field
from gateway.codec.request import CodecLimits
from gateway.errors import MalformedMessage, RequestTooLarge
from stockade.open_inference.grpc_service_pb2 import InferTensorContents, ModelInferRequest, ModelInferResponse

M = TypeVar("M", bound=Message)

UNSCANNED_BYTES_MAX = 64 * 1024  # up to here even the worst message stays below 3 MB
VARINT_BYTES_MAX = 10

_TENSORS = frozenset({ModelInferRequest.INPUTS_FIELD_NUMBER, ModelInferRequest.OUTPUTS_FIELD_NUMBER})
_REPLY_TENSORS = frozenset({ModelInferResponse.OUTPUTS_FIELD_NUMBER})
_SHAPE = ModelInferRequest.InferInputTensor.SHAPE_FIELD_NUMBER  # of a reply's tensors too, and likewise:
_CONTENTS = ModelInferRequest.InferInputTensor.CONTENTS_FIELD_NUMBER
_VARINTS = frozenset(
    {
        InferTensorContents.BOOL_CONTENTS_FIELD_NUMBER,
        InferTensorContents.INT_CONTENTS_FIELD_NUMBER,
        InferTensorContents.INT64_CONTENTS_FIELD_NUMBER,
        InferTensorContents.UINT_CONTENTS_FIELD_NUMBER,
        InferTensorContents.UINT64_CONTENTS_FIELD_NUMBER,
    }
)


def parse_as(message_class: type[M], body: bytes, limits: CodecLimits) -> M:
    """The message in `body`; for all methods but inference, whose messages are small."""
    if len(body) > min(limits.message_bytes_max, UNSCANNED_BYTES_MAX):
        raise RequestTooLarge("message", min(limits.message_bytes_max, UNSCANNED_BYTES_MAX))
    return _parsed(message_class, body)


def parse(body: bytes, limits: CodecLimits) -> ModelInferRequest:
    """The inference request in `body`; its names and its id are within their limits, nothing else is checked yet."""
    if len(body) > limits.message_bytes_max:
        raise RequestTooLarge("message", limits.message_bytes_max)
    if len(body) > UNSCANNED_BYTES_MAX:
        _scan(body, limits, _TENSORS)
    message = _parsed(ModelInferRequest, body)
    for name, text in (
        ("model_name", message.model_name),
        ("model_version", message.model_version),
        ("id", message.id),
    ):
        if len(text.encode()) > limits.string_bytes_max:
            raise RequestTooLarge(name, limits.string_bytes_max)
    return message


def parse_reply(body: bytes, limits: CodecLimits) -> ModelInferResponse:
    """The reply of another server in `body`, read as carefully as what clients send."""
    if len(body) > limits.message_bytes_max:
        raise RequestTooLarge("message", limits.message_bytes_max)
    if len(body) > UNSCANNED_BYTES_MAX:
        _scan(body, limits, _REPLY_TENSORS)
    return _parsed(ModelInferResponse, body)


def _parsed(message_class: type[M], body: bytes) -> M:
    try:
        return message_class.FromString(body)
    except DecodeError:
        raise MalformedMessage from None


def _scan(body: bytes, limits: CodecLimits, tensors: frozenset[int]) -> None:
    """Refuse what has more fields than any message within the limits, before protobuf makes objects of them."""
    fields_max = 8 + 3 * limits.tensors_max + limits.parameters_max
    fields = 0
    position = 0
    while position < len(body):
        fields += 1
        if fields > fields_max:
            raise RequestTooLarge("fields of the message", fields_max)
        number, start, position = next_field(body, position, len(body))
        if number in tensors:
            _scan_tensor(body, start, position, limits)


def _scan_tensor(body: bytes, position: int, end: int, limits: CodecLimits) -> None:
    """Refuse a tensor with more fields, dimensions or elements than any within the limits."""
    fields_max = 8 + limits.dims_max + limits.parameters_max
    fields = 0
    while position < end:
        fields += 1
        if fields > fields_max:
            raise RequestTooLarge("fields of a tensor", fields_max)
        number, start, position = next_field(body, position, end)
        if number == _SHAPE and position - start > limits.dims_max * VARINT_BYTES_MAX:
            raise RequestTooLarge("dimensions of a tensor", limits.dims_max)
        if number == _CONTENTS:
            _scan_contents(body, start, position, limits)


def _scan_contents(body: bytes, position: int, end: int, limits: CodecLimits) -> None:
    """Refuse contents with more elements than may come one by one, or packed."""
    fields = 0
    while position < end:
        fields += 1
        if fields > limits.single_elements_max:
            raise RequestTooLarge("elements of a tensor that is not raw", limits.single_elements_max)
        number, start, position = next_field(body, position, end)
        if number in _VARINTS and position - start > limits.packed_elements_max:
            # Each number ends with the one byte of it that is below 0x80.
            packed = np.frombuffer(body, np.uint8, position - start, start)
            if np.count_nonzero(packed < 0x80) > limits.packed_elements_max:
                raise RequestTooLarge("elements of a tensor that is not raw", limits.packed_elements_max)
