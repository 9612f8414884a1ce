"""Beta and binomial mathematics behind the guarantees: exact tail sums, no normal approximation.

Why our own sixty lines: the serving path loads a policy, and with it ranks, without SciPy (90 MB resident, 0.3 s to
import). The regularised incomplete beta function is evaluated by its continued fraction (Lentz's method; DLMF 8.17.22);
tests compare it with exact rational arithmetic. Everything here runs when a screen is calibrated or a policy is loaded,
never per request.
"""

import math
from typing import NamedTuple

_FRACTION_TERMS_MAX = 100_000  # needs O(sqrt(n)) terms: enough for 10^9 rows
_TINY = 1e-300


class Interval(NamedTuple):
    low: float
    high: float


def beta_cdf(x: float, a: float, b: float) -> float:
    """P(Beta(a, b) <= x), which for whole a is also P(Binomial(a + b - 1, x) >= a). Needs a, b > 0."""
    if x <= 0.0:
        return 0.0
    if x >= 1.0:
        return 1.0
    log_front = math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x)
    front = math.exp(log_front)
    if x < (a + 1.0) / (a + b + 2.0):  # the side on which the fraction converges fast
        return front * _beta_fraction(x, a, b) / a
    return 1.0 - front * _beta_fraction(1.0 - x, b, a) / b


def _beta_fraction(x: float, a: float, b: float) -> float:
    c = 1.0
    d = 1.0 / _away_from_zero(1.0 - (a + b) * x / (a + 1.0))
    value = d
    for m in range(1, _FRACTION_TERMS_MAX):
        even = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        d = 1.0 / _away_from_zero(1.0 + even * d)
        c = _away_from_zero(1.0 + even / c)
        value *= d * c
        odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        d = 1.0 / _away_from_zero(1.0 + odd * d)
        c = _away_from_zero(1.0 + odd / c)
        value *= d * c
        if abs(d * c - 1.0) < 1e-15:
            return value
    raise ArithmeticError(f"incomplete beta did not converge at {x=}, {a=}, {b=}")


def _away_from_zero(value: float) -> float:
    return value if abs(value) > _TINY else _TINY


def beta_quantile(q: float, a: float, b: float) -> float:
    """Smallest x with P(Beta(a, b) <= x) >= q, to the last bit that bisection reaches."""
    low, high = 0.0, 1.0
    while True:
        middle = (low + high) / 2
        if middle in (low, high):
            return high
        if beta_cdf(middle, a, b) >= q:
            high = middle
        else:
            low = middle


def clopper_pearson(successes: int, trials: int, confidence: float = 0.95) -> Interval:
    """Two-sided exact interval of a proportion (Clopper and Pearson, 1934): covers at least `confidence`."""
    if not 0 <= successes <= trials or trials < 1 or not 0.0 < confidence < 1.0:
        raise ValueError(f"no proportion: {successes} of {trials} at {confidence}")
    tail = (1.0 - confidence) / 2
    low = 0.0 if successes == 0 else beta_quantile(tail, successes, trials - successes + 1)
    high = 1.0 if successes == trials else beta_quantile(1.0 - tail, successes + 1, trials - successes)
    return Interval(low, high)


def guaranteed_rank(rows: int, fpr_max: float, confidence: float = 0.95) -> int:
    """Largest k such that flagging what lies above the k-th largest of `rows` calibration scores has a false-positive
    rate of at most `fpr_max` with probability `confidence` over the draw of the calibration set; 0 if there is none.

    For exchangeable scores the rate of that rule is Beta(k, rows + 1 - k) distributed (arXiv 2104.08279, section 3).
    """
    if rows < 1 or not 0.0 < fpr_max < 1.0 or not 0.0 < confidence < 1.0:
        raise ValueError(f"no rank: {rows=}, {fpr_max=}, {confidence=}")
    good, bad = 0, rows + 1  # the probability falls as k grows
    while bad - good > 1:
        k = (good + bad) // 2
        if beta_cdf(fpr_max, k, rows + 1 - k) >= confidence:
            good = k
        else:
            bad = k
    return good


def rows_needed(fpr_max: float, confidence: float = 0.95) -> int:
    """Fewest calibration rows for which `guaranteed_rank` is not 0: (1 - fpr_max)^n <= 1 - confidence."""
    rows = max(1, math.floor(math.log1p(-confidence) / math.log1p(-fpr_max)))
    while guaranteed_rank(rows, fpr_max, confidence) == 0:
        rows += 1
    return rows
