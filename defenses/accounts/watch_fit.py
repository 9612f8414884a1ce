"""Calibration of a watch: how benign accounts repeat themselves, and what is measured on others of them.

What is promised is about streams, not rows: of benign accounts that ask 1,000 questions, at most a share alpha ever has
evidence 1/alpha against it. Benign streams are built from held-out rows, each used once a stream, with near duplicates
in bursts: the same thing seen again, with other noise, moved a little, brighter or darker. Bounds on what such streams
do, given the past, are fitted to some streams; the share ever reached is measured on streams of other rows.

Bounds are upper confidence limits with room on top (ROOM) and a floor: traffic that repeats a quarter more often than
was seen is still within them. What repeats still more (a camera that sends its stream) is not for this screen, and
`fit_watch` refuses what repeats more than BOUND_MAX of the time.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from math import ceil, log
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from defenses.accounts import direction, returns, similarity
from defenses.accounts.benign_traffic import BenignTraffic, WatchKind
from defenses.accounts.observed import Asker, Observed
from defenses.accounts.similarity import Fingerprint
from defenses.accounts.watch import BOUNDS, BOUNDS_SHAPE, Watch
from defenses.accounts.window import CANDIDATES, differing
from defenses.budget.intervals import clopper_pearson
from defenses.errors import CalibrationInvalid

ALPHAS: Final = (0.05, 0.01, 0.001)
CONFIDENCE: Final = 0.998  # two-sided: 99.9 % for each bound
ROOM: Final = 1.25
FLOOR: Final = 0.002  # of a bound
BOUND_MAX: Final = 0.95  # of repeats of any kind
FALSE_REPEATS_MAX: Final = (
    0.015,
    0.015,
)  # of distinct rows that lie in a ball of the last 500: the first ball, the other
ALLOWED_MAX: Final = 8
ROWS_MIN: Final = 200
KEY: Final = b"calibration, not a secret"
STARTS: Final = np.zeros(1, np.intp)

Progress = Callable[[int, int], None]


def fit_watch(
    fit: NDArray[np.float32],
    measure: NDArray[np.float32],
    kind: WatchKind,
    *,
    traffic: BenignTraffic | None = None,
    streams: tuple[int, int] = (400, 1_000),
    seed: int = 0,
    progress: Progress = lambda _done, _all: None,
) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
    """Fit a watch to streams of one split of benign rows and measure it on streams of another.

    Args:
        fit: float32 (rows, *shape), more than a stream has queries.
        measure: the same, other rows.
        kind: what they are like.
        traffic: how innocent accounts ask; by default with 5 % near duplicates.
        streams: how many to fit on, and to measure on.
        seed: of all chance.
        progress: is told how many streams of how many have been looked at.

    Returns the "similarity.*" and "direction.*" arrays for the bundle, and a report in plain JSON.

    Raises:
        CalibrationInvalid: distinct rows lie too near to each other, or benign traffic repeats itself too often.
    """
    benign = traffic or BenignTraffic()
    fitted = len(flights(benign.in_flight)) * streams[0]
    total = fitted + streams[1]
    arrays, repeat_share = _bounded(
        _balls(fit, kind, np.random.default_rng([seed, 1])),
        fit,
        kind,
        benign,
        streams=streams[0],
        seed=seed,
        progress=lambda done, _: progress(done, total),
    )
    measured = measure_watch(
        arrays,
        measure,
        kind,
        traffic=benign,
        streams=streams[1],
        seed=seed + 1,
        progress=lambda done, _: progress(fitted + done, total),
    )
    report = _fitted(arrays, kind, benign)
    return arrays, report | {"repeat_share": repeat_share, "fitted_on_streams": streams[0], "measured": measured}


def _bounded(
    balls: Mapping[str, NDArray[Any]],
    rows: NDArray[np.float32],
    kind: WatchKind,
    benign: BenignTraffic,
    *,
    streams: int,
    seed: int,
    progress: Progress,
) -> tuple[dict[str, NDArray[Any]], float]:
    """Return the arrays of balls with bounds that hold in whatever order queries arrive, and which share are repeats.

    CalibrationInvalid where benign traffic repeats itself too often, or no stream fills a window for `returns`.
    """
    arrays = {**balls, BOUNDS: np.full(BOUNDS_SHAPE, 0.1), direction.BOUNDS: _any_motion()}
    if benign.returns is not None:
        arrays[returns.BOUND] = np.array([0.5])
    ways = [replace(benign, in_flight=flight) for flight in flights(benign.in_flight)]
    seen = []
    for number, way in enumerate(ways):
        drawn = draws(rows, kind, way, streams, np.random.default_rng([seed, 2]))
        seen.append(_count(arrays, _told(drawn, progress, number * streams, len(ways) * streams), kind))
    bounds = [_bounds_of(tables) for tables in seen]
    arrays |= {name: np.maximum.reduce([each[name] for each in bounds]) for name in arrays.keys() & bounds[0].keys()}
    if (repeats := float(arrays[BOUNDS][:, 0].max())) > BOUND_MAX:
        raise CalibrationInvalid(BOUNDS, f"benign traffic may repeat itself {repeats:.2f} of the time")
    if benign.returns is not None and arrays[returns.BOUND][0] >= 1:
        raise CalibrationInvalid(returns.BOUND, "no stream was long enough to fill a window")
    counts = seen[0][similarity.NAME]
    return arrays, float(counts[:, 1:].sum() / counts.sum())


def _fitted(arrays: Mapping[str, NDArray[Any]], kind: WatchKind, benign: BenignTraffic) -> dict[str, Any]:
    """Return what a report says of what was fitted, in plain JSON."""
    return {
        "screens": [similarity.NAME, direction.NAME],
        "cells": int(min((kind.weight > 0).sum(), similarity.CELLS_MAX)),
        "reach": kind.reach,
        "tolerances": arrays["similarity.tolerances"].tolist(),
        "allowed": arrays["similarity.allowed"].tolist(),
        "bounds": arrays[BOUNDS].tolist(),
        "confidence": CONFIDENCE,
        "in_flight": benign.in_flight,
        "returns": benign.returns,
        "returns_bound": None if benign.returns is None else arrays[returns.BOUND].tolist(),
    }


def measure_watch(
    arrays: Mapping[str, NDArray[Any]],
    rows: NDArray[np.float32],
    kind: WatchKind,
    *,
    traffic: BenignTraffic,
    streams: int,
    seed: int,
    alphas: tuple[float, ...] = ALPHAS,
    progress: Progress = lambda _done, _all: None,
) -> dict[str, Any]:
    """Return how many benign streams ever have evidence 1/alpha against them, with exact 95 % intervals."""
    highest, repeats = [], 0
    drawn = draws(rows, kind, traffic, streams, np.random.default_rng([seed, 3]))
    for stream in _told(drawn, progress, 0, streams):
        seen = _watched(arrays, stream, kind)
        highest.append(float(seen.log_evidence.max()))
        repeats += int((seen.outcomes[similarity.NAME][:, 1] > 0).sum())
    reached = {alpha: sum(value >= log(1.0 / alpha) for value in highest) for alpha in alphas}
    return {
        "streams": streams,
        "queries": traffic.queries,
        "duplicates": traffic.duplicates,
        "repeat_share": repeats / (streams * traffic.queries),
        "log_evidence_max": max(highest),
        "reached": [
            {
                "alpha": alpha,
                "streams": count,
                "rate": count / streams,
                "interval": list(clopper_pearson(count, streams)),
            }
            for alpha, count in reached.items()
        ],
    }


def draws(
    rows: NDArray[np.float32], kind: WatchKind, traffic: BenignTraffic, streams: int, rng: np.random.Generator
) -> Iterator[NDArray[np.float32]]:
    """Return the queries of one innocent account after another."""
    for _ in range(streams):
        yield traffic.stream(rows, kind, rng)


def _told(
    streams: Iterator[NDArray[np.float32]], progress: Progress, before: int, total: int
) -> Iterator[NDArray[np.float32]]:
    """Yield the streams, and tell of each when it has been looked at; `before` were before these, of `total`."""
    for done, stream in enumerate(streams, before + 1):
        yield stream
        progress(done, total)


def _watched(arrays: Mapping[str, NDArray[Any]], stream: NDArray[np.float32], kind: WatchKind) -> Observed:
    watch = Watch.from_calibration(arrays, key=KEY, answer_names=frozenset())
    return watch.observe([Asker("benign", "benign")], STARTS, {kind.name: stream}, {}, 0)


def _balls(rows: NDArray[np.float32], kind: WatchKind, rng: np.random.Generator) -> dict[str, NDArray[Any]]:
    """Return how near is near: the most cells that may differ so that few distinct rows lie in a ball."""
    tolerance = min(ceil(kind.reach * 255) + 1, 255)  # both ends are rounded
    arrays: dict[str, NDArray[Any]] = {
        "similarity.low": kind.low.astype(np.float32),
        "similarity.step": ((kind.high - kind.low) / np.float32(255)).astype(np.float32),
        "similarity.weight": kind.weight.astype(np.float32),
        "similarity.picture": np.array(kind.picture or (), np.int64),
        "similarity.tolerances": np.array([tolerance if kind.picture else 1, tolerance], np.int64),
        "similarity.allowed": np.zeros(2, np.int64),
    }
    fingerprint = Fingerprint.from_calibration(arrays, KEY)
    codes = fingerprint.codes({kind.name: rows[rng.permutation(len(rows))[:3_000]]})
    if len(codes) < ROWS_MIN:
        raise CalibrationInvalid("rows", f"{len(codes)}; {ROWS_MIN} at least")
    before = min(500, len(codes) // 2)
    fewest = np.array([_fewest(codes[at - before : at + 1], fingerprint) for at in range(before, len(codes), 2)])
    allowed = []
    for column, most in zip(fewest.T, FALSE_REPEATS_MAX, strict=True):
        fits = [count for count in range(ALLOWED_MAX + 1) if (column <= count).mean() <= most]
        allowed.append(max(fits, default=-1))
    if allowed[0] < 0:
        raise CalibrationInvalid("similarity.allowed", "distinct rows lie in one ball too often")
    arrays["similarity.allowed"] = np.array([allowed[0], max(allowed[1], 0)], np.int64)
    if allowed[1] < 0:  # it tells too little apart: it is not used
        arrays["similarity.tolerances"][1] = 0
    return arrays


def _fewest(codes: NDArray[np.uint8], fingerprint: Fingerprint) -> tuple[int, int]:
    """Return in how many cells the last row differs from the nearest of those before it, by either ball's tolerance."""
    before, at = np.ascontiguousarray(codes[:-1, 0].T), -1
    apart = differing(before, codes[at, 0][:, None], fingerprint.tolerances[0])
    near = before[:, apart.argpartition(CANDIDATES)[:CANDIDATES]]
    others = fingerprint.others(codes[at])
    return int(apart.min()), min(
        int(differing(near, view[:, None], fingerprint.tolerances[1]).min()) for view in others
    )


