"""Which experts of a mixture the last rows chose: what shows that a caller steers all of them to one.

The number is the entropy of the shares with which the experts were chosen, over its largest possible value: 1 where all
are chosen alike, 0 where one is chosen always. It says nothing before ROWS_MIN rows. No decision, no IO; a batch thread
adds and another reads, and a count that is one batch behind does no harm.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

WINDOW_ROWS = 10_000
ROWS_MIN = 200


class RoutingWindow:
    """How often each of `experts` was chosen among about the last WINDOW_ROWS rows: old ones count less and less."""

    def __init__(self, experts: int) -> None:
        self._counts = np.zeros(experts)
        self._rows = 0

    def add(self, chosen: NDArray[np.int64]) -> None:
        """Take in the choices of a batch, (rows, k)."""
        keep = (1.0 - 1.0 / WINDOW_ROWS) ** len(chosen)
        self._counts = self._counts * keep + np.bincount(chosen.ravel(), minlength=self._counts.size)
        self._rows += len(chosen)

    def entropy(self) -> float | None:
        """Return how evenly experts were chosen, 0 to 1; None before ROWS_MIN rows, and where there is only one."""
        if self._rows < ROWS_MIN or self._counts.size == 1:
            return None
        shares = self._counts[self._counts > 0] / self._counts.sum()
        return float(-(shares * np.log(shares)).sum() / math.log(self._counts.size))
