"""Has what a model sees, or says, moved? Two detectors over sliding windows, each a number and no decision.

- `UniformityWindow`: conformal p-values of rows like those of the calibration are uniform; the detector is the
  Kolmogorov-Smirnov distance of the last rows from that, 0 to 1. It stands on the signed calibration alone, so it needs
  no reference of its own, and it sees both a change in the traffic and a version whose calibration does not fit it.
  By chance the distance of n rows stays below 1.63 / sqrt(n) in 99 of 100 windows (0.036 at 2,000 rows).
- `PopulationWindow`: the population stability index of the top class's probability against the first rows that were
  seen, in tenths of those (Siddiqi, "Credit Risk Scorecards", 2006: above 0.25 the population has changed). Rows that a
  screen did not let pass are kept out of the reference by whoever adds them: `reference=False`. Scores that are no
  numbers are left out.

Pure, bounded, not thread-safe. Neither says anything before it has seen ROWS_MIN rows.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

WINDOW_ROWS = 2_000
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
