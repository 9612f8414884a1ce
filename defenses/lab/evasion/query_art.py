"""ART's query attacks as attacks of the lab: HopSkipJump, Boundary, SignOPT, ZOO.

They ask through a function that counts, and that ends them by an exception: at the budget, at success, or when the
account is lost. A row that was not answered looks to them like one of the true class. What a rate limit refuses it
refuses again, so there each row counts, and elsewhere each call: a batch of noise may be refused for what it is. Their
chance is NumPy's global generator, so they run one after the other.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from numpy.typing import NDArray

from defenses.art_adapter import query_attack
from defenses.lab.attack import Attempt, BudgetSpent, Oracle, Reason, Refused, Sample
from defenses.lab.evasion.query import REFUSALS_MAX, Ball, Best, Found, Rows

SEED_MAX: Final = 2**32


class _Lost(Exception):
    """Nothing is answered any more."""


@dataclass(frozen=True, slots=True)
class ArtQueries:
    """Implements QueryAttack. `name` is of art_adapter.QUERY_ATTACKS."""

    name: str
    classes: int
    others: Sample = field(repr=False)  # images to start from
    radius: float = 0.1

    def run(self, oracle: Oracle, row: Rows, label: int, budget: int, rng: np.random.Generator) -> Attempt:
        """See QueryAttack."""
        best = Best(Ball(row, self.radius), label)
        start = self.others.rows[rng.choice(np.flatnonzero(self.others.labels != label))]
        seed = int(rng.integers(SEED_MAX))
        asking = _Asking(oracle, best, budget, self.classes)
        with suppress(Found, BudgetSpent, _Lost):
            query_attack(self.name, asking, row, label, start=start, classes=self.classes, seed=seed)
        return best.attempt()


@dataclass(slots=True)
class _Asking:
    """What ART takes for the model."""

    oracle: Oracle
    best: Best
    budget: int
    classes: int
    refused: int = field(default=0)

    def __call__(self, rows: Rows) -> NDArray[np.float32]:
        if self.best.queries >= self.budget:
            raise BudgetSpent
        given = np.zeros((len(rows), self.classes), np.float32)
        given[:, self.best.label] = 1.0
        asked = rows[: self.budget - self.best.queries]
        try:
            answers, self.refused = self.oracle.ask(asked), 0
        except Refused as refusal:
            self.best.queries += len(asked)
            self.refused += len(asked) if refusal.reason is Reason.RATE_LIMITED else 1
            if self.refused >= REFUSALS_MAX:
                raise _Lost from None
            return given
        self.best.take(asked, answers)
        there = np.flatnonzero(answers.answered)
        given[there] = answers.probabilities[there]
        return given
