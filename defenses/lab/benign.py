"""What innocent accounts ask, with what is true of it: so that the cost of answering as before can be counted.

Like `defenses.accounts.benign_traffic`, from which watches are calibrated, but of rows that took no part in that, and
knowing of each row which image it shows. `mixed` is unlike the calibration on purpose: near duplicates of one thing
come in all manners at once, and in longer bursts.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from defenses.accounts.benign_traffic import arrival, seen_again

MANNERS = 3  # noise, moved by up to 2 pixels, brighter or darker
BURST_MAX = 12


@dataclass(frozen=True, slots=True, eq=False)
class Stream:
    """One account's questions: rows float32 (queries, *shape); of which image, int64 (queries,); the image itself, or
    seen again, bool (queries,).
    """

    rows: NDArray[np.float32]
    images: NDArray[np.int64]
    again: NDArray[np.bool_]

    def arriving(self, in_flight: int, rng: np.random.Generator) -> Stream:
        """Return it in an order in which a gateway may see it where the account has so many on the way at once."""
        order = arrival(len(self.rows), in_flight, rng)
        return Stream(self.rows[order], self.images[order], self.again[order])


@dataclass(frozen=True, slots=True)
class Habit:
    """How an account asks: `duplicates` of its questions are of what it asked just before, in bursts."""

    name: str
    duplicates: float
    burst_mean: float = 3.0
    mixed: bool = False

    def stream(self, images: NDArray[np.float32], queries: int, rng: np.random.Generator) -> Stream:
        """Return one account's questions about images (n, *shape), each of which it asks once, and some again.

        ValueError: there are fewer images than it may ask about.
        """
        if len(images) < queries:
            raise ValueError(f"{len(images)} images for {queries} questions")
        begins = self.duplicates / ((1.0 - self.duplicates) * self.burst_mean)
        rows: list[NDArray[np.float32]] = []
        shown: list[int] = []
        again: list[bool] = []
        for image in rng.permutation(len(images)).tolist():
            if len(rows) >= queries:
                break
            rows.append(images[image])
            times = min(int(rng.geometric(1.0 / self.burst_mean)), BURST_MAX) if rng.random() < begins else 0
            manners = rng.integers(MANNERS, size=times if self.mixed else 1).tolist() * (1 if self.mixed else times)
            rows += [seen_again(images[image], manner, rng) for manner in manners]
            shown += [image] * (1 + times)
            again += [False] + [True] * times
        return Stream(np.stack(rows[:queries]), np.array(shown[:queries]), np.array(again[:queries]))
