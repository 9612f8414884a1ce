"""How the query budget is calibrated: prices on benign rows, and the allowance that a benign account stays within.

The promise, for a rate of q queries in any 24 hours: with 95 % confidence, an account whose rows are exchangeable with
the calibration rows ever leaves the first step in a stream of q queries with probability at most `beyond_max`. Why it
holds: with a burst of one day's allowance and a refill of as much a day, an account that spends at most the allowance
in each window of 24 hours is never in debt for a day, however its queries are spread (GCRA conformance). So what has to
be bounded is the price of q answers, and that is bounded by a guaranteed rank (`defenses.intervals`) over streams of q
rows. Each hundred streams are drawn from a bootstrap sample of the calibration rows, so that the allowance also has
room for what a set of this size does not know of the mean.

What it does not cover: rows unlike the calibration rows (another camera), and accounts that ask more than q. Accounts
that only ask of some classes are covered as far as prices can be: they are normalised for each predicted class.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from defenses.calibration import CONFIDENCE, ConformalCalibration
from defenses.errors import CalibrationInvalid
from defenses.extraction.budget import CLASSES_MAX, MILLI, NAME, ROWS_MIN, TECHNIQUE, Prices, margins_of
from defenses.intervals import clopper_pearson

QUERIES_PER_DAY: Final = (100, 300, 1_000, 3_000, 10_000)
BEYOND_MAX: Final = 0.001
STREAMS: Final = 10_000
FIT_ROWS_MIN: Final = 100
_STREAMS_PER_SAMPLE = 100


def fit_budget(
    prediction: NDArray[Any],
    p_values: NDArray[np.float64],
    *,
    seed: int,
    rates: tuple[int, ...] = QUERIES_PER_DAY,
    beyond_max: float = BEYOND_MAX,
    streams: int = STREAMS,
) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
    """Calibrate prices and allowances on benign rows that neither the model nor the screen was fitted on.

    Args:
        prediction: the model's probabilities, float (rows, classes).
        p_values: what the stateless screens say of the same rows, float64 (rows,). Those rows may be the screen's own
            calibration rows: then the p-values are their ranks, as evenly spread as can be.
        seed: of the streams.
        rates: queries a day to offer an allowance for, ascending.
        beyond_max: the share of benign streams that may leave the first step.
        streams: how many to draw for each rate; 2,994 is the least for 0.1 %.

    Returns the "budget.*" arrays for the bundle, and a report that is plain JSON.

    Raises:
        CalibrationInvalid: too few rows, or values that are no probabilities.
        CalibrationTooSmall: too few streams for `beyond_max`.
        EvidenceInvalid: the arrays' shapes disagree.
    """
    rows, classes = prediction.shape if prediction.ndim == 2 else (0, 0)
    if rows < FIT_ROWS_MIN or not 2 <= classes <= CLASSES_MAX or not np.isfinite(prediction).all():
        raise CalibrationInvalid("prediction", f"{prediction.shape}: {FIT_ROWS_MIN} rows or more of numbers wanted")
    owners = prediction.argmax(axis=1).astype(np.int32)
    arrays: dict[str, NDArray[Any]] = {
        f"{NAME}.margins": margins_of(prediction),
        f"{NAME}.owners": owners,
        f"{NAME}.scale": np.ones(classes),
        f"{NAME}.rates": np.asarray(rates, np.int64),
        f"{NAME}.units": np.ones(len(rates)),
    }
    raw = Prices.from_calibration(arrays).unscaled(prediction, p_values)
    overall = float(raw.mean())
    arrays[f"{NAME}.scale"] = np.array(
        [raw[owners == number].mean() if (owners == number).sum() >= ROWS_MIN else overall for number in range(classes)]
    )
    prices = Prices.from_calibration(arrays).cost(prediction, p_values) / MILLI
    rng = np.random.default_rng([seed, 0x5354])
    totals = {rate: stream_totals(prices, rate, streams, rng) for rate in rates}
    bounds = {
        rate: ConformalCalibration.from_scores(each).threshold(beyond_max, CONFIDENCE) for rate, each in totals.items()
    }
    arrays[f"{NAME}.units"] = np.array([bounds[rate] for rate in rates])
    report = {
        "screen": NAME,
        "technique": TECHNIQUE,
        "digest": Prices.from_calibration(arrays).digest,
        "rows": rows,
        "confidence": CONFIDENCE,
        "beyond_max": beyond_max,
        "price_mean": float(prices.mean()),
        "price_p99": float(np.quantile(prices, 0.99)),
        "price_max": float(prices.max()),
        "units_per_day": {str(rate): bounds[rate] for rate in rates},
    }
    return arrays, report


def stream_totals(
    prices: NDArray[np.float64], queries: int, streams: int, rng: np.random.Generator
) -> NDArray[np.float64]:
    """Return what `streams` benign streams of `queries` answers cost in all, float64 (streams,)."""
    totals = np.empty(streams)
    for first in range(0, streams, _STREAMS_PER_SAMPLE):
        known = rng.choice(prices, prices.size)
        few = totals[first : first + _STREAMS_PER_SAMPLE]
        few[:] = known[rng.integers(0, known.size, (few.size, queries))].sum(axis=1)
    return totals


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
    """
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
