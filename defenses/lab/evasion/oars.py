"""OARS: searches that feel for how near they may ask, and stay out of what a stateful screen remembers.

After Feng, Hooda, Mangaokar, Fawaz, Jha and Prakash, "Stateful Defenses for Machine Learning Models Are Not Yet Secure
Against Black-box Attacks" (CCS 2023, arXiv 2303.06280, section 4: "adapt and resample"): before it begins, a search
finds the least variance of its proposals that does not collide with earlier questions; while it goes on, it finds the
longest step that does not, and a proposal that collides is drawn again. In the paper a collision is a rejection. Here
nothing is rejected, so there are two attackers:

    perfect   is told by the lab whether a screen acted on a row, which no caller of the service is
    leaks     sees an unlike row answered bit for bit as an earlier one was, or not at all, and takes that for one

Proposals lie where they have to, outside the ball too: only what is claimed has to lie within it.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from numpy.typing import NDArray

from defenses.lab.attack import Answers
from defenses.lab.evasion.query import Rows, Steps, Task, margins
from defenses.lab.evasion.query_scores import blocks, one_square_other

SigmaSteps = Generator[Rows, Answers, float]
MoveSteps = Generator[Rows, Answers, tuple[float, Rows]]

COLLIDING_MAX: Final = 0.2  # of proposals, at a variance that will do
HALVINGS: Final = 6
TRIED: Final = 10  # proposals a variance is judged by
SIGMAS: Final = (0.01, 0.5)
RESAMPLED_MAX: Final = 5
ANSWERS_MAX: Final = 20_000


@dataclass(slots=True)
class Collisions:
    """Which rows collided with earlier ones, as far as an attacker of this kind can tell."""

    perfect: bool
    told: set[bytes] = field(default_factory=set)

    def of(self, answers: Answers) -> NDArray[np.bool_]:
        """Return which rows collided, bool (rows,); remembers the answers."""
        if self.perfect and answers.acted is not None:
            return answers.acted | ~answers.answered
        found = ~answers.answered
        for row, given in enumerate(answers.probabilities):
            told = given.tobytes()
            sure = bool((given >= 1.0).any())  # rounded to a single class: that says nothing
            found[row] |= told in self.told and not sure
            if len(self.told) < ANSWERS_MAX:
                self.told.add(told)
        return found


@dataclass(frozen=True, slots=True)
class OarsNes:
    """NES under OARS. `block`: the side of the squares its noise is constant over; 1 is the paper's."""

    perfect: bool
    block: int = 1
    pairs: int = 10
    step: float = 0.02

    def __call__(self, task: Task, rng: np.random.Generator) -> Steps:
        collisions = Collisions(self.perfect)
        at = task.ball.row
        collisions.of((yield at[None]))
        sigma = yield from self._least_sigma(at, collisions, rng)
        step = self.step
        while True:
            slope = np.zeros(at.shape)
            for _ in range(RESAMPLED_MAX):
                noise = blocks(rng.standard_normal, self.pairs, at.shape, self.block)
                answers = yield _near(at, np.concatenate([sigma * noise, -sigma * noise]))
                clear = ~collisions.of(answers)
                ahead = margins(answers, task.label)
                both = clear[: self.pairs] & clear[self.pairs :]
                slope += np.tensordot(np.where(both, _difference(ahead, self.pairs), 0.0), noise, 1)
                if both.mean() >= 0.5:
                    break
            step, at = yield from self._longest_step(task, at, np.sign(slope), step, collisions)

    def _least_sigma(self, at: Rows, collisions: Collisions, rng: np.random.Generator) -> SigmaSteps:
        """Halve between SIGMAS for the least sigma whose proposals seldom collide; the largest where all do."""
        low, high = SIGMAS
        for _ in range(HALVINGS):
            sigma = (low * high) ** 0.5
            answers = yield _near(at, sigma * blocks(rng.standard_normal, TRIED, at.shape, self.block))
            if collisions.of(answers).mean() <= COLLIDING_MAX:
                high = sigma
            else:
                low = sigma
        return high

    def _longest_step(
        self, task: Task, at: Rows, direction: NDArray[np.float64], step: float, collisions: Collisions
    ) -> MoveSteps:
        """Go on along the direction, further each time it collides; as far as the ball in the end."""
        for _ in range(RESAMPLED_MAX):
            moved = task.ball.clip(at - step * direction)
            if not collisions.of((yield moved[None]))[0]:
                return max(self.step, step / 1.5), moved
            step = min(1.5 * step, 2 * task.ball.radius)
        return step, moved


@dataclass(frozen=True, slots=True)
class OarsSquare:
    """Square under OARS: the side of its squares grows while they collide, and shrinks while they do not."""

    perfect: bool

    def __call__(self, task: Task, rng: np.random.Generator) -> Steps:
        ball, (height, width) = task.ball, task.ball.row.shape
        collisions = Collisions(self.perfect)
        best = ball.clip(ball.row + rng.choice([-ball.radius, ball.radius], (1, width)))
        answers = yield best[None]
        collisions.of(answers)
        least, side = float(margins(answers, task.label)[0]), 4.0
        while True:
            tried = one_square_other(best, ball, min(round(side), height, width), rng)
            answers = yield tried[None]
            if collisions.of(answers)[0]:
                side = min(1.2 * side, height)
                continue
            side = max(0.9 * side, 1.0)
            margin = float(margins(answers, task.label)[0])
            if margin <= least:
                best, least = tried, margin


def _near(at: Rows, noise: NDArray[np.float32]) -> Rows:
    rows: Rows = np.clip(at + noise, 0.0, 1.0).astype(np.float32)
    return rows


def _difference(ahead: NDArray[np.float64], pairs: int) -> NDArray[np.float64]:
    """Return what each pair of opposite probes tells of the slope; nothing where one was not answered."""
    sound = np.isfinite(ahead[:pairs]) & np.isfinite(ahead[pairs:])
    return np.where(sound, np.nan_to_num(ahead[:pairs]) - np.nan_to_num(ahead[pairs:]), 0.0)
