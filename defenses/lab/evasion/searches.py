"""The searches of the lab: Square, FRESH, NES and Square under OARS, and any of them behind patches; one image each.

Square (Andriushchenko et al., ECCV 2020, arXiv 1912.00049, algorithm 2) sets one square at a time to an edge of the
ball and keeps what does not raise the margin. ART has one too, of which 66 % of the queries repeat an earlier one; this
one never asks what it holds already.

FRESH asks no two questions alike: each is a new pattern of blocks at the edge of the ball. Screens that look for
questions near each other (Blacklight, USENIX Security 2022; PIHA, arXiv 2304.02080) compare what a step of a search
leaves alone; here nothing is left alone. A linear fit reads the answers together, and the row that is believed in lies
at the corner of the ball that the fit points to.

OARS (Feng et al., "Stateful Defenses for Machine Learning Models Are Not Yet Secure Against Black-box Attacks", CCS
2023, arXiv 2303.06280, section 4: "adapt and resample"): before it begins, a search finds the least variance of its
proposals that does not collide with earlier questions; while it goes on, it finds the longest step that does not, and
draws again a proposal that collides. In the paper a collision is a rejection. Here nothing is rejected, so the lab
tells the attacker whether a screen acted on a row, which no caller of the service is told. Proposals may lie outside
the ball: only what is claimed has to lie within it.

Patches are query blinding (Chen, Carlini and Wagner 2019, arXiv 1907.05587) by the knowledge of how a watch compares: a
question is a repeat where next to no cell differs by more than a ball is wide from an earlier one's. Each question has
small squares painted over, at other places than the last one's. They change several cells by more, medians or not, and
hide little of the image. A row that looks wrong behind its patches is asked as it is, but `bare` times at most, since
those questions do lie in one ball.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass, field, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from defenses.accounts.similarity import MARGIN
from defenses.lab.attack import Answers
from defenses.lab.evasion.query import Ball, Rows, Search, Steps, Task, margins
from defenses.lab.evasion.random_search import area_share

SigmaSteps = Generator[Rows, Answers, float]
MoveSteps = Generator[Rows, Answers, tuple[float, Rows]]

REDRAWN_MAX: Final = 20
PART: Final = 50  # rows that FRESH asks at once
FAR: Final = 10.0  # margins beyond tell no more
COLLIDING_MAX: Final = 0.2  # of proposals, at a variance that will do
HALVINGS: Final = 6
TRIED: Final = 10  # proposals a variance is judged by
SIGMAS: Final = (0.01, 0.5)
RESAMPLED_MAX: Final = 5


def square(task: Task, rng: np.random.Generator) -> Steps:
    """Square; see the module."""
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
class Fresh:
    """FRESH; see the module. The questions are `reach` from their centre, which moves `rounds` times to where the fit
    points; that row is asked after each round. `sides` of the blocks, in pixels.
    """

    reach: float = 0.1
    rounds: int = 4
    sides: tuple[int, ...] = (2, 4, 7)

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
            if asked < task.budget:
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


def collided(answers: Answers) -> NDArray[np.bool_]:
    """Return which rows collided with earlier questions, bool (rows,), as the lab tells it."""
    silent = ~answers.answered
    return silent if answers.acted is None else answers.acted | silent


@dataclass(frozen=True, slots=True)
class OarsNes:
    """NES under OARS."""

    pairs: int = 10
    step: float = 0.02

    def __call__(self, task: Task, rng: np.random.Generator) -> Steps:
        at = task.ball.row
        yield at[None]
        sigma = yield from self._least_sigma(at, rng)
        step = self.step
        while True:
            slope = np.zeros(at.shape)
            for _ in range(RESAMPLED_MAX):
                noise = _noise(self.pairs, at.shape, rng)
                answers = yield _near(at, np.concatenate([sigma * noise, -sigma * noise]))
                clear = ~collided(answers)
                ahead = margins(answers, task.label)
                both = clear[: self.pairs] & clear[self.pairs :]
                slope += np.tensordot(np.where(both, _difference(ahead, self.pairs), 0.0), noise, 1)
                if both.mean() >= 0.5:
                    break
            step, at = yield from self._longest_step(task, at, np.sign(slope), step)

    def _least_sigma(self, at: Rows, rng: np.random.Generator) -> SigmaSteps:
        """Halve between SIGMAS for the least sigma whose proposals seldom collide; the largest where all do."""
        low, high = SIGMAS
        for _ in range(HALVINGS):
            sigma = (low * high) ** 0.5
            answers = yield _near(at, sigma * _noise(TRIED, at.shape, rng))
            if collided(answers).mean() <= COLLIDING_MAX:
                high = sigma
            else:
                low = sigma
        return high

    def _longest_step(self, task: Task, at: Rows, direction: NDArray[np.float64], step: float) -> MoveSteps:
        """Go on along the direction, further each time it collides; as far as the ball in the end."""
        for _ in range(RESAMPLED_MAX):
            moved = task.ball.clip(at - step * direction)
            if not collided((yield moved[None]))[0]:
                return max(self.step, step / 1.5), moved
            step = min(1.5 * step, 2 * task.ball.radius)
        return step, moved


def oars_square(task: Task, rng: np.random.Generator) -> Steps:
    """Square under OARS: the side of its squares grows while they collide, and shrinks while they do not."""
    ball, (height, width) = task.ball, task.ball.row.shape
    best = ball.clip(ball.row + rng.choice([-ball.radius, ball.radius], (1, width)))
    least, side = float(margins((yield best[None]), task.label)[0]), 4.0
    while True:
        tried = one_square_other(best, ball, min(round(side), height, width), rng)
        answers = yield tried[None]
        if collided(answers)[0]:
            side = min(1.2 * side, height)
            continue
        side = max(0.9 * side, 1.0)
        margin = float(margins(answers, task.label)[0])
        if margin <= least:
            best, least = tried, margin


def _noise(rows: int, shape: tuple[int, ...], rng: np.random.Generator) -> Rows:
    return np.asarray(rng.standard_normal((rows, *shape)), np.float32)


def _near(at: Rows, noise: NDArray[np.float32]) -> Rows:
    rows: Rows = np.clip(at + noise, 0.0, 1.0).astype(np.float32)
    return rows


def _difference(ahead: NDArray[np.float64], pairs: int) -> NDArray[np.float64]:
    """Return what each pair of opposite probes tells of the slope; nothing where one was not answered."""
    sound = np.isfinite(ahead[:pairs]) & np.isfinite(ahead[pairs:])
    return np.where(sound, np.nan_to_num(ahead[:pairs]) - np.nan_to_num(ahead[pairs:]), 0.0)


@dataclass(frozen=True, slots=True)
class Patched:
    """A search whose questions are asked behind patches; see the module.

    search: what is asked.
    side: of a patch, in pixels. None lies at the border, where no cell is.
    by: how far its pixels are moved, dark ones up and light ones down.
    patches: on each question.
    bare: rows that are asked without patches at most; taken off the search's budget beforehand.
    """

    search: Search
    side: int
    by: float
    patches: int = 2
    bare: int = 6

    def __call__(self, task: Task, rng: np.random.Generator) -> Steps:
        bare = min(self.bare, task.budget // 2)
        steps = self.search(replace(task, budget=task.budget - bare), rng)
        try:
            rows = next(steps)
            while True:
                answers = yield self.painted(rows, rng)
                wrong = np.flatnonzero(answers.answered & (answers.labels != task.label))[:bare]
                if wrong.size:
                    bare -= wrong.size
                    answers = with_rows(answers, wrong, (yield rows[wrong]))
                rows = steps.send(answers)
        except StopIteration as end:
            believed: Rows | None = end.value
            return believed

    def painted(self, rows: Rows, rng: np.random.Generator) -> Rows:
        """Return the rows (n, height, width), each behind patches at places of its own drawn from `rng`."""
        painted, (height, width) = rows.copy(), rows.shape[1:]
        for row, whole in zip(painted, rows, strict=True):
            for _ in range(self.patches):
                top, left = (rng.integers(MARGIN, side - MARGIN - self.side + 1) for side in (height, width))
                here = np.s_[top : top + self.side, left : left + self.side]
                row[here] = whole[here] + np.where(whole[here] < 0.5, self.by, -self.by)
        clipped: Rows = painted.clip(0.0, 1.0)
        return clipped


def with_rows(answers: Answers, at: NDArray[np.intp], others: Answers) -> Answers:
    """Return answers of which those of the rows `at` are replaced by others, (len(at),)."""
    probabilities, labels, answered = answers.probabilities.copy(), answers.labels.copy(), answers.answered.copy()
    probabilities[at], labels[at], answered[at] = others.probabilities, others.labels, others.answered
    return replace(answers, probabilities=probabilities, labels=labels, answered=answered)
