"""What an ONNX file may hold, decided on its bytes before any runtime sees them.

A walk over the protobuf wire format (https://protobuf.dev/programming-guides/encoding/) of ModelProto
(https://github.com/onnx/onnx/blob/main/onnx/onnx.proto), so the serving path needs no onnx package. Every occurrence of
every field is visited, because a repeated singular message is merged by parsers. Refused, with `BundleRejected(GRAPH)`:

- anything that is not well-formed, a field we do not know, nesting deeper than 8;
- operators, operator sets or functions outside the standard domain ("" or "ai.onnx"): custom code has no place here;
- tensors whose data lies in another file, in any initializer or attribute;
- sparse tensors, training graphs and model-local functions, which we never write.

It does not check types or shapes: the runtime does, and the engine compares its view with the manifest.
"""

from __future__ import annotations

from collections.abc import Iterator

from serving.errors import BundleRejected, Rejection

DEPTH_MAX = 8
VARINT_BYTES_MAX = 10

_DOMAINS = frozenset({b"", b"ai.onnx"})
# Field numbers of onnx.proto that we let through without a look: names, documentation, shapes, values.
_MODEL_PLAIN = frozenset({1, 2, 3, 4, 5, 6, 14})
_GRAPH_PLAIN = frozenset({2, 10, 11, 12, 13, 16})
_NODE_PLAIN = frozenset({1, 2, 3, 4, 6, 9})
_ATTRIBUTE_PLAIN = frozenset({1, 2, 3, 4, 7, 8, 9, 13, 20})
_TENSOR_PLAIN = frozenset({1, 2, 4, 5, 6, 7, 8, 9, 10, 11, 12})
_OPERATOR_SET_PLAIN = frozenset({2})

Span = tuple[int, int]


class _Malformed(Exception):
    pass


def check_graph(data: bytes, file: str) -> None:
    """Return if this ONNX model may be given to a runtime; raise BundleRejected otherwise."""
    try:
        graphs = _check_model(data)
    except _Malformed as error:
        raise BundleRejected(Rejection.GRAPH, file, str(error)) from error
    if graphs != 1:
        raise BundleRejected(Rejection.GRAPH, file, "does not hold exactly one graph")


def _check_model(data: bytes) -> int:
    graphs = 0
    for number, value in _fields(data, (0, len(data))):
        match number, value:
            case 7, (int(), int()):
                _check_graph(data, value, DEPTH_MAX)
                graphs += 1
            case 8, (int(), int()):
                _check_operator_set(data, value)
            case _ if number not in _MODEL_PLAIN:
                raise _Malformed(f"model field {number} is not allowed")
    return graphs


def _check_operator_set(data: bytes, span: Span) -> None:
    for number, value in _fields(data, span):
        match number, value:
            case 1, (start, end):
                _check_domain(data[start:end])
            case _ if number not in _OPERATOR_SET_PLAIN:
                raise _Malformed(f"operator set field {number} is not allowed")


def _check_graph(data: bytes, span: Span, depth: int) -> None:
    if depth == 0:
        raise _Malformed("graphs are nested too deeply")
    for number, value in _fields(data, span):
        match number, value:
            case 1, (int(), int()):
                _check_node(data, value, depth)
            case 5, (int(), int()):
                _check_tensor(data, value)
            case _ if number not in _GRAPH_PLAIN:
                raise _Malformed(f"graph field {number} is not allowed")


def _check_node(data: bytes, span: Span, depth: int) -> None:
    for number, value in _fields(data, span):
        match number, value:
            case 5, (int(), int()):
                _check_attribute(data, value, depth)
            case 7, (start, end):
                _check_domain(data[start:end])
            case _ if number not in _NODE_PLAIN:
                raise _Malformed(f"node field {number} is not allowed")


def _check_attribute(data: bytes, span: Span, depth: int) -> None:
    for number, value in _fields(data, span):
        match number, value:
            case ((5 | 10), (int(), int())):
                _check_tensor(data, value)
            case ((6 | 11), (int(), int())):
                _check_graph(data, value, depth - 1)
            case _ if number not in _ATTRIBUTE_PLAIN:
                raise _Malformed(f"attribute field {number} is not allowed")


def _check_tensor(data: bytes, span: Span) -> None:
    for number, value in _fields(data, span):
        if number == 13 or (number == 14 and value != 0):
            raise _Malformed("a tensor lies outside the file")
        if number != 14 and number not in _TENSOR_PLAIN:
            raise _Malformed(f"tensor field {number} is not allowed")


def _check_domain(domain: bytes) -> None:
    if domain not in _DOMAINS:
        raise _Malformed("an operator domain is not the standard one")


def _fields(data: bytes, span: Span) -> Iterator[tuple[int, int | Span]]:
    """Yield (field number, value): a span for length-delimited fields, the number or bits for the others."""
    position, end = span
    while position < end:
        key, position = _varint(data, position, end)
        number, wire = key >> 3, key & 7
        if number == 0:
            raise _Malformed("field number zero")
        if wire == 0:
            value, position = _varint(data, position, end)
            yield number, value
        elif wire == 2:
            length, position = _varint(data, position, end)
            if length > end - position:
                raise _Malformed("a field is longer than what holds it")
            yield number, (position, position + length)
            position += length
        elif wire in (1, 5):
            width = 8 if wire == 1 else 4
            if width > end - position:
                raise _Malformed("a field is longer than what holds it")
            yield number, int.from_bytes(data[position : position + width], "little")
            position += width
        else:
            raise _Malformed(f"wire type {wire}")


def _varint(data: bytes, position: int, end: int) -> tuple[int, int]:
    value = 0
    for index in range(VARINT_BYTES_MAX):
        if position + index >= end:
            raise _Malformed("a number is cut off")
        byte = data[position + index]
        value |= (byte & 0x7F) << (7 * index)
        if byte < 0x80:
            return value, position + index + 1
    raise _Malformed("a number is too long")
