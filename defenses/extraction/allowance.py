"""How the query budget is calibrated: prices on benign rows, and the allowance that a benign account stays within.

The promise, for a rate of q queries in any 24 hours: with 95 % confidence, an account whose rows are exchangeable with
the calibration rows ever leaves the first step in a stream of q queries with probability at most `beyond_max`. Why it
holds: with a burst of one day's allowance and a refill of as much a day, an account that spends at most the allowance
in each window of 24 hours is never in debt for a day, however its queries are spread (GCRA conformance). So what has to
be bounded is the price of q answers. The bound is a guaranteed rank (`defenses.budget.intervals`) over streams of q
rows: the larger one of streams drawn from the rows' prices, and of streams in which the two parts of a price depend on
each other in the worst way, since the few dearest rows, which decide, are too few in any set. On top comes what a set
of this size does not know of the mean price, times q: the distance to the upper end of its bootstrap interval and,
independent of it, what the margins' own chance moves it by.

The level of prices is taken from one half of the rows, priced by the margins of the other: among the rows that it is
ranked with, the dearest is never as dear as a new one may be.

What it does not cover: rows unlike the calibration rows (another camera), and accounts that ask more than q. Accounts
that only ask of some classes are covered as far as prices can be: they are normalised for each predicted class.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from itertools import accumulate
from statistics import NormalDist
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from defenses.budget.calibration import CONFIDENCE, ConformalCalibration
from defenses.budget.intervals import clopper_pearson
from defenses.errors import CalibrationInvalid
from defenses.extraction.budget import CLASSES_MAX, MILLI, NAME, ROWS_MIN, TECHNIQUE, Prices, e_value, margins_of

QUERIES_PER_DAY: Final = (100, 300, 1_000, 3_000, 10_000)
BEYOND_MAX: Final = 0.001
STREAMS: Final = 10_000
FIT_ROWS_MIN: Final = 100
_STREAMS_AT_ONCE = 100
_MEANS = 1_000  # bootstrap samples
_NEAR_SPREAD = 0.45  # of half an e-value that is ranked among a thousand rows: what the margins' own chance adds


def fit_budget(
    prediction: NDArray[Any],
    p_values: NDArray[np.float64],
    *,
    seed: int,
    rates: tuple[int, ...] = QUERIES_PER_DAY,
    beyond_max: float = BEYOND_MAX,
    streams: int = STREAMS,
    progress: Callable[[int, int], None] = lambda _done, _all: None,
) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
    """Calibrate prices and allowances on benign rows that neither the model nor the screen was fitted on.

    Args:
        prediction: the model's probabilities, float (rows, classes).
        p_values: what the stateless screens say of the same rows, float64 (rows,). Of the screen's own calibration
            rows they are ranks, and the dearest is left out (half a percent of the mean, at 10,000 rows).
        seed: of the streams.
        rates: queries a day to offer an allowance for, ascending.
        beyond_max: the share of benign streams that may leave the first step.
        streams: how many to draw for each rate; 2,994 is the least for 0.1 %.
        progress: is told how much of the drawing is done, and of how much.

    Returns the "budget.*" arrays for the bundle, and a report that is plain JSON.

    Raises:
        CalibrationInvalid: too few rows, or values that are no probabilities.
        CalibrationTooSmall: too few streams for `beyond_max`.
        EvidenceInvalid: the arrays' shapes disagree.
    """
    rows, classes = prediction.shape if prediction.ndim == 2 else (0, 0)
    if rows < FIT_ROWS_MIN or not 2 <= classes <= CLASSES_MAX or not np.isfinite(prediction).all():
        raise CalibrationInvalid("prediction", f"{prediction.shape}: {FIT_ROWS_MIN} rows or more of numbers wanted")
    rng = np.random.default_rng([seed, 0x5354])
    order = rng.permutation(rows)
    unseen = _raw(prediction, p_values, order[: rows // 2], order[rows // 2 :])
    raw = _raw(prediction, p_values, order, np.arange(rows))
    arrays = _arrays(prediction, _scale(prediction, raw, float(unseen.mean())), rates, np.ones(len(rates)))
    prices = Prices.from_calibration(arrays).cost(prediction, p_values) / MILLI
    prices /= prices.mean()
    unknown = math.hypot(
        mean_slack(unseen / unseen.mean(), rng), NormalDist().inv_cdf(CONFIDENCE) * _NEAR_SPREAD / math.sqrt(rows)
    )
    least = _least_p_values(prediction, p_values)
    units = np.empty(len(rates))
    for place, (rate, done) in enumerate(zip(rates, accumulate(rates), strict=True)):
        totals = (stream_totals(prices, rate, streams, rng), coupled_totals(least, rate, streams, rng))
        bounds = (ConformalCalibration.from_scores(each).threshold(beyond_max, CONFIDENCE) for each in totals)
        units[place] = max(bounds) + rate * unknown
        progress(done, sum(rates))
    arrays[f"{NAME}.units"] = units
    return arrays, _report(arrays, prices, {"beyond_max": beyond_max, "price_mean_slack": unknown})


def _report(
    arrays: Mapping[str, NDArray[Any]], prices: NDArray[np.float64], promised: Mapping[str, float]
) -> dict[str, Any]:
    """Return what was fitted in plain JSON; `prices` of the rows, and what was `promised` of them."""
    rates, units = arrays[f"{NAME}.rates"].tolist(), arrays[f"{NAME}.units"].tolist()
    return {
        "screen": NAME,
        "technique": TECHNIQUE,
        "digest": Prices.from_calibration(arrays).digest,
        "rows": len(prices),
        "confidence": CONFIDENCE,
        **promised,
        "price_mean": float(prices.mean()),
        "price_p99": float(np.quantile(prices, 0.99)),
        "price_max": float(prices.max()),
        "units_per_day": {str(rate): bound for rate, bound in zip(rates, units, strict=True)},
    }


def stream_totals(
    prices: NDArray[np.float64], queries: int, streams: int, rng: np.random.Generator
) -> NDArray[np.float64]:
    """Return what `streams` benign streams of `queries` answers cost in all, float64 (streams,)."""
    totals = np.empty(streams)
    for first in range(0, streams, _STREAMS_AT_ONCE):
        few = totals[first : first + _STREAMS_AT_ONCE]
        few[:] = prices[rng.integers(0, prices.size, (few.size, queries))].sum(axis=1)
    return totals


def coupled_totals(
    least: NDArray[np.float64], queries: int, streams: int, rng: np.random.Generator
) -> NDArray[np.float64]:
    """Return what streams cost whose strange rows are those near a boundary, float64 (streams,).

    `least` are the least p-values that a row may have of each (2, rows). Of all ways in which two evenly spread
    p-values may depend on each other this one makes the sum vary most, so no set has to be large enough to show how
    they do.
    """
    totals = np.empty(streams)
    for first in range(0, streams, _STREAMS_AT_ONCE):
        few = totals[first : first + _STREAMS_AT_ONCE]
        drawn = rng.random((few.size, queries))
        floors = least[:, rng.integers(0, least.shape[1], queries)]
        both = e_value(np.maximum(drawn, floors[0])) + e_value(np.maximum(drawn, floors[1]))
        few[:] = both.sum(axis=1) / 2
    return totals


def mean_slack(prices: NDArray[np.float64], rng: np.random.Generator) -> float:
    """Return how far above the mean of these prices the mean of all benign prices lies at most, at CONFIDENCE."""
    means = [float(prices[rng.integers(0, prices.size, prices.size)].mean()) for _ in range(_MEANS)]
    return max(0.0, float(np.quantile(means, CONFIDENCE)) - float(prices.mean()))


def measure_budget(
    arrays: Mapping[str, NDArray[Any]],
    prediction: NDArray[Any],
    p_values: NDArray[np.float64],
    *,
    queries: int,
    streams: int,
    seed: int,
) -> dict[str, Any]:
    """Return how many streams of other benign rows leave the first step, with the exact interval of that rate.

    Each stream is `queries` rows drawn without repeats, all asked at once: the worst way to spread them.
    CalibrationInvalid where there are fewer.
    """
    if len(p_values) < queries:
        raise CalibrationInvalid("prediction", f"{len(p_values)} rows to measure streams of {queries} queries on")
    rates = arrays[f"{NAME}.rates"]
    units = float(arrays[f"{NAME}.units"][np.flatnonzero(rates >= queries)[0]])
    prices = Prices.from_calibration(arrays).cost(prediction, p_values) / MILLI
    rng = np.random.default_rng([seed, 0x4D45])
    totals = np.array([rng.choice(prices, queries, replace=False).sum() for _ in range(streams)])
    beyond = int((totals > units).sum())
    return {
        "rows": len(prices),
        "queries": queries,
        "units_per_day": units,
        "price_mean": float(prices.mean()),
        "streams": streams,
        "beyond": beyond,
        "interval": list(clopper_pearson(beyond, streams)),
    }


def _raw(
    prediction: NDArray[Any], p_values: NDArray[np.float64], ranked: NDArray[np.intp], priced: NDArray[np.intp]
) -> NDArray[np.float64]:
    """Price some rows by the margins of others, before anything is divided."""
    classes = prediction.shape[1]
    margins = _arrays(prediction[ranked], np.ones(classes), (1,), np.ones(1))
    return Prices.from_calibration(margins).unscaled(prediction[priced], p_values[priced])


def _scale(prediction: NDArray[Any], raw: NDArray[np.float64], level: float) -> NDArray[np.float64]:
    """Return what the prices of each predicted class are divided by, float64 (classes,): `level` on the average."""
    owners, classes = prediction.argmax(axis=1), prediction.shape[1]
    counts = np.bincount(owners, minlength=classes)
    means = [raw[owners == number].mean() if counts[number] >= ROWS_MIN else raw.mean() for number in range(classes)]
    return np.asarray(level * np.array(means) / raw.mean())


def _least_p_values(prediction: NDArray[Any], p_values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the least p-values that a row may have, float64 (2, rows): of the screens, and of its margin."""
    owners, classes = prediction.argmax(axis=1), prediction.shape[1]
    counts = np.maximum(np.bincount(owners, minlength=classes), ROWS_MIN)
    return np.stack([np.full(len(owners), p_values.min() / 2), 1 / (counts[owners] + 1)])


def _arrays(
    prediction: NDArray[Any], scale: NDArray[np.float64], rates: tuple[int, ...], units: NDArray[np.float64]
) -> dict[str, NDArray[Any]]:
    return {
        f"{NAME}.margins": margins_of(prediction),
        f"{NAME}.owners": prediction.argmax(axis=1).astype(np.int32),
        f"{NAME}.scale": scale,
        f"{NAME}.rates": np.asarray(rates, np.int64),
        f"{NAME}.units": units,
    }
