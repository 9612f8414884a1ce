"""The elements of one tensor: raw or typed contents to an array, and an array to raw or typed contents.

Raw elements are little-endian in row-major order; a BYTES element is a 4-byte little-endian length and that many bytes.
"""

import struct

import numpy as np

from gateway.codec.datatypes import DATATYPES, Array, Datatype, bound_in, narrow_bf16, widen_bf16
from gateway.codec.request import Spec
from gateway.errors import TensorInvalid
from stockade.open_inference.grpc_service_pb2 import InferTensorContents

_LENGTH = struct.Struct("<I")


def from_raw(data: bytes, datatype: Datatype, elements: int, field: str) -> Array:
    """A flat array over `data`, without a copy except for BF16 (widened) and BYTES."""
    if datatype.name == "BYTES":
        return _split_bytes(data, elements, field)
    if len(data) != elements * datatype.wire.itemsize:
        raise TensorInvalid(field, "has a length that does not agree with shape and datatype")
    if datatype.name == "BF16":
        return _frozen(widen_bf16(np.frombuffer(data, datatype.wire)))
    if datatype.name == "BOOL" and np.frombuffer(data, np.uint8).max() > 1:
        raise TensorInvalid(field, "holds a byte that is neither 0 nor 1")
    return np.frombuffer(data, datatype.wire)


def from_contents(contents: InferTensorContents, datatype: Datatype, elements: int, field: str) -> Array:
    """A flat array of the one field of `contents` that fits the datatype; every other field must be empty."""
    if datatype.contents is None:
        raise TensorInvalid(field, "cannot hold this datatype: send raw_input_contents")
    for descriptor, _ in contents.ListFields():
        if descriptor.name != datatype.contents:
            raise TensorInvalid(f"{field}.{descriptor.name}", "does not belong to the datatype")
    values = getattr(contents, datatype.contents)
    if len(values) != elements:
        raise TensorInvalid(f"{field}.{datatype.contents}", "has a length that does not agree with the shape")
    if datatype.name == "BYTES":
        return _object_array(list(values))
    if datatype.wire.itemsize >= 4 or datatype.name == "BOOL":
        return _frozen(np.array(values, datatype.wire))
    wide = np.array(values, np.int64)
    bounds = np.iinfo(datatype.wire)
    if wide.min() < bounds.min or wide.max() > bounds.max:
        raise TensorInvalid(f"{field}.{datatype.contents}", "holds a number that the datatype cannot")
    return _frozen(wide.astype(datatype.wire))


def check_domain(array: Array, spec: Spec, field: str) -> None:
    """Floats must be finite, and every number within the declared bounds.

    argmin and argmax both stop at a NaN, and cost a quarter of what minimum.reduce and maximum.reduce do here.
    """
    if spec.datatype == "BYTES" or (spec.low is None and spec.high is None and not DATATYPES[spec.datatype].is_float):
        return
    low, high = array.item(array.argmin()), array.item(array.argmax())
    if not (low > -np.inf and high < np.inf):
        raise TensorInvalid(field, "holds a NaN or an infinity")
    if spec.low is not None and low < bound_in(spec.datatype, spec.low):
        raise TensorInvalid(field, "holds a number below the declared range")
    if spec.high is not None and high > bound_in(spec.datatype, spec.high):
        raise TensorInvalid(field, "holds a number above the declared range")


def to_wire(array: Array, datatype: Datatype) -> Array:
    """`array` in the datatype's wire elements; itself when it already is."""
    if datatype.name == "BF16":
        return narrow_bf16(array)
    return np.asarray(array, datatype.wire)


def to_raw_bytes(array: Array) -> bytes:
    """The raw contents of a BYTES tensor: an object array of `bytes`."""
    return b"".join([_LENGTH.pack(len(element)) + element for element in array.ravel()])


def to_contents(array: Array, datatype: Datatype) -> InferTensorContents:
    """The typed contents of an array; the datatype has a field for it."""
    contents = InferTensorContents()
    elements = array if datatype.name == "BYTES" else to_wire(array, datatype)
    getattr(contents, str(datatype.contents)).extend(elements.ravel().tolist())
    return contents


def _split_bytes(data: bytes, elements: int, field: str) -> Array:
    end = len(data)
    parts: list[bytes] = []  # grows with the data, never with what the shape claims
    position = 0
    for _ in range(elements):
        if position + _LENGTH.size > end:
            raise TensorInvalid(field, "ends inside an element")
        start = position + _LENGTH.size
        position = start + _LENGTH.unpack_from(data, position)[0]
        if position > end:
            raise TensorInvalid(field, "ends inside an element")
        parts.append(data[start:position])
    if position != end:
        raise TensorInvalid(field, "has a length that does not agree with shape and datatype")
    return _object_array(parts)


def _object_array(parts: list[bytes]) -> Array:
    array = np.empty(len(parts), object)
    array[:] = parts
    return _frozen(array)


def _frozen(array: Array) -> Array:
    """`array`, made read-only as one over the message's bytes is anyhow: nobody writes into what a client sent."""
    array.setflags(write=False)
    return array
