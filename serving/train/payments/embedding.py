"""Features as vectors on one scale, by fixed maps.

- A number becomes its normal score: linear between quantiles of the training rows, and beyond them as steep as the last
  piece, up to `SCORE_MAX`. So far out stays far out. Where it can be missing there is a second element that says so.
- A category becomes its level, "missing" among them: an indicator for each, centred, the block scaled to variance 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

SCORE_MAX = 8.0
SCORES = 12
MISSING_ROWS_MIN = 5

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Block:
    """One feature's part of the embedding. A number has knots and scores (m,); a category has none of them.

    `centre` and `scale` (width,) are for the indicators: a category's levels and then "missing", or "missing" alone.
    """

    levels: int
    knots: Floats
    scores: Floats
    centre: Floats
    scale: Floats

    @property
    def width(self) -> int:
        return len(self.centre) + (0 if self.levels else 1)


def fit_blocks(values: Floats, levels: Sequence[int]) -> tuple[Block, ...]:
    """Fit to clean rows (n, features), NaN where missing; `levels` by feature, 0 for numbers."""
    return tuple(_fit_block(values[:, index], count) for index, count in enumerate(levels))


def embed(values: Floats, blocks: Sequence[Block]) -> Floats:
    """Return (n, E) for clean rows (n, features)."""
    return np.column_stack([_embed_block(values[:, index], block) for index, block in enumerate(blocks)])


def _fit_block(values: Floats, levels: int) -> Block:
    missing = np.isnan(values)
    nothing = np.zeros(0)
    if levels:
        shares = np.append(np.bincount(values[~missing].astype(np.intp), minlength=levels), missing.sum()) / len(values)
        spread = np.sqrt(max(float((shares * (1.0 - shares)).sum()), 1.0 / len(values)))
        return Block(levels, nothing, nothing, shares, np.full(levels + 1, 1.0 / spread))
    known = np.sort(values[~missing])
    at = np.unique(np.quantile(known, np.linspace(0.005, 0.995, SCORES))) if known.size else np.array([0.0])
    if at.size < 2:
        at = np.array([at[0], at[0] + 1.0])
    # The middle of a tie's ranks, so that a value half of the rows share gets a score in the middle of them.
    ranks = (np.searchsorted(known, at, "left") + np.searchsorted(known, at, "right")) / (2.0 * max(known.size, 1))
    normal = NormalDist()
    scores = np.array([normal.inv_cdf(float(np.clip(rank, 0.001, 0.999))) for rank in ranks])
    if missing.sum() < MISSING_ROWS_MIN:
        return Block(0, at, scores, nothing, nothing)
    share = missing.mean()
    return Block(0, at, scores, np.array([share]), np.array([1.0 / np.sqrt(share * (1.0 - share))]))


def _embed_block(values: Floats, block: Block) -> Floats:
    missing = np.isnan(values)
    if block.levels:
        levels = np.column_stack([values[:, None] == np.arange(block.levels), missing])
        return (levels - block.centre) * block.scale
    steps, widths = np.diff(block.scores), np.diff(block.knots)
    pieces = (np.where(missing, block.knots[0], values)[:, None] - block.knots[:-1]) / widths
    low, high = np.zeros(len(steps)), np.ones(len(steps))
    low[0], high[-1] = -np.inf, np.inf
    score = np.clip(block.scores[0] + np.clip(pieces, low, high) @ steps, -SCORE_MAX, SCORE_MAX)
    score = np.where(missing, 0.0, score)
    if not block.centre.size:
        return score[:, None]
    return np.column_stack([score, (missing - block.centre[0]) * block.scale[0]])
