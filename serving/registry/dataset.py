"""A labelled dataset for an evaluation: one safetensors file, known by the SHA-256 of its bytes.

It holds a tensor for each input of the model, by its name, and `labels`: whole numbers, the index of each row's class.
Where the model has one input only, it may be called `images` or `ids` as well, as in the samples that come with the
project. Bytes (uint8) for an input of floats from 0 to 1 are brightness, and divided by 255; whole numbers may be of a
narrower type than the model takes. Other tensors are not looked at.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import safetensors
import safetensors.numpy

from serving.bundles.manifest import DATATYPES
from serving.registry.errors import DatasetRejected

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from numpy.typing import NDArray

    from serving.bundles.bundle import Bundle
    from serving.bundles.manifest import TensorSpec

DATASET_BYTES_MAX = 1024 * 1024 * 1024
LABELS, ALONE = "labels", ("images", "ids")
WHITE = 255
NAME_CHARACTERS_MAX = 256


@dataclass(frozen=True, slots=True, eq=False)
class Dataset:
    """Rows as the model takes them; `labels` is int64 (rows,), `sha256` the digest of the file."""

    file: str
    sha256: str
    inputs: Mapping[str, NDArray[Any]]
    labels: NDArray[np.int64]


def read_dataset(file: Path, bundle: Bundle, classes: int) -> Dataset:
    """Read a dataset for a model with this many classes.

    Raises:
        DatasetRejected: it cannot be read, or is not for this model.
    """
    try:
        with file.open("rb") as opened:
            data = opened.read(DATASET_BYTES_MAX + 1)
    except OSError as problem:
        raise DatasetRejected(f"{file}: cannot be read ({problem.strerror})") from None
    if len(data) > DATASET_BYTES_MAX:
        raise DatasetRejected(f"{file}: is larger than {DATASET_BYTES_MAX} bytes")
    return parse_dataset(data, file.name, bundle, classes)


def parse_dataset(data: bytes, name: str, bundle: Bundle, classes: int) -> Dataset:
    """Return the dataset that these bytes are, as `read_dataset`. `name` is what people call it."""
    shown = ascii(name)[1:-1][:NAME_CHARACTERS_MAX]
    try:
        tensors: dict[str, NDArray[Any]] = safetensors.numpy.load(data)
    except (safetensors.SafetensorError, ValueError, TypeError, KeyError):
        raise DatasetRejected(f"{shown}: is not safetensors") from None
    try:
        labels = _labels(tensors, classes)
        inputs = {
            spec.name: _input(tensors, spec, len(labels), alone=len(bundle.inputs) == 1) for spec in bundle.inputs
        }
    except DatasetRejected as problem:
        raise DatasetRejected(f"{shown}: {problem}") from None
    return Dataset(shown, hashlib.sha256(data).hexdigest(), inputs, labels)


def _labels(tensors: Mapping[str, NDArray[Any]], classes: int) -> NDArray[np.int64]:
    labels = tensors.get(LABELS)
    if labels is None or labels.ndim != 1 or labels.dtype.kind not in "iu" or len(labels) == 0:
        raise DatasetRejected("has no `labels`: one whole number a row")
    found = labels.astype(np.int64)
    if found.min() < 0 or found.max() >= classes:
        raise DatasetRejected(f"a label is not from 0 to {classes - 1}")
    return found


def _input(tensors: Mapping[str, NDArray[Any]], spec: TensorSpec, rows: int, *, alone: bool) -> NDArray[Any]:
    array = tensors.get(spec.name)
    if array is None and alone:
        array = next((tensors[name] for name in ALONE if name in tensors), None)
    if array is None:
        raise DatasetRejected(f"has no tensor {spec.name!r}, which the model takes")
    wanted = np.dtype(DATATYPES[spec.datatype])
    if array.shape != (rows, *spec.shape[1:]):
        raise DatasetRejected(f"{spec.name} has the shape {array.shape}, and {(rows, *spec.shape[1:])} is needed")
    if array.dtype == np.uint8 and wanted.kind == "f" and (spec.low, spec.high) == (0.0, 1.0):
        array = array.astype(wanted) / wanted.type(WHITE)
    elif array.dtype.kind in "iu" and wanted.kind in "iu" and np.can_cast(array.dtype, wanted, "safe"):
        array = array.astype(wanted)
    if array.dtype != wanted:
        raise DatasetRejected(f"{spec.name} is {array.dtype}, and the model takes {spec.datatype}")
    if wanted.kind == "f" and not bool(np.isfinite(array).all()):
        raise DatasetRejected(f"{spec.name} is not finite everywhere")
    if (spec.low is not None and array.min() < spec.low) or (spec.high is not None and array.max() > spec.high):
        raise DatasetRejected(f"{spec.name} leaves the range {spec.low} to {spec.high} that the model declares")
    return array