def flights(most: int) -> list[int]:
    """Return how many queries in flight are tried: bounds have to hold for who waits for each answer as well."""
    return sorted({1, most, *(flight for flight in (4, 16) if flight < most)})


def _count(
    arrays: Mapping[str, NDArray[Any]], streams: Iterator[NDArray[np.float32]], kind: WatchKind
) -> dict[str, NDArray[np.int64]]:
    """Return how often each outcome followed in each context, (contexts, outcomes), for each screen and returns."""
    shapes = {similarity.NAME: BOUNDS_SHAPE, direction.NAME: (direction.CONTEXTS, direction.BINS), returns.NAME: (1, 2)}
    tables = {name: np.zeros(shape, np.int64) for name, shape in shapes.items()}
    for stream in streams:
        for name, outcomes in _watched(arrays, stream, kind).outcomes.items():
            there = outcomes[outcomes[:, 0] >= 0]
            np.add.at(tables[name], (there[:, 0], there[:, 1]), 1)
    return tables


def _bounds_of(tables: Mapping[str, NDArray[np.int64]]) -> dict[str, NDArray[np.float64]]:
    """Return the arrays of bounds on what was counted, by their names."""
    counts = tables[similarity.NAME]
    anything = np.column_stack([counts[:, :1], counts[:, 1:].sum(axis=1)])
    return {
        BOUNDS: np.column_stack([_bounds(anything)[:, 1], _bounds(counts)[:, 1:]]),
        direction.BOUNDS: _bounds(tables[direction.NAME]),
        returns.BOUND: _bounds(tables[returns.NAME])[0, 1:],
    }


def _bounds(counts: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return upper bounds on each outcome's probability, (contexts, outcomes); 1 where nothing was seen."""
    bounds = np.ones(counts.shape)
    for context, row in enumerate(counts.tolist()):
        total = sum(row)
        for outcome, count in enumerate(row):
            if total:
                high = clopper_pearson(count, total, CONFIDENCE).high
                bounds[context, outcome] = min(max(ROOM * high, FLOOR), 1.0)
    return bounds


def _any_motion() -> NDArray[np.float64]:
    return np.ones((direction.CONTEXTS, direction.BINS))
