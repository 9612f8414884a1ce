"""S8: a conformal test martingale: has the traffic left the calibration, and since when would one bet so?

Conformal p-values of rows like those of the calibration are uniform. A bet on too many small ones (or too many large
ones) multiplies its stake at every row by `1 + f (1{p <= a} / u - 1)`; where the chance of `p <= a` is at most u the
stake does not grow on average, whatever came before (Vovk, "Testing exchangeability on-line", ICML 2003; Volkhonskiy et
al., "Inductive conformal martingales for change-point detection", COPA 2017). Its growth is evidence of a shift.

- **The calibration is a sample.** With n rows the true chance of `p <= a` is not a but Beta distributed, and within
  100,000 rows a martingale finds that out: it would raise a false alarm nearly always. So u is the upper bound of that
  chance, all bounds together at 99.5 % (calibration-conditional p-values: Bates et al., arXiv 2104.08279, section 3).
- **Shifts begin late.** Each bet is summed over all rows at which it could have begun (Shiryaev-Roberts:
  R = e (R + 1)); R is at most t on average after t rows without a shift, so the chance that it ever reaches c within t
  rows is at most t / c (Doob). `ALARM` = 7.3, twenty million: at most one run of 100,000 rows in 200. With the half
  percent of the bounds, at most one in 100 raises a false alarm.
- **Nobody knows the shift.** BETS bets of different tails and stakes are averaged, which keeps all of the above.

`value` is log10 R, 0 to VALUE_MAX. It falls by itself once the rows are as they were: within some hundred rows after a
large shift, within thousands after one so small that only the lowest stakes found it. The promise is about independent
rows: one row sent thirty times counts thirty times. A shift that keeps the shares of the tails (all p-values near 0.5)
is for the window of `defenses.drift.shift` to see.

Pure, a few hundred bytes, not thread-safe. p-values that are not in [0, 1] count as 0.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from defenses.budget.intervals import beta_quantile

TAILS = (0.01, 0.05, 0.2, 0.5)
STAKES = (0.02, 0.08, 0.3)
BETS = 2 * len(TAILS) * len(STAKES)
CALIBRATION_ERROR = 0.005
"""The chance that one of the bounds is too low, of all tails on both sides together."""
ALARM = 7.3
VALUE_MAX = 9.0
"""What log10 R is held to: a shift that lasts must be over some rows after it is over."""
R_MAX = 10.0**VALUE_MAX
ROWS_AT_ONCE = 64
"""A stake grows or shrinks by less than 1e110 in so many rows, of a calibration of up to a million."""


def tail_bounds(rows: int) -> NDArray[np.float64]:
    """Return the upper bounds of the chances of `p <= a` and of `p > 1 - a` for each of TAILS: (2, tails).

    `p <= a` where the score is above the k-th largest of `rows` calibration scores, k = floor(a (rows + 1));
    `p > 1 - a` where it is below the (k + 1)-th smallest. The chance of the one is Beta(k, rows + 1 - k), of the other
    Beta(k + 1, rows - k) distributed.
    """
    sure = 1.0 - CALIBRATION_ERROR / (2 * len(TAILS))
    ranks = [math.floor(tail * (rows + 1)) for tail in TAILS]
    small = [beta_quantile(sure, max(rank, 1), rows + 1 - max(rank, 1)) for rank in ranks]
    large = [beta_quantile(sure, rank + 1, max(rows - rank, 1)) for rank in ranks]
    return np.array([small, large])


class ConformalMartingale:
    """The evidence that p-values, one after the other, are not those of rows like the calibration's."""

    def __init__(self, calibration_rows: int) -> None:
        """Takes milliseconds: the bounds are quantiles of Beta distributions."""
        bounds = tail_bounds(calibration_rows)
        sides = np.repeat(np.arange(2), len(TAILS) * len(STAKES))
        tails = np.tile(np.repeat(np.arange(len(TAILS)), len(STAKES)), 2)
        stakes = np.tile(STAKES, 2 * len(TAILS))
        chances = np.minimum(bounds[sides, tails], 1.0)
        tail = np.array(TAILS)[tails]
        self._edges = np.unique([*TAILS, *(1.0 - np.array(TAILS))])
        # A p-value matters by the edges below it alone: what each bet pays for a p-value between two of them.
        between = np.append(self._edges, 2.0)[:, None]
        won = np.where(sides == 0, between <= tail, between > 1.0 - tail)
        self._pays = np.where(won, 1.0 + stakes * (1.0 / chances - 1.0), 1.0 - stakes)
        self._sums = np.zeros(BETS)
        self.peak = 0.0
        """The largest value that any row has left."""

    @property
    def value(self) -> float:
        """log10 of the average over the bets, at least 0."""
        return _log10(self._sums.mean().item())

    def add(self, p_values: NDArray[np.float64]) -> None:
        """Take in p-values in their order, float64 (rows,)."""
        p = np.where((p_values >= 0) & (p_values <= 1), p_values, 0.0)
        pays = self._pays[np.searchsorted(self._edges, p)]
        for begin in range(0, len(pays), ROWS_AT_ONCE):
            gains = pays[begin : begin + ROWS_AT_ONCE].cumprod(axis=0)  # what a stake of 1 has become, by row
            # R after row t is gain(t) (R + sum over the rows s up to t of 1 / gain(s - 1)).
            begun = np.vstack([self._sums + 1.0, 1.0 / gains[:-1]]).cumsum(axis=0)
            trail = gains * begun
            self.peak = max(self.peak, _log10(trail.mean(axis=1).max().item()))
            self._sums = np.minimum(trail[-1], R_MAX)


def _log10(average: float) -> float:
    """log10 of an average of R, held within [0, VALUE_MAX]."""
    return min(math.log10(max(average, 1.0)), VALUE_MAX)
