"""What the codec is told and what it gives: limits, tensor declarations, and the decoded request."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from gateway.codec.datatypes import Array


@dataclass(frozen=True, slots=True)
class CodecLimits:
    """Bounds on one message. Beyond any of them the request is RequestTooLarge."""

    message_bytes_max: int = 4 * 1024 * 1024
    rows_max: int = 256
    elements_max: int = 4 * 1024 * 1024  # of one tensor
    packed_elements_max: int = 1024 * 1024  # of integers in `contents`: as many as FP32 has in a message of 4 MiB
    single_elements_max: int = 16 * 1024  # of BYTES in `contents`, and of numbers that are not packed
    dims_max: int = 16
    tensors_max: int = 32  # inputs, and requested outputs
    parameters_max: int = 32  # of the request, and of each tensor
    string_bytes_max: int = 1024  # of a name, a version, an id, a parameter's key or text


class Spec(Protocol):
    """A declared tensor: `serving.bundles.bundle.TensorSpec`, and whatever else has these."""

    @property
    def name(self) -> str: ...
    @property
    def datatype(self) -> str: ...
    @property
    def shape(self) -> tuple[int, ...]:
        """-1 for a free dimension; the first dimension counts rows."""
        ...

    @property
    def low(self) -> float | None: ...
    @property
    def high(self) -> float | None: ...


@dataclass(frozen=True, slots=True)
class InferRequest:
    """A request that fits its model.

    `inputs` are read-only arrays with a leading axis of `rows`. BF16 arrives widened to float32; BYTES as an object
    array of `bytes`. `raw` says that the reply goes out as raw contents. `requested_outputs` is None for all of them.
    `priority` is the client's claim, good for the record only.
    """

    model_name: str
    model_version: str
    id: str
    inputs: Mapping[str, Array]
    rows: int
    raw: bool
    requested_outputs: tuple[str, ...] | None
    classification: Mapping[str, int]  # output → how many of the best classes to answer with
    priority: int
    timeout_us: int | None

    def naming(self, outputs: Sequence[Spec]) -> "InferRequest":
        """Return the request with these outputs asked for by name, where it asked for none in particular."""
        return self if self.requested_outputs is not None else replace(self, requested_outputs=_names(outputs))


def _names(outputs: Sequence[Spec]) -> tuple[str, ...]:
    return tuple(spec.name for spec in outputs)
