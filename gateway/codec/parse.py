"""Bytes to messages, within limits.

protobuf itself bounds depth and refuses what is truncated or not UTF-8. What it does not bound is amplification: two
bytes of an empty sub-message become some eighty bytes of object, and 4 MiB of them 176 MB. A body large enough for that
to matter is walked first, its fields counted without making anything of them; a small one goes straight to protobuf.
What a walked body can still cost is some fifteen times its size, in empty elements of one BYTES tensor.
"""

from typing import TypeVar

from google.protobuf.message import DecodeError, Message

from gateway.codec.fields import next_field
from gateway.codec.request import CodecLimits
from gateway.errors import MalformedMessage, RequestTooLarge
from stockade.open_inference.grpc_service_pb2 import ModelInferRequest, ModelInferResponse

M = TypeVar("M", bound=Message)

UNSCANNED_BYTES_MAX = 64 * 1024  # up to here even the worst message stays below 3 MB

_TENSORS = frozenset({ModelInferRequest.INPUTS_FIELD_NUMBER, ModelInferRequest.OUTPUTS_FIELD_NUMBER})
_REPLY_TENSORS = frozenset({ModelInferResponse.OUTPUTS_FIELD_NUMBER})


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
    tensor_fields_max = 8 + limits.dims_max + limits.parameters_max
    fields_max = 8 + 3 * limits.tensors_max + limits.parameters_max
    fields = 0
    position = 0
    while position < len(body):
        fields += 1
        if fields > fields_max:
            raise RequestTooLarge("fields of the message", fields_max)
        number, start, position = next_field(body, position, len(body))
        if number in tensors:
            inner, inner_fields = start, 0
            while inner < position:
                inner_fields += 1
                if inner_fields > tensor_fields_max:
                    raise RequestTooLarge("fields of a tensor", tensor_fields_max)
                _, _, inner = next_field(body, inner, position)
