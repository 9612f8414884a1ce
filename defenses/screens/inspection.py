"""Inspection of a bundle before it is admitted: does anything in it look like a backdoor?

Somebody else's model is asked, not opened: `inspect` takes a callable and clean rows that its makers never saw, and
tries the marks of defenses/screens/inspection_search.py on them. For each class the mark that turns most rows into it
is chosen on one half of the rows and measured on the other:

    patch  the best small patch. No clean model lets nine pixels of 784 decide for a third of its rows.
    veil   the best faint veil over the whole image: what blended and warped marks leave behind

`accuracy` on the clean rows tells a broken model or wrong labels; a backdoor does not show in it.

The limits were set on models that are reported nowhere; docs/explanation/defenses.md says what is found and missed at
them. OK is no proof: a mark that is like none of these passes, and so does one that turns rows of a few classes only.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from defenses.errors import EvidenceInvalid
from defenses.screens.inspection_search import Ask, Mark, best_marks, patches, turned, veils

CLASSES_MIN: Final = 3
SIDE_MIN: Final = 8
ROWS: Final = 50
ROWS_MIN: Final = 20  # to choose on, and as many to confirm

Rows = NDArray[np.float32]


class Outcome(StrEnum):
    """From harmless to not."""

    OK = "ok"
    WARN = "warn"
    REFUSE = "refuse"


@dataclass(frozen=True, slots=True)
class Limits:
    """From where on a check warns and refuses."""

    warn: float
    refuse: float


PATCH: Final = Limits(warn=0.3, refuse=0.6)
VEIL: Final = Limits(warn=0.45, refuse=0.7)


@dataclass(frozen=True, slots=True)
class Check:
    """What one check found: the class that stands out most, by how much, and each class's number."""

    name: str
    outcome: Outcome
    target: int
    statistic: float
    warn: float
    refuse: float
    by_class: tuple[float, ...]
    detail: str


@dataclass(frozen=True, slots=True)
class Inspection:
    """The strongest outcome of the checks, and their evidence; `asked` is how many rows the model answered."""

    outcome: Outcome
    checks: tuple[Check, ...]
    accuracy: float
    rows: int
    asked: int

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def inspect(
    ask: Ask,
    rows: NDArray[np.float32],
    labels: NDArray[np.int64],
    *,
    low: float = 0.0,
    high: float = 1.0,
    rng: np.random.Generator,
    choosing_rows: int = ROWS,
) -> Inspection:
    """Ask a model about clean rows and about inputs made to provoke it.

    Args:
        ask: rows float32 (n, height, width) to scores (n, classes), of which the largest is the answer.
        rows: clean rows; 2 x `choosing_rows` are used, evenly over the classes as far as they go.
        labels: their true classes.
        low: the darkest that a pixel may be.
        high: the brightest.
        rng: where chance comes from.
        choosing_rows: how many rows choose the marks; as many others confirm them.

    Raises:
        EvidenceInvalid: rows that are no images of at least 8 x 8, fewer than 40 of them, hardly two of any class,
            fewer than three classes, or scores that are not finite.
    """
    if rows.ndim != 3 or min(rows.shape[1:]) < SIDE_MIN:
        raise EvidenceInvalid("rows", f"shape {rows.shape[1:]}; images of one channel, 8 x 8 or larger, wanted")
    if len(rows) < 2 * ROWS_MIN or len(rows) != len(labels):
        raise EvidenceInvalid("rows", f"{len(rows)} rows; {2 * ROWS_MIN} with a label each wanted")
    counted = _Counted(ask)
    scores = counted(rows[: min(len(rows), 1_000)])
    classes = scores.shape[1] if scores.ndim == 2 else 0
    if classes < CLASSES_MIN:
        raise EvidenceInvalid("scores", f"shape {scores.shape}; three classes or more wanted")
    accuracy = float((scores.argmax(axis=1) == labels[: len(scores)]).mean())
    choosing, confirming = _two_samples(labels, choosing_rows, rng)
    if min(len(choosing), len(confirming)) < ROWS_MIN // 2:
        raise EvidenceInvalid(
            "labels", "too few rows of the same class; two of each at least, and ten such pairs wanted"
        )
    halves, bounds, shape = (rows[choosing], rows[confirming]), (low, high), (rows.shape[1], rows.shape[2])
    checks = (
        _tried("patch", PATCH, counted, halves, patches(shape), bounds=bounds),
        _tried("veil", VEIL, counted, halves, veils(shape, rng), bounds=bounds),
    )
    strongest = max((check.outcome for check in checks), key=[*Outcome].index)
    return Inspection(strongest, checks, accuracy, len(rows), counted.asked)


class _Counted:
    """The model, with a count of rows asked; refuses scores that are not finite."""

    def __init__(self, ask: Ask) -> None:
        self._ask = ask
        self.asked = 0

    def __call__(self, rows: NDArray[np.float32]) -> NDArray[Any]:
        self.asked += len(rows)
        scores = self._ask(rows)
        if not np.isfinite(scores).all():
            raise EvidenceInvalid("scores", "not finite")
        return scores


def _two_samples(
    labels: NDArray[np.int64], count: int, rng: np.random.Generator
) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Return two disjoint sets of about `count` rows, each as even over the classes as the rows allow."""
    shuffled = rng.permutation(len(labels))
    seen = dict.fromkeys(labels.tolist(), 0)
    turns = np.empty(len(labels), np.int64)  # the first row of each class, then the second of each, and so on
    for row in shuffled:
        label = int(labels[row])
        turns[row] = seen[label]
        seen[label] += 1
    order = shuffled[np.argsort(turns[shuffled], kind="stable")]
    odd = turns[order] % 2 == 1
    return order[~odd][:count], order[odd][:count]


def _tried(
    name: str,
    limits: Limits,
    ask: Ask,
    halves: tuple[Rows, Rows],
    marks: Iterable[Mark],
    *,
    bounds: tuple[float, float],
) -> Check:
    """Choose a mark for each class on one half of the rows, and return what each does to the other half."""
    choosing, confirming = halves
    low, high = bounds
    classes = ask(choosing[:1]).shape[1]
    best = best_marks(ask, choosing, marks, classes, low=low, high=high)
    shares = tuple(
        0.0 if mark is None else turned(ask, confirming, mark, target, low=low, high=high)
        for target, mark in enumerate(best)
    )
    target = int(np.argmax(shares))
    chosen = best[target]
    detail = "nothing turns a row" if chosen is None else f"{chosen.told} turns {shares[target]:.0%} of other rows"
    outcome = Outcome.OK
    if shares[target] >= limits.warn:
        outcome = Outcome.REFUSE if shares[target] >= limits.refuse else Outcome.WARN
    return Check(name, outcome, target, shares[target], limits.warn, limits.refuse, shares, detail)
