"""The two shapes in which ModelStreamInfer answers.

Triton's stub reads ModelStreamInferResponse: an answer, or the text of an error with the request's id beside it, after
which the stream goes on. MLServer's stub reads bare ModelInferResponse messages, and says so in the call's metadata;
its errors can only end the call. A Triton client may ask for that too, with `triton_grpc_error: true`.
"""

from dataclasses import dataclass

from gateway.codec.fields import delimited, tag
from stockade.open_inference.grpc_service_pb2 import ModelInferResponse, ModelStreamInferResponse

MLSERVER = "mlserver"

_ANSWER_TAG = tag(ModelStreamInferResponse.INFER_RESPONSE_FIELD_NUMBER)
# Each request has one answer; Triton's clients learn from this that nothing follows it.
_FINAL = ModelInferResponse()
_FINAL.parameters["triton_final_response"].bool_param = True
_FINAL_BYTES = _FINAL.SerializeToString()


@dataclass(frozen=True, slots=True)
class StreamShape:
    """How one stream wants its answers: in ModelStreamInferResponse, and a refusal as the status of the call."""

    wrapped: bool
    status_errors: bool


def stream_shape(stream_format: str | None, *, triton_grpc_error: bool) -> StreamShape:
    """From the metadata `x-stockade-stream-format` and `triton_grpc_error`. An unknown format is Triton's."""
    wrapped = stream_format != MLSERVER
    return StreamShape(wrapped=wrapped, status_errors=not wrapped or triton_grpc_error)


def stream_answer(reply: bytes, shape: StreamShape) -> bytes:
    """A serialized ModelInferResponse as the next message of the stream; its bytes are not parsed again."""
    return delimited(_ANSWER_TAG, reply + _FINAL_BYTES) if shape.wrapped else reply


def stream_refusal(details: str, request_id: str) -> bytes:
    """A refusal as a message of the stream, for shapes without `status_errors`. `request_id` is the client's own id."""
    response = ModelStreamInferResponse(error_message=details)
    response.infer_response.id = request_id
    response.infer_response.parameters["triton_final_response"].bool_param = True
    return response.SerializeToString()
