"""Arrays to replies.

A reply is put together from serialized parts instead of message objects: the names, datatypes and shapes of an answer
are few and recur, so their bytes are remembered, and what differs (the id, the numbers) is set between them. That is
protobuf's own rule, that fields of a message may follow one another in parts, and the parts stand in the order in which
protobuf itself would write them: a test holds the result equal to its, byte for byte.
"""

from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from math import prod
from types import MappingProxyType
from typing import NamedTuple

from gateway.codec.classification import best_classes
from gateway.codec.datatypes import DATATYPES, Array, Datatype
from gateway.codec.fields import delimited, prefix, tag
from gateway.codec.request import InferRequest
from gateway.codec.tensors import to_contents, to_raw_bytes, to_wire
from gateway.errors import ModelError
from stockade.open_inference.grpc_service_pb2 import InferParameter, ModelInferResponse

Parameter = bool | int | float | str
_NO_PARAMETERS: Mapping[str, Parameter] = MappingProxyType({})

_ID_TAG = tag(ModelInferResponse.ID_FIELD_NUMBER)
_RAW_TAG = tag(ModelInferResponse.RAW_OUTPUT_CONTENTS_FIELD_NUMBER)


class Column(NamedTuple):
    """One output of a batch: all rows, and for fixed-width datatypes their wire bytes. A tuple: made once an answer."""

    datatype: Datatype
    rows: Array
    row_shape: tuple[int, ...]
    row_bytes: int
    data: memoryview | None  # None: BYTES


def encode(
    request: InferRequest,
    model_name: str,
    model_version: str,
    outputs: Mapping[str, Array],
    datatypes: Mapping[str, str],
    *,
    class_names: Sequence[str] = (),
    parameters: Mapping[str, Parameter] = _NO_PARAMETERS,
) -> bytes:
    """The serialized ModelInferResponse to `request`. `outputs` are this request's rows, `datatypes` their names."""
    batch = (request,)
    return encode_batch(
        batch, model_name, model_version, outputs, datatypes, class_names=class_names, parameters=parameters
    )[0]


def encode_batch(
    requests: Sequence[InferRequest],
    model_name: str,
    model_version: str,
    outputs: Mapping[str, Array],
    datatypes: Mapping[str, str],
    *,
    class_names: Sequence[str] = (),
    parameters: Mapping[str, Parameter] = _NO_PARAMETERS,
) -> list[bytes]:
    """The replies to the requests of one batch, whose rows stand in `outputs` in the order of `requests`.

    A request without `requested_outputs` gets every output there is. `parameters` go into every reply. Raises
    ModelError when an output has not as many rows as the requests, for then no row can be told whose it is.
    """
    rows = sum([request.rows for request in requests])
    if any(len(array) != rows for array in outputs.values()):
        raise ModelError
    head = _head(model_name, model_version)
    middle = _parameters(parameters) if parameters else b""
    columns = {name: _column(array, DATATYPES[datatypes[name]]) for name, array in outputs.items()}
    replies: list[bytes] = []
    start = 0
    for request in requests:
        span = slice(start, start + request.rows)
        names = request.requested_outputs if request.requested_outputs is not None else tuple(columns)
        if request.raw and not request.classification:
            tail = _raw_tail(columns, names, span)
        else:
            tail = _built_tail(columns, names, span, request, class_names)
        replies.append(b"".join((head, _identity(request.id), middle, *tail)))
        start = span.stop
    return replies


def without_id(reply: bytes, model_name: str, model_version: str, request_id: str) -> tuple[bytes, bytes]:
    """What stands before and behind the request's id in a reply of `encode_batch`."""
    start = len(_head(model_name, model_version))
    return reply[:start], reply[start + len(_identity(request_id)) :]


def with_id(before: bytes, after: bytes, request_id: str) -> bytes:
    """The reply to another request of that content: the inverse of `without_id`."""
    return b"".join((before, _identity(request_id), after))


def _identity(request_id: str) -> bytes:
    return delimited(_ID_TAG, request_id.encode()) if request_id else b""


def _column(array: Array, datatype: Datatype) -> Column:
    row_shape = array.shape[1:]
    if datatype.name == "BYTES":
        return Column(datatype, array, row_shape, 0, None)
    wire = to_wire(array, datatype)
    return Column(datatype, array, row_shape, prod(row_shape) * wire.itemsize, memoryview(wire.tobytes()))


def _raw_tail(columns: Mapping[str, Column], names: Sequence[str], span: slice) -> Iterator[bytes | memoryview]:
    """Outputs, then their raw contents."""
    rows = span.stop - span.start
    yield _outputs(tuple([(name, columns[name].datatype.name, rows, columns[name].row_shape) for name in names]))
    for name in names:
        column = columns[name]
        if column.data is None:
            yield delimited(_RAW_TAG, to_raw_bytes(column.rows[span]))
        else:
            yield prefix(_RAW_TAG, rows * column.row_bytes)
            yield column.data[span.start * column.row_bytes : span.stop * column.row_bytes]


def _built_tail(
    columns: Mapping[str, Column], names: Sequence[str], span: slice, request: InferRequest, class_names: Sequence[str]
) -> Iterator[bytes]:
    """The same for typed contents and for classes: the rare forms, built as messages."""
    reply = ModelInferResponse()
    for name in names:
        rows, datatype = columns[name].rows[span], columns[name].datatype
        if name in request.classification:
            rows, datatype = best_classes(rows, request.classification[name], class_names), DATATYPES["BYTES"]
        output = reply.outputs.add(name=name, datatype=datatype.name, shape=rows.shape)
        if not request.raw:
            output.contents.CopyFrom(to_contents(rows, datatype))
        elif datatype.name == "BYTES":
            reply.raw_output_contents.append(to_raw_bytes(rows))
        else:
            reply.raw_output_contents.append(to_wire(rows, datatype).tobytes())
    yield reply.SerializeToString()


@lru_cache(maxsize=1024)
def _head(model_name: str, model_version: str) -> bytes:
    return ModelInferResponse(model_name=model_name, model_version=model_version).SerializeToString()


@lru_cache(maxsize=4096)
def _outputs(signature: tuple[tuple[str, str, int, tuple[int, ...]], ...]) -> bytes:
    reply = ModelInferResponse()
    for name, datatype, rows, row_shape in signature:
        reply.outputs.add(name=name, datatype=datatype, shape=(rows, *row_shape))
    return reply.SerializeToString()


def _parameters(parameters: Mapping[str, Parameter]) -> bytes:
    reply = ModelInferResponse()
    for key, value in parameters.items():
        reply.parameters[key].CopyFrom(_parameter(value))
    return reply.SerializeToString()


def _parameter(value: Parameter) -> InferParameter:
    match value:
        case bool():
            return InferParameter(bool_param=value)
        case int():
            return InferParameter(int64_param=value)
        case float():
            return InferParameter(double_param=value)
        case _:
            return InferParameter(string_param=value)
