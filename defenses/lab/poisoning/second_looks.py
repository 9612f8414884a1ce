"""Trigger scores that ask the model again: what S6 was chosen against. Each costs passes that the screen does not.

All take `ask` (rows float32 (n, height, width) in [0, 1] to probabilities (n, classes)) and return float64 (n,), higher
is more suspicious. `answers` are the model's own for the rows as they came, int64 (n,).

    strip       -mean entropy over classes of the row superimposed with clean ones (Gao et al. 2019, arXiv 1902.06531);
                ART takes the entropy over the wrong axis. One pass per overlay.
    consistent  -log p(answer | the row changed a little): a mark that the change destroys lets the true class through.
                One pass. `purified` keeps the leading principal coordinates of clean rows only, `blurred` and `median`
                smooth 3 x 3, `shifted` moves three pixels aside (TeCo, arXiv 2303.18191, compares such corruptions).
    scaled      log p(answer | the row amplified): a mark's answer outlives it (SCALE-UP, arXiv 2302.03251); 3 passes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Self

import numpy as np
from numpy.typing import NDArray

LOWEST: Final = 1e-12  # of a probability whose logarithm is taken
OVERLAYS: Final = 12
AMPLIFIED: Final = (1.5, 2.0, 3.0)

Rows = NDArray[np.float32]
Scores = NDArray[np.float64]
Ask = Callable[[Rows], NDArray[Any]]
Change = Callable[[Rows], Rows]


def strip(ask: Ask, rows: Rows, overlays: Rows) -> Scores:
    """Return minus the mean entropy of half the row and half of each overlay (m, height, width)."""
    total = np.zeros(len(rows))
    for overlay in overlays:
        shares = np.maximum(ask((0.5 * rows + 0.5 * overlay).astype(np.float32)).astype(np.float64), LOWEST)
        total += (shares * np.log(shares)).sum(axis=1)
    return np.asarray(total / len(overlays), np.float64)


def consistent(ask: Ask, rows: Rows, answers: NDArray[np.int64], change: Change) -> Scores:
    """Return minus the logarithm of what is left of the answer's probability after a change."""
    left = ask(change(rows))[np.arange(len(rows)), answers].astype(np.float64)
    return np.asarray(-np.log(np.maximum(left, LOWEST)), np.float64)


def scaled(ask: Ask, rows: Rows, answers: NDArray[np.int64]) -> Scores:
    """Return the mean logarithm of the answer's probability under amplification."""
    total = np.zeros(len(rows))
    for by in AMPLIFIED:
        louder = np.clip(rows * np.float32(by), 0, 1)
        total -= consistent(ask, louder, answers, lambda seen: seen)
    return np.asarray(total / len(AMPLIFIED), np.float64)


@dataclass(frozen=True, slots=True, eq=False)
class Purifier:
    """Keeps what clean rows have in common: mean (D,) and components (D, k) of the leading plane, float32."""

    mean: Rows = field(repr=False)
    components: Rows = field(repr=False)

    @classmethod
    def fit(cls, rows: Rows, coordinates: int) -> Self:
        flat = rows.reshape(len(rows), -1)
        _, vectors = np.linalg.eigh(np.cov(flat.T))
        return cls(flat.mean(axis=0), vectors[:, ::-1][:, :coordinates].astype(np.float32))

    def __call__(self, rows: Rows) -> Rows:
        centred = rows.reshape(len(rows), -1) - self.mean
        kept = centred @ self.components @ self.components.T + self.mean
        return np.clip(kept, 0, 1).astype(np.float32).reshape(rows.shape)


def blurred(rows: Rows) -> Rows:
    return np.asarray(_neighbours(rows).mean(axis=0), np.float32)


def median(rows: Rows) -> Rows:
    return np.asarray(np.median(_neighbours(rows), axis=0), np.float32)


def shifted(rows: Rows) -> Rows:
    return np.roll(rows, 3, axis=2)


def _neighbours(rows: Rows) -> Rows:
    """Return (9, n, height, width): each pixel's 3 x 3 neighbourhood, the edge repeated."""
    height, width = rows.shape[1:]
    padded = np.pad(rows, ((0, 0), (1, 1), (1, 1)), mode="edge")
    return np.stack([padded[:, i : i + height, j : j + width] for i in range(3) for j in range(3)])


def second_looks(ask: Ask, rows: Rows, clean: Rows, rng: np.random.Generator) -> Mapping[str, Scores]:
    """Return every score of this module for rows; `clean` are rows of the defender's, for overlays and the plane."""
    answers = ask(rows).argmax(axis=1)
    changes: Mapping[str, Change] = {
        "purified_16": Purifier.fit(clean, 16),
        "purified_48": Purifier.fit(clean, 48),
        "blurred": blurred,
        "median": median,
        "shifted": shifted,
    }
    overlays = clean[rng.choice(len(clean), OVERLAYS, replace=False)]
    found = {name: consistent(ask, rows, answers, change) for name, change in changes.items()}
    return {"strip": strip(ask, rows, overlays), "scaled": scaled(ask, rows, answers), **found}
