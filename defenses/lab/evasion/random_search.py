"""A black-box evasion attack for release gates: random search in the L-infinity ball, queries only.

After Square Attack (Andriushchenko et al., ECCV 2020, arXiv 1912.00049, algorithm 2): begin with stripes at the edge of
the ball, then set one square of each row to one edge or the other and keep what lowers the margin; squares shrink as
queries are used. Rows that are not images are treated as images of one line. It needs no gradient, so it runs against
anything that answers, int8 graphs and trees included. What it leaves standing is an upper bound: others find more.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

FIRST_SHARE = 0.3
HALVE_AT = (0.01, 0.05, 0.1, 0.25, 0.5, 0.75)
"""Shares of the queries after which squares have half the area."""
LINES = 2

Array = np.ndarray[Any, Any]


def attack(
    predict: Callable[[Array], Array],
    inputs: Array,
    labels: NDArray[np.int64],
    *,
    radius: float,
    bounds: tuple[float, float],
    queries: int,
    rng: np.random.Generator,
) -> NDArray[np.bool_]:
    """Say which rows keep their class however they were changed.

    Args:
        predict: scores (rows, classes) of inputs as `inputs`.
        inputs: float (rows, ...), within `bounds`.
        labels: the true classes (rows,).
        radius: the largest change of an element.
        bounds: what inputs may be.
        queries: how often each row may be asked about, the first time included.
        rng: where chance comes from.

    Returns bool (rows,): right at first and after each query.
    """
    pictures = inputs.reshape(len(inputs), -1, *as_picture(inputs.shape[1:]))
    height, width = pictures.shape[2:]
    right: NDArray[np.bool_] = predict(inputs).argmax(axis=1) == labels
    alive = np.flatnonzero(right)
    stripes = rng.choice([-radius, radius], size=(len(alive), pictures.shape[1], 1, width))
    best = np.clip(pictures[alive] + stripes, *bounds).astype(inputs.dtype)
    margins = margin(predict(best.reshape(len(alive), *inputs.shape[1:])), labels[alive]) if len(alive) else np.empty(0)
    for number in range(2, queries):
        right[alive[margins <= 0]] = False
        alive, best, margins = alive[margins > 0], best[margins > 0], margins[margins > 0]
        if not len(alive):
            break
        side = max(1, round(math.sqrt(area_share(number / queries) * height * width)))
        tall, wide = min(side, height), min(max(side, 1), width)
        tried = best.copy()
        for row, at in enumerate(alive):
            top, left = rng.integers(height - tall + 1), rng.integers(width - wide + 1)
            square = (slice(None), slice(top, top + tall), slice(left, left + wide))
            edge = rng.choice([-radius, radius], size=(pictures.shape[1], 1, 1))
            tried[row][square] = np.clip(pictures[at][square] + edge, *bounds)
        found = margin(predict(tried.reshape(len(alive), *inputs.shape[1:])), labels[alive])
        better = found < margins
        best[better], margins = tried[better], np.minimum(found, margins)
    right[alive[margins <= 0]] = False
    return right


def as_picture(shape: tuple[int, ...]) -> tuple[int, int]:
    """Return height and width of a row: its last two dimensions, or one line."""
    return (shape[-2], shape[-1]) if len(shape) >= LINES else (1, math.prod(shape))


def area_share(used: float) -> float:
    """Return the share of a picture that a square covers, when this share of the queries is used."""
    return FIRST_SHARE * 0.5 ** sum(used >= at for at in HALVE_AT)


def margin(scores: Array, labels: NDArray[np.int64]) -> Array:
    """Return how far the true class is ahead of the next one, (rows,); below 0 it is behind."""
    rows = np.arange(len(labels))
    others = scores.astype(np.float64)
    ahead: Array = others[rows, labels].copy()
    others[rows, labels] = -np.inf
    ahead -= others.max(axis=1)
    return ahead
