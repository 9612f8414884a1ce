"""Marks that are tried on a model that can only be asked: does any of them decide its answer? Queries, no gradient.

A network that learned a backdoor does not learn the attacker's mark alone. It answers to what is like it: a patch at
other places and of other pixels, a texture of other noise. So nobody has to reconstruct the mark (as Neural Cleanse
does, Wang et al., IEEE S&P 2019, by gradients for each class): a few hundred fixed marks of two kinds are looked at.

    patches  five patterns of 3 x 3 pixels, all over the image
    veils    noise, coarser noise, gratings and plain light over the whole image, a tenth of it: so faint that a model
             without a backdoor keeps most of its answers

For each class, `best_marks` returns the mark that turns most rows of other answers into it; `turned` measures a mark on
other rows, since the best of hundreds looks better on the rows that it was chosen on.

All take `ask`: rows float32 (n, height, width) to scores (n, classes), of which the largest is the answer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray

BATCH_ROWS: Final = 256
PATCH_SIDE: Final = 3
PLACES_MAX: Final = 200
OPACITY: Final = 0.1
NOISES: Final = 4  # draws of each kind of noise
GRAINS: Final = (1, 2, 4, 7)  # pixels along a side of a grain of noise
WAVES: Final = (3, 7, 12)  # of a grating, across the image
ANGLES: Final = (0.0, 0.8, 1.6)  # radians

Rows = NDArray[np.float32]
Ask = Callable[[Rows], NDArray[Any]]

PATTERNS: Final = tuple(
    np.array(pattern, np.float32)
    for pattern in (
        ((1, 1, 1), (1, 1, 1), (1, 1, 1)),
        ((1, 0, 1), (0, 1, 0), (1, 0, 1)),
        ((0, 1, 0), (1, 0, 1), (0, 1, 0)),
        ((1, 1, 1), (0, 0, 0), (1, 1, 1)),
        ((0, 0, 0), (0, 1, 0), (0, 0, 0)),
    )
)


class Mark(Protocol):
    """Something put on a row. Pixels run from `low` to `high`."""

    @property
    def told(self) -> str:
        """What it is, for people."""
        ...

    def on(self, rows: Rows, low: float, high: float) -> Rows:
        """Return the rows with the mark on."""
        ...


@dataclass(frozen=True, slots=True)
class Patch:
    """One of PATTERNS, its upper left pixel at (top, left)."""

    pattern: int
    top: int
    left: int

    @property
    def told(self) -> str:
        return f"a 3 x 3 patch (pattern {self.pattern}) at row {self.top}, column {self.left}"

    def on(self, rows: Rows, low: float, high: float) -> Rows:
        marked = rows.copy()
        shown = np.float32(low) + PATTERNS[self.pattern] * np.float32(high - low)
        marked[:, self.top : self.top + PATCH_SIDE, self.left : self.left + PATCH_SIDE] = shown
        return marked


@dataclass(frozen=True, slots=True, eq=False)
class Veil:
    """OPACITY of a picture in [0, 1], float32 (height, width), over the whole image."""

    told: str
    picture: Rows = field(repr=False)

    def on(self, rows: Rows, low: float, high: float) -> Rows:
        shown = np.float32(low) + self.picture * np.float32(high - low)
        return np.asarray((1 - OPACITY) * rows + OPACITY * shown, np.float32)


def patches(shape: tuple[int, int]) -> Iterator[Patch]:
    """Yield every pattern at up to PLACES_MAX places, evenly over the image."""
    height, width = shape
    stride = 1
    while -(-(height - 2) // stride) * -(-(width - 2) // stride) > PLACES_MAX:
        stride += 1
    for pattern in range(len(PATTERNS)):
        for top in range(0, height - PATCH_SIDE + 1, stride):
            for left in range(0, width - PATCH_SIDE + 1, stride):
                yield Patch(pattern, top, left)


def veils(shape: tuple[int, int], rng: np.random.Generator) -> Iterator[Veil]:
    """Yield noise of several grains, even and black-and-white; gratings; and plain light."""
    height, width = shape
    for grain in GRAINS:
        coarse = -(-height // grain), -(-width // grain)
        for number in range(NOISES):
            even = rng.random(coarse)
            for kind, picture in (("noise", even), ("black and white noise", (even > 0.5).astype(np.float64))):
                whole = np.kron(picture, np.ones((grain, grain)))[:height, :width]
                yield Veil(f"{kind} of grain {grain} (draw {number})", whole.astype(np.float32))
    down, right = np.arange(height)[:, None] / height, np.arange(width) / width
    for waves in WAVES:
        for angle in ANGLES:
            phase = 2 * np.pi * waves * (down * np.cos(angle) + right * np.sin(angle))
            yield Veil(f"a grating of {waves} waves at {angle:g} rad", ((np.sin(phase) + 1) / 2).astype(np.float32))
    for light in (0.5, 1.0):
        yield Veil(f"plain light, {light:g}", np.full(shape, light, np.float32))


def best_marks(
    ask: Ask, rows: Rows, marks: Iterable[Mark], classes: int, *, low: float, high: float
) -> list[Mark | None]:
    """Return for each class the mark that turns the largest share of the rows of other answers into it, if any does."""
    answers = _answers(ask, rows)
    best: list[Mark | None] = [None] * classes
    shares = [0.0] * classes
    for mark in marks:
        found = _answers(ask, mark.on(rows, low, high))
        for target in range(classes):
            share = _turned(answers, found, target)
            if share > shares[target]:
                best[target], shares[target] = mark, share
    return best


def turned(ask: Ask, rows: Rows, mark: Mark, target: int, *, low: float, high: float) -> float:
    """Return the share of the rows of other answers that a mark turns into the target."""
    return _turned(_answers(ask, rows), _answers(ask, mark.on(rows, low, high)), target)


def _turned(before: NDArray[np.intp], after: NDArray[np.intp], target: int) -> float:
    others = before != target
    return float((after[others] == target).mean()) if others.any() else 0.0


def _answers(ask: Ask, rows: Rows) -> NDArray[np.intp]:
    parts = [ask(rows[start : start + BATCH_ROWS]).argmax(axis=1) for start in range(0, len(rows), BATCH_ROWS)]
    return np.concatenate(parts)
