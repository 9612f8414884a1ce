"""What innocent accounts ask: rows that differ, and near duplicates in bursts.

Watches are calibrated on streams of this kind, and measured on more of it from other rows. It is a model of traffic; an
operator with recorded traffic calibrates on that.
"""

from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from defenses.accounts.returns import AGE

NOISE: Final = 0.05  # standard deviation
BRIGHTNESS: Final = (0.8, 1.2)
MOVED_MAX: Final = 2  # pixels


@dataclass(frozen=True, slots=True)
class WatchKind:
    """What inputs are like. `reach`: how far apart queries of one search may be, as a share of the range (2 eps)."""

    name: str  # of the input
    low: NDArray[np.float32]  # (dims,)
    high: NDArray[np.float32]  # (dims,)
    weight: NDArray[np.float32]  # (dims,): how much a cell says, such as its standard deviation
    reach: float
    picture: tuple[int, int] | None = None

    @classmethod
    def of_images(cls, name: str, rows: NDArray[np.float32], reach: float = 0.2) -> "WatchKind":
        """Return the kind of images (rows, height, width) in [0, 1]."""
        flat = rows.reshape(len(rows), -1)
        low = np.zeros(flat.shape[1], np.float32)
        height, width = rows.shape[1:]
        return cls(name, low, low + np.float32(1), flat.std(axis=0).astype(np.float32), reach, (height, width))

    @classmethod
    def of_numbers(cls, name: str, rows: NDArray[np.float32], reach: float = 0.05) -> "WatchKind":
        """Return the kind of rows of numbers (rows, elements): the range is where all but 1 % of each element lie.

        Two rows are near where all elements are, and also where all but a few are equal.
        """
        low, high = np.quantile(rows, [0.005, 0.995], axis=0).astype(np.float32)
        varied = high > low
        return cls(name, low, np.where(varied, high, low + np.float32(1)), varied.astype(np.float32), reach)


@dataclass(frozen=True, slots=True)
class BenignTraffic:
    """How an innocent account asks: `duplicates` of its queries are near duplicates of its last new one, in bursts.

    returns: share of its queries that are about a thing it asked about AGE queries ago or before, seen again; None:
        nobody said, and nothing is concluded from returns.
    in_flight: a query lies fewer than so many places from where it was asked: clients that do not wait for each answer
        have their queries put in another order on the way, and bursts are no bursts any more.
    """

    duplicates: float = 0.05
    burst_mean: float = 3.0
    burst_max: int = 12
    queries: int = 1_000
    returns: float | None = None
    in_flight: int = 1

    def stream(self, rows: NDArray[np.float32], kind: WatchKind, rng: np.random.Generator) -> NDArray[np.float32]:
        """Return one account's queries, (queries, *shape), from rows drawn without repetition."""
        chance = self.duplicates / ((1.0 - self.duplicates) * self.burst_mean)
        fresh: Iterator[int] = iter(rng.permutation(len(rows)).tolist())
        asked: list[NDArray[np.float32]] = []
        things: list[int] = []  # where in `asked` each was new
        while len(asked) < self.queries:
            if self.returns and rng.random() < self.returns:
                old = bisect_right(things, len(asked) - AGE)
                if old:
                    asked.append(again(asked[things[rng.integers(old)]], rows, kind, rng, int(rng.integers(3))))
                    continue
            things.append(len(asked))
            row = rows[next(fresh)]
            asked.append(row)
            if rng.random() < chance:
                times = min(int(rng.geometric(1.0 / self.burst_mean)), self.burst_max)
                manner = 0 if kind.picture is None else int(rng.integers(3))
                asked += [again(row, rows, kind, rng, manner) for _ in range(times)]
        stream = np.stack(asked[: self.queries])
        if self.in_flight == 1:
            return stream
        return stream[arrival(len(stream), self.in_flight, rng)]


def arrival(queries: int, in_flight: int, rng: np.random.Generator) -> NDArray[np.intp]:
    """Return which query comes first, second, ... where each may overtake fewer than `in_flight` others, (queries,)."""
    return np.argsort(np.arange(queries) + rng.random(queries) * in_flight, kind="stable")


def again(
    row: NDArray[np.float32], rows: NDArray[np.float32], kind: WatchKind, rng: np.random.Generator, manner: int
) -> NDArray[np.float32]:
    """Return a near duplicate of a row: of numbers, corrected by another of `rows`; of images, in this manner."""
    if kind.picture is None:
        return corrected(row, rows[rng.integers(len(rows))], rng)
    return seen_again(row, manner, rng)


def corrected(row: NDArray[np.float32], other: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.float32]:
    """Return a row of numbers of which one or two are another row's."""
    changed = row.copy()
    at = rng.integers(row.size, size=int(rng.integers(1, 3)))
    changed[at] = other[at]
    return changed


def seen_again(image: NDArray[np.float32], manner: int, rng: np.random.Generator) -> NDArray[np.float32]:
    """Return an image of the same thing, in [0, 1]: 0 with noise, 1 moved by up to 2 pixels, 2 brighter or darker."""
    if manner != 1:
        changed = image + rng.normal(0.0, NOISE, image.shape) if manner == 0 else image * rng.uniform(*BRIGHTNESS)
        return np.asarray(np.clip(changed, 0, 1), np.float32)
    down, right = (int(step) for step in rng.integers(-MOVED_MAX, MOVED_MAX + 1, 2))
    moved: NDArray[np.float32] = np.zeros_like(image, np.float32)
    height, width = image.shape
    moved[max(down, 0) : height + min(down, 0), max(right, 0) : width + min(right, 0)] = image[
        max(-down, 0) : height + min(-down, 0), max(-right, 0) : width + min(-right, 0)
    ]
    return moved
