"""Searches by scores: Square and NES, written as they are in their papers, one image each.

Square (Andriushchenko et al., ECCV 2020, arXiv 1912.00049, algorithm 2) sets one square at a time to an edge of the
ball and keeps what does not raise the margin. ART has one too, of which 66 % of the queries repeat an earlier one; this
one never asks what it holds already. NES (Ilyas et al., ICML 2018, arXiv 1804.08598, section 2.1) estimates the
gradient by antithetic noise and climbs along its sign.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from defenses.lab.evasion.query import Ball, Rows, Steps, Task, margins
from defenses.lab.evasion.random_search import area_share

REDRAWN_MAX: Final = 20
Draw = Callable[[tuple[int, ...]], NDArray[np.float64]]


def square(task: Task, rng: np.random.Generator) -> Steps:
    """Search by squares; see the module."""
    ball, (height, width) = task.ball, task.ball.row.shape
    best = ball.clip(ball.row + rng.choice([-ball.radius, ball.radius], (1, width)))
    least = float(margins((yield best[None]), task.label)[0])
    asked = 1
    while True:
        side = max(1, round((area_share(asked / task.budget) * height * width) ** 0.5))
        tried = one_square_other(best, ball, side, rng)
        margin = float(margins((yield tried[None]), task.label)[0])
        asked += 1
        if margin <= least:
            best, least = tried, margin


def one_square_other(row: Rows, ball: Ball, side: int, rng: np.random.Generator) -> Rows:
    """Return the row with one square of it at an edge of the ball, where it was not."""
    height, width = row.shape
    for _ in range(REDRAWN_MAX):
        tried = row.copy()
        top, left = rng.integers(height - side + 1), rng.integers(width - side + 1)
        here = np.s_[top : top + side, left : left + side]
        tried[here] = ball.clip(ball.row + rng.choice([-ball.radius, ball.radius]))[here]
        if (tried != row).any():
            break
    return tried


@dataclass(frozen=True, slots=True)
class Nes:
    """Gradient estimates from `pairs` antithetic probes, noise in blocks of `block` pixels."""

    sigma: float = 0.05
    pairs: int = 15
    step: float = 0.02
    block: int = 2

    def __call__(self, task: Task, rng: np.random.Generator) -> Steps:
        at = task.ball.row
        yield at[None]
        while True:
            noise = blocks(rng.standard_normal, self.pairs, at.shape, self.block)
            probes = np.concatenate([at + self.sigma * noise, at - self.sigma * noise])
            ahead = margins((yield np.clip(probes, 0.0, 1.0).astype(np.float32)), task.label)
            ahead = np.where(np.isfinite(ahead), ahead, 0.0)
            slope = np.tensordot(ahead[: self.pairs] - ahead[self.pairs :], noise, 1)
            at = task.ball.clip(at - self.step * np.sign(slope))
            yield at[None]


def blocks(draw: Draw, rows: int, shape: tuple[int, ...], side: int) -> Rows:
    """Return a pattern a row, float32 (rows, *shape), constant over squares of `side` pixels."""
    height, width = shape
    coarse = draw((rows, -(-height // side), -(-width // side)))
    return np.asarray(np.kron(coarse, np.ones((side, side)))[:, :height, :width], np.float32)
