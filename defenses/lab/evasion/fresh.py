"""FRESH: no two questions alike. Each is a new pattern of blocks around the image, drawn anew, at `reach` of it.

Screens that look for questions near each other (Blacklight, USENIX Security 2022; PIHA, arXiv 2304.02080) compare what
a step of a search leaves alone; here nothing is left alone. What the answers tell together is read off by a linear fit,
and the row that is believed in lies at the corner of the ball that the fit points to.

With `reach` at the ball's radius all questions lie within the ball. With a larger one they do not, and need not: only
the row that is believed in has to. That is how an attacker who knows how far a screen looks walks around it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

import numpy as np
from numpy.typing import NDArray

from defenses.lab.evasion.query import Ball, Rows, Steps, Task, margins

SIDES: Final = (2, 4, 7)
PART: Final = 50  # rows asked at once
FAR: Final = 10.0  # margins beyond tell no more


@dataclass(frozen=True, slots=True)
class Fresh:
    """A search; see the module.

    reach: how far the questions are from their centre.
    rounds: how often the centre moves to where the fit points.
    asks: whether the row that the fit points to is asked after each round, or nowhere (questions near it are what
        gives the search away).
    """

    reach: float = 0.1
    rounds: int = 4
    asks: bool = True
    sides: tuple[int, ...] = SIDES

    def __call__(self, task: Task, rng: np.random.Generator) -> Steps:
        fit, centre, asked = Fit(task.ball), task.ball.row, 0
        each = -(-task.budget // self.rounds)
        while asked < task.budget:
            until = min(asked + each, task.budget)
            while asked < until:
                count = min(PART, until - asked)
                probes = centre + self.reach * patterns(count, centre.shape, self.sides, rng)
                rows = np.clip(probes, 0.0, 1.0).astype(np.float32)
                fit.take(rows, margins((yield rows), task.label))
                asked += count
            centre = fit.corner()
            if self.asks and asked < task.budget:
                yield centre[None]
                asked += 1
        return centre


@dataclass(slots=True, eq=False)
class Fit:
    """Ridge regression of the margin on the change of the image."""

    ball: Ball
    rows: list[NDArray[np.float64]] = field(default_factory=list)
    margins: list[float] = field(default_factory=list)

    def take(self, rows: Rows, ahead: NDArray[np.float64]) -> None:
        """Remember answered rows."""
        for row, margin in zip(rows, ahead.tolist(), strict=False):
            if np.isfinite(margin):
                self.rows.append((row - self.ball.row).astype(np.float64).reshape(-1))
                self.margins.append(min(margin, FAR))

    def corner(self) -> Rows:
        """Return the row of the ball where the fitted margin is least."""
        if not self.rows:
            return self.ball.row
        changes, ahead = np.stack(self.rows), np.array(self.margins)
        changes = changes - changes.mean(axis=0)
        kernel = changes @ changes.T
        ridge = 0.1 * np.trace(kernel) / len(kernel) + 1e-6  # one row alone has no spread
        slope = changes.T @ np.linalg.solve(kernel + ridge * np.eye(len(kernel)), ahead - ahead.mean())
        return self.ball.clip(self.ball.row - self.ball.radius * np.sign(slope).reshape(self.ball.row.shape))


def patterns(rows: int, shape: tuple[int, ...], sides: tuple[int, ...], rng: np.random.Generator) -> Rows:
    """Return independent patterns of +1 and -1, (rows, *shape): squares of one of these sides, each moved at random."""
    height, width = shape
    drawn = np.empty((rows, height, width), np.float32)
    for row in range(rows):
        side = int(rng.choice(sides))
        coarse = rng.choice([-1.0, 1.0], (height // side + 2, width // side + 2))
        top, left = rng.integers(side, size=2)
        drawn[row] = np.kron(coarse, np.ones((side, side)))[top : top + height, left : left + width]
    return drawn
