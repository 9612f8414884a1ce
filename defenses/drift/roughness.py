"""S8: has the look of inputs changed? How rough they are moves with focus, light and the noise of a sensor.

The roughness of a row is how much neighbours differ, on average over its last two axes. Each row's is ranked among
those of the first WINDOW_ROWS rows, so it does not matter how rough inputs of this kind are; over the ranks goes ADWIN
(`defenses.drift.adwin`). Given the first rows, the ranks of others like them are independent and alike, so its promise
holds. It says nothing of whether answers are worse: where they are not yet, it tells before they are.

Pure, bounded, not thread-safe.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from defenses.drift.adwin import Adwin
from defenses.drift.shift import WINDOW_ROWS

AXES = (-1, -2)


def roughness(rows: NDArray[Any]) -> NDArray[np.float64]:
    """Return the mean absolute difference of neighbours along the last two axes of each row, float64 (rows,).

    `rows` are numbers (rows, ..., height, width) with 2 of each at least.
    """
    parts = [np.abs(np.diff(rows, axis=axis)).reshape(len(rows), -1).mean(axis=1, dtype=np.float64) for axis in AXES]
    return np.asarray(np.add(*parts))


class RoughnessWindow:
    """The mean rank of the last rows' roughness among the first ones', while it is the same."""

    def __init__(self, rows_max: int = WINDOW_ROWS) -> None:
        self._rows_max = rows_max
        self._first = np.empty(0)
        self._ranks = Adwin()

    @property
    def cuts(self) -> int:
        """How often it had changed."""
        return self._ranks.cuts

    @property
    def value(self) -> float:
        """How far apart the mean ranks before and after the last change were, 0 to 1, while it was not long ago."""
        return self._ranks.value

    def add(self, values: NDArray[np.float64]) -> None:
        """Take in what `roughness` said of rows in their order, float64 (rows,); what is no number is left out."""
        values = values[np.isfinite(values)]
        missing = self._rows_max - self._first.size
        if missing > 0:
            self._first = np.concatenate([self._first, values[:missing]])
            values = values[missing:]
            if self._first.size == self._rows_max:
                self._first.sort()
        if values.size:
            self._ranks.add((np.searchsorted(self._first, values) + 0.5) / (self._rows_max + 1))
