"""Has what a model sees, or says, moved? Three detectors over sliding windows, each a number and no decision.

- `UniformityWindow`: conformal p-values of rows like those of the calibration are uniform; the detector is the
  Kolmogorov-Smirnov distance of the last rows from that, 0 to 1. It stands on the signed calibration alone, so it needs
  no reference of its own, and it sees both a change in the traffic and a version whose calibration does not fit it.
  By chance the distance of n rows stays below 1.63 / sqrt(n) in 99 of 100 windows (0.036 at 2,000 rows).
- `PopulationWindow`: the population stability index of the top class's probability against the first rows that were
  seen, in tenths of those (Siddiqi, "Credit Risk Scorecards", 2006: above 0.25 the population has changed). Rows that a
  screen did not let pass are kept out of the reference by whoever adds them: `reference=False`. Scores that are no
  numbers are left out.
- `RoughnessWindow`: S8's look at the inputs themselves. How rough they are moves with focus, light and the noise of a
  sensor. The roughness of a row is how much neighbours differ, on average over its last two axes. Each row's is ranked
  among those of the first WINDOW_ROWS rows, so it does not matter how rough inputs of this kind are. Over the ranks
  goes ADWIN (`defenses.drift.adwin`). Given the first rows, the ranks of others like them are independent and alike,
  so its promise holds. It says nothing of whether answers are worse: where they are not yet, it tells before they are.

Pure, bounded, not thread-safe. The first two say nothing before they have seen ROWS_MIN rows.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from defenses.drift.adwin import Adwin

WINDOW_ROWS = 2_000
ROUGHNESS_AXES = (-1, -2)
ROWS_MIN = 200
BINS = 10
SHARE_MIN = 1e-4  # of a bin that is empty: what keeps the index finite


def uniform_distance(values: ArrayLike) -> float:
    """Return the Kolmogorov-Smirnov distance of values in [0, 1], (rows,), from the uniform distribution."""
    ascending = np.sort(np.asarray(values, np.float64))
    rows = ascending.size
    steps = np.arange(rows + 1, dtype=np.float64) / rows
    return float(max(np.max(steps[1:] - ascending), np.max(ascending - steps[:-1])))


def population_shift(reference: NDArray[np.float64], current: NDArray[np.float64]) -> float:
    """Return the population stability index of two sets of values, (rows,) each, over the reference's tenths.

    What equals an edge has a bin of its own: many scores may be exactly the same, such as 1.
    """
    edges = np.unique(np.quantile(reference, np.linspace(0, 1, BINS + 1)[1:-1]))
    shares = []
    for values in (reference, current):
        bins = np.searchsorted(edges, values, side="left") + np.searchsorted(edges, values, side="right")
        counts = np.bincount(bins, minlength=2 * edges.size + 1)
        shares.append(np.maximum(counts / values.size, SHARE_MIN))
    expected, found = shares
    return float(np.sum((found - expected) * np.log(found / expected)))


class _Ring:
    """The last `rows_max` values."""

    def __init__(self, rows_max: int) -> None:
        self._values = np.zeros(rows_max, np.float64)
        self._seen = 0

    def add(self, values: NDArray[np.float64]) -> None:
        size = self._values.size
        values = values[-size:]
        begin = self._seen % size
        first = min(values.size, size - begin)
        self._values[begin : begin + first] = values[:first]
        self._values[: values.size - first] = values[first:]
        self._seen += values.size

    @property
    def values(self) -> NDArray[np.float64]:
        """In no particular order."""
        return self._values[: min(self._seen, self._values.size)]


class UniformityWindow:
    """The distance of the last rows' p-values from uniform."""

    def __init__(self, rows_max: int = WINDOW_ROWS) -> None:
        self._ring = _Ring(rows_max)

    def add(self, p_values: NDArray[np.float64]) -> None:
        """Take in the p-values of a batch, float64 (rows,)."""
        self._ring.add(p_values)

    def value(self) -> float | None:
        """Return the distance, None before ROWS_MIN rows."""
        values = self._ring.values
        return uniform_distance(values) if values.size >= ROWS_MIN else None


class PopulationWindow:
    """The shift of the last rows' scores against the first ones."""

    def __init__(self, rows_max: int = WINDOW_ROWS) -> None:
        self._rows_max = rows_max
        self._first: list[NDArray[np.float64]] = []
        self._first_rows = 0
        self._ring = _Ring(rows_max)

    def add(self, scores: NDArray[np.float64], *, reference: NDArray[np.bool_]) -> None:
        """Take in the scores of a batch, float64 (rows,); `reference` says which of them may become the reference."""
        sound = np.isfinite(scores)  # one that is no number would blind the index for as long as it is kept
        scores, reference = scores[sound], reference[sound]
        if self._first_rows < self._rows_max:
            places = np.flatnonzero(reference)[: self._rows_max - self._first_rows]
            if places.size:
                self._first.append(scores[places].astype(np.float64))
                self._first_rows += places.size
            if self._first_rows < self._rows_max:
                return
            scores = scores[places[-1] + 1 :]
        self._ring.add(scores)

    def value(self) -> float | None:
        """Return the index, None before the reference is full and ROWS_MIN rows came after it."""
        values = self._ring.values
        if values.size < ROWS_MIN:
            return None
        if len(self._first) > 1:
            self._first = [np.concatenate(self._first)]
        return population_shift(self._first[0], values)


def roughness(rows: NDArray[Any]) -> NDArray[np.float64]:
    """Return the mean absolute difference of neighbours along the last two axes of each row, float64 (rows,).

    `rows` are numbers (rows, ..., height, width) with 2 of each at least.
    """
    parts = [
        np.abs(np.diff(rows, axis=axis)).reshape(len(rows), -1).mean(axis=1, dtype=np.float64)
        for axis in ROUGHNESS_AXES
    ]
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
