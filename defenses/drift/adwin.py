"""S8: ADWIN2, an adaptive window.

Bifet and Gavaldà, "Learning from time-changing data with adaptive windowing", SIAM SDM 2007.

The window holds the last rows whose mean is still the same. It is kept as an exponential histogram: buckets of
BLOCK_ROWS rows times powers of two, at most BUCKETS of each size, so a million rows take some dozens of buckets. After
each block the window is cut at every boundary of buckets in turn; where the means of the two parts are farther apart
than chance explains,

    e = sqrt(2 / m  v  ln(2 / d')) + 2 / (3 m) ln(2 / d'),   1 / m = 1 / n0 + 1 / n1,   d' = d / ln n

(their section 4.1: v is the variance of the window), the older part is dropped. `DELTA` is the chance of that without a
change, of one block; there are 3,125 of those in 100,000 rows, so one false alarm in 100 such runs by the union bound.

`value` is the distance of the two means at the last cut, 0 where there was none within the last `ROWS_KEPT` rows: a
number between 0 and 1, no decision. Values have to lie in [0, 1]; one that does not is left out.

Pure, bounded, not thread-safe.
"""

from __future__ import annotations

import math
from collections import deque
from itertools import chain
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

BLOCK_ROWS = 32
BUCKETS = 5
LEVELS_MAX = 24
"""Sizes of buckets: the window holds at most BLOCK_ROWS x BUCKETS x 2^24 rows, more than two billion."""
DELTA = 3e-6
ROWS_KEPT = 10_000


class _Bucket(NamedTuple):
    """Rows of the window: how many, their sum, and the sum of their squares."""

    rows: int
    total: float
    squares: float

    def __add__(self, other: object) -> _Bucket:
        assert isinstance(other, _Bucket)
        return _Bucket(self.rows + other.rows, self.total + other.total, self.squares + other.squares)


NOTHING = _Bucket(0, 0.0, 0.0)


class Adwin:
    """The window over values in [0, 1], fed in any portions; it is cut in blocks of BLOCK_ROWS."""

    def __init__(self, delta: float = DELTA) -> None:
        self._delta = delta
        self._levels: list[deque[_Bucket]] = [deque()]  # by size; in each the oldest first
        self._window = NOTHING
        self._waiting = np.empty(0)
        self._since_cut = ROWS_KEPT
        self._distance = 0.0
        self.cuts = 0
        """How often the window was cut."""

    @property
    def rows(self) -> int:
        """Rows in the window."""
        return self._window.rows

    @property
    def value(self) -> float:
        """How far apart the means of what was dropped and what was kept were, while it was not long ago."""
        return self._distance if self._since_cut < ROWS_KEPT else 0.0

    def add(self, values: NDArray[np.float64]) -> None:
        """Take in values in their order, float64 (rows,)."""
        sound = values[(values >= 0) & (values <= 1)]
        waiting = np.concatenate([self._waiting, sound])
        whole = waiting.size - waiting.size % BLOCK_ROWS
        for block in waiting[:whole].reshape(-1, BLOCK_ROWS):
            self._block(_Bucket(BLOCK_ROWS, float(block.sum()), float(np.square(block).sum())))
        self._waiting = waiting[whole:]

    def _block(self, newest: _Bucket) -> None:
        """Add a block, and cut as long as the window has to be."""
        self._since_cut += BLOCK_ROWS
        self._levels[0].append(newest)
        self._window += newest
        for level, buckets in enumerate(self._levels):
            if len(buckets) <= BUCKETS:
                break
            merged = buckets.popleft() + buckets.popleft()
            if level + 1 < len(self._levels):
                self._levels[level + 1].append(merged)
            elif level + 1 < LEVELS_MAX:
                self._levels.append(deque([merged]))
                break
            else:
                self._window = _less(self._window, merged)
        while self._cut():
            pass

    def _cut(self) -> bool:
        """Drop the oldest part that differs from all after it; say whether there was one."""
        window = self._window
        rows, total = window.rows, window.total
        mean = total / rows
        variance = max(window.squares / rows - mean * mean, 0.0)
        doubt = math.log(2.0 * math.log(rows) / self._delta)
        spread, step = 2.0 * variance * doubt, 2.0 / 3.0 * doubt
        old_rows, old_total = 0, 0.0
        for place, bucket in enumerate(chain.from_iterable(reversed(self._levels))):
            old_rows += bucket.rows
            old_total += bucket.total
            new_rows = rows - old_rows
            if not new_rows:
                break
            inverse = 1.0 / old_rows + 1.0 / new_rows
            apart = abs(old_total / old_rows - (total - old_total) / new_rows)
            if apart > math.sqrt(spread * inverse) + step * inverse:
                self._drop(place + 1)
                self._since_cut, self._distance = 0, apart
                self.cuts += 1
                return True
        return False

    def _drop(self, count: int) -> None:
        """Forget the oldest buckets."""
        for level in reversed(self._levels):
            while level and count:
                self._window = _less(self._window, level.popleft())
                count -= 1


def _less(whole: _Bucket, part: _Bucket) -> _Bucket:
    return _Bucket(whole.rows - part.rows, whole.total - part.total, whole.squares - part.squares)
