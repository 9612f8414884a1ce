"""Outputs of earlier queries as bytes, to be given again: one row of `bytes` an answer, whatever the outputs are."""

from collections.abc import Mapping
from math import prod
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from defenses.errors import EvidenceInvalid

ANSWER_BYTES_MAX: Final = 4_096  # of a row


class Layout(NamedTuple):
    """Where an output stands in an answer, after those before it."""

    name: str
    dtype: str
    shape: tuple[int, ...]  # of a row

    @property
    def nbytes(self) -> int:
        return prod(self.shape) * np.dtype(self.dtype).itemsize


class KeptAnswers:
    """Packs the outputs of these names. The first batch says what they look like; later ones have to agree."""

    def __init__(self, names: frozenset[str]) -> None:
        self.names = names
        self.layouts: tuple[Layout, ...] | None = None

    def pack(self, outputs: Mapping[str, NDArray[Any]], rows: int) -> NDArray[np.uint8]:
        """Return uint8 (rows, bytes); EvidenceInvalid for another layout than before, or too many bytes."""
        kept = {name: np.ascontiguousarray(outputs[name]) for name in sorted(self.names & outputs.keys())}
        layouts = tuple([Layout(name, array.dtype.str, array.shape[1:]) for name, array in kept.items()])
        if not all(len(array) == rows for array in kept.values()):
            raise EvidenceInvalid("outputs", "not as many rows as inputs")
        if layouts != self.layouts:
            self._take(layouts)
        parts = [array.reshape(rows, -1).view(np.uint8) for array in kept.values()]
        if len(parts) == 1:
            return parts[0]
        return np.concatenate(parts, axis=1) if parts else np.zeros((rows, 0), np.uint8)

    def _take(self, layouts: tuple[Layout, ...]) -> None:
        """Remember what answers look like; EvidenceInvalid where that was known already."""
        if any(np.dtype(layout.dtype).kind not in "fiub" for layout in layouts):
            raise EvidenceInvalid("outputs", "no rows of numbers")
        if self.layouts is not None:
            raise EvidenceInvalid("outputs", "another shape than before")
        if (total := sum(layout.nbytes for layout in layouts)) > ANSWER_BYTES_MAX:
            raise EvidenceInvalid("outputs", f"{total} bytes a row to keep; {ANSWER_BYTES_MAX} at most")
        self.layouts = layouts

    def unpack(self, answer: NDArray[np.uint8]) -> dict[str, NDArray[Any]]:
        """Return a copy of the outputs of one row, each (1, ...)."""
        found, at = {}, 0
        for layout in self.layouts or ():
            end = at + layout.nbytes
            found[layout.name] = answer[at:end].copy().view(layout.dtype).reshape(1, *layout.shape)
            at = end
        return found
