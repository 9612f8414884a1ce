"""Embeddings that leave turned, each tenant's by a secret rotation of its own (`defenses.extraction.embedding`).

Only what leaves is turned: screens and the watch see what the model gave. The rotation follows from the pepper and the
model's name. So it is the same on every host and after a restart, and for every version of a model.
"""

from __future__ import annotations

import hmac
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any

import numpy as np

from defenses.errors import DefenseError
from defenses.extraction.embedding import rotate, rotation_for
from gateway import errors

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    Tensors = Mapping[str, np.ndarray[Any, Any]]

LABEL = b"stockade rotation 1\0"
BYTES_MAX = 64 * 1024 * 1024  # of one model's rotations; the least recently used give way, and are made again
WIDTH_MAX = 1_024  # of an embedding: a rotation of that takes 8 MiB
FLOAT_BYTES = 8


@dataclass(frozen=True, slots=True)
class Rotations:
    """Which outputs of a model are turned, and by what: `of(tenant, width)`, float64 (width, width), in any thread."""

    outputs: tuple[str, ...]
    of: Callable[[str, int], np.ndarray[Any, np.dtype[np.float64]]]


def open_rotations(model: str, widths: Mapping[str, int], pepper: bytes) -> Rotations:
    """Return how the outputs in `widths` are turned, each as wide as it says."""
    key = hmac.digest(pepper, LABEL + model.encode(), "sha256")
    held = max(1, BYTES_MAX // (FLOAT_BYTES * max(widths.values()) ** 2))
    return Rotations(tuple(widths), lru_cache(maxsize=held)(partial(rotation_for, key)))


def rotate_outputs(
    outputs: Tensors, rotations: Rotations | None, tenants: Iterable[str], starts: np.ndarray[Any, np.dtype[np.intp]]
) -> Tensors:
    """Return the outputs as tenants get them: one of `tenants` a request, `starts` its first row.

    Raises:
        ModelError: an output has not the shape that the policy was checked against.
    """
    if rotations is None:
        return outputs
    left, owners = dict(outputs), list(tenants)
    try:
        for name in rotations.outputs:
            parts = np.split(outputs[name], starts[1:])
            left[name] = np.concatenate(
                [rotate(part, rotations.of(owner, part.shape[1])) for owner, part in zip(owners, parts, strict=True)]
            )
    except (DefenseError, IndexError) as problem:
        raise errors.ModelError from problem
    return left
