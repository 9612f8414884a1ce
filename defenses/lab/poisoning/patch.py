"""BadNets (Gu, Dolan-Gavitt and Garg 2017, arXiv 1708.06733, section 4.1): a small bright patch at a fixed place."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

CHEQUERED: Final = np.array([[1, 0, 1], [0, 1, 0], [1, 0, 1]], np.float32)


@dataclass(frozen=True, slots=True)
class BadNets:
    """A 3 x 3 chequered patch whose upper left pixel is (`top`, `left`); counted from the far edge where negative."""

    top: int = -4
    left: int = -4
    payload_share: float = 0.05
    cover_share: float = 0.0
    name: str = "badnets"

    def mark(self, rows: NDArray[np.float32]) -> NDArray[np.float32]:
        height, width = rows.shape[1:]
        top, left = self.top % height, self.left % width
        marked = rows.copy()
        marked[:, top : top + 3, left : left + 3] = CHEQUERED[: height - top, : width - left]
        return marked

    def payload(self, rows: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.float32]:
        del rng  # always the same mark
        return self.mark(rows)

    def cover(self, rows: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.float32]:
        del rng
        return rows
