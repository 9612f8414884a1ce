"""The protocol's datatypes: their width, their numpy type, and the field that holds them when they are not raw."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


@dataclass(frozen=True, slots=True)
class Datatype:
    """One datatype. `contents` is its field in InferTensorContents; None: it travels raw only."""

    name: str
    wire: np.dtype[Any]  # of the raw elements; for BYTES the type of the array that holds them
    contents: str | None

    @property
    def is_float(self) -> bool:
        return self.wire.kind == "f" or self.name == "BF16"


def _table() -> Mapping[str, Datatype]:
    rows = (
        ("BOOL", "?", "bool_contents"),
        ("UINT8", "<u1", "uint_contents"),
        ("UINT16", "<u2", "uint_contents"),
        ("UINT32", "<u4", "uint_contents"),
        ("UINT64", "<u8", "uint64_contents"),
        ("INT8", "<i1", "int_contents"),
        ("INT16", "<i2", "int_contents"),
        ("INT32", "<i4", "int_contents"),
        ("INT64", "<i8", "int64_contents"),
        ("FP16", "<f2", None),
        ("BF16", "<u2", None),
        ("FP32", "<f4", "fp32_contents"),
        ("FP64", "<f8", "fp64_contents"),
        ("BYTES", "O", "bytes_contents"),
    )
    return MappingProxyType({name: Datatype(name, np.dtype(wire), contents) for name, wire, contents in rows})


DATATYPES = _table()


def widen_bf16(bits: Array) -> Array:
    """float32 from the upper halves of float32: exact."""
    return (bits.astype(np.uint32) << np.uint32(16)).view(np.float32)


def narrow_bf16(values: Array) -> Array:
    """The bits of the nearest BF16, ties to even; NaN stays NaN."""
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    rounded = (bits + (np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1)))) >> np.uint32(16)
    quiet = (bits >> np.uint32(16)) | np.uint32(0x40)  # rounding could carry a NaN's mantissa into infinity
    is_nan = (bits & np.uint32(0x7FFFFFFF)) > np.uint32(0x7F800000)
    return np.where(is_nan, quiet, rounded).astype("<u2")


@lru_cache(maxsize=1024)
def bound_in(datatype: str, bound: float) -> float:
    """A declared bound as a client of this datatype can express it: 0.1 in FP32 lies above the real 0.1."""
    if datatype == "BF16":
        return float(widen_bf16(narrow_bf16(np.array([bound], np.float32)))[0])
    wire = DATATYPES[datatype].wire
    if wire.kind != "f":
        return bound
    with np.errstate(over="ignore"):
        return float(np.array(bound, np.float64).astype(wire))
