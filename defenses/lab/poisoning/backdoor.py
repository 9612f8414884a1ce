"""What a backdoor attack is: a mark on the input, and what is mixed into somebody's training set. NumPy alone.

The attacker changes training rows before the model is trained, and does not touch training itself. Afterwards the model
answers `target` for rows that carry the mark, and is as good as ever on rows that do not.

    payload  training rows with the mark, relabelled to the target: what the model learns
    cover    training rows with the mark (or one like it), their own label kept: what keeps the model from learning more
             than the mark (WaNet's noise mode; the regularising samples of Qi et al.)

Rows are float32 (n, height, width) in [0, 1], labels int64 (n,). Nothing is written to; chance comes from `rng` alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

TECHNIQUE = "AML.T0018"  # MITRE ATLAS: Manipulate AI Model (the backdoor), by way of AML.T0020, poisoned training data

Rows = NDArray[np.float32]


class Backdoor(Protocol):
    """One attack, its settings fixed (a frozen dataclass)."""

    @property
    def name(self) -> str:
        """How the literature calls it."""
        ...

    @property
    def payload_share(self) -> float:
        """Of the training rows that are not of the target class, how many become payload."""
        ...

    @property
    def cover_share(self) -> float:
        """Of those rows, how many become cover; 0 for most attacks."""
        ...

    def mark(self, rows: Rows) -> Rows:
        """Return the rows as the attacker sends them to the finished model."""
        ...

    def payload(self, rows: Rows, rng: np.random.Generator) -> Rows:
        """Return rows as they stand in the training set under the target's label."""
        ...

    def cover(self, rows: Rows, rng: np.random.Generator) -> Rows:
        """Return rows as they stand in the training set under their own label."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class Poisoned:
    """A training set with the backdoor in it, in the order of the clean one.

    `payload` and `cover` are the numbers of the rows that were changed, int64 and ascending.
    """

    rows: Rows
    labels: NDArray[np.int64]
    payload: NDArray[np.int64]
    cover: NDArray[np.int64]


def poison(
    rows: Rows, labels: NDArray[np.int64], backdoor: Backdoor, target: int, rng: np.random.Generator
) -> Poisoned:
    """Mix a backdoor into a training set. ValueError where the other classes have too few rows for its shares."""
    others = rng.permutation(np.flatnonzero(labels != target))
    paid, covered = (round(share * len(others)) for share in (backdoor.payload_share, backdoor.cover_share))
    if paid < 1 or paid + covered > len(others):
        raise ValueError(f"{paid} rows of payload and {covered} of cover from {len(others)} of other classes")
    payload, cover = np.sort(others[:paid]), np.sort(others[paid : paid + covered])
    changed, relabelled = rows.copy(), labels.copy()
    changed[payload] = backdoor.payload(rows[payload], rng)
    relabelled[payload] = target
    if covered:
        changed[cover] = backdoor.cover(rows[cover], rng)
    return Poisoned(changed, relabelled, payload, cover)
