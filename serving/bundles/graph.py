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

from collections.abc import Iterator, Mapping
from typing import NamedTuple

from serving.errors import BundleRejected, Rejection

DEPTH_MAX = 8
VARINT_BYTES_MAX = 10

_DOMAINS = frozenset({b"", b"ai.onnx"})


class _Message(NamedTuple):
    """Field numbers of a message of onnx.proto: let through without a look, messages within, operator domains."""

    name: str
    plain: frozenset[int]  # names, documentation, shapes, values
    within: Mapping[int, str] = {}
    domain: int = 0


_MESSAGES = {
    "model": _Message("model", frozenset({1, 2, 3, 4, 5, 6, 14}), {7: "graph", 8: "operators"}),
    "operators": _Message("operator set", frozenset({2}), domain=1),
    "graph": _Message("graph", frozenset({2, 10, 11, 12, 13, 16}), {1: "node", 5: "tensor"}),
    "node": _Message("node", frozenset({1, 2, 3, 4, 6, 9}), {5: "attribute"}, domain=7),
    "attribute": _Message(
        "attribute",
        frozenset({1, 2, 3, 4, 7, 8, 9, 13, 20}),
        {5: "tensor", 10: "tensor", 6: "graph", 11: "graph"},
    ),
    "tensor": _Message("tensor", frozenset({1, 2, 4, 5, 6, 7, 8, 9, 10, 11, 12})),
}
_TENSOR_EXTERNAL, _TENSOR_LOCATION = 13, 14  # 0 there: in this file

Span = tuple[int, int]


class _Malformed(Exception):
    pass


def check_graph(data: bytes, file: str) -> None:
    """Return if this ONNX model may be given to a runtime; raise BundleRejected otherwise."""
    try:
        graphs = _check(data, (0, len(data)), "model", DEPTH_MAX + 1)
    except _Malformed as error:
        raise BundleRejected(Rejection.GRAPH, file, str(error)) from error
    if graphs != 1:
        raise BundleRejected(Rejection.GRAPH, file, "does not hold exactly one graph")


def _check(data: bytes, span: Span, kind: str, depth: int) -> int:
    """Walk a message of this kind, in which graphs may be `depth` deep, and return how many it holds directly."""
    message, graphs = _MESSAGES[kind], 0
    if depth == 0:
        raise _Malformed("graphs are nested too deeply")
    for number, value in _fields(data, span):
        if number in message.within and isinstance(value, tuple):
            inner = message.within[number]
            graphs += inner == "graph"
            _check(data, value, inner, depth - 1 if inner == "graph" else depth)
        elif number == message.domain and isinstance(value, tuple):
            _check_domain(data[value[0] : value[1]])
        elif kind == "tensor" and number in {_TENSOR_EXTERNAL, _TENSOR_LOCATION}:
            if number == _TENSOR_EXTERNAL or value != 0:
                raise _Malformed("a tensor lies outside the file")
        elif number not in message.plain:
            raise _Malformed(f"{message.name} field {number} is not allowed")
    return graphs


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
