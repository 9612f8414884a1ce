"""Evasion by asking: what the query attacks of the lab have in common. NumPy alone.

A *search* is written as a generator: it yields rows, is sent what was answered to them, and knows nothing of accounts,
budgets or gateways. `Searching` makes a `QueryAttack` of it; `disguise` puts it behind several accounts or between
innocent questions, or runs many searches at once. So one search is run in every disguise.

A search ends when it was told a wrong class for a row within the norm. Whether that is true is the lab's to find out:
an answer may have been an earlier one, given again.

`Counted` stands around every oracle that an attack is given. Which rows were acted upon stays there, unless the
experiment says that the attacker sees it (`sees_actions`: the perfect oracle of OARS, arXiv 2303.06280).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Generator
from dataclasses import dataclass, field, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from defenses.lab.attack import Answers, Attempt, BudgetSpent, Oracle, Refused

REFUSALS_MAX: Final = 100  # asks in a row of which nothing was answered: then an attack has lost its account
UNSEEN: Final = 5e-4  # a probability that was rounded away
UNIQUE_MAX: Final = 1_000_000

Rows = NDArray[np.float32]
Steps = Generator[Rows, Answers, Rows | None]


class Found(Exception):
    """A row within the norm was answered with a wrong class: the search may end."""


@dataclass(frozen=True, slots=True, eq=False)
class Ball:
    """Where the adversarial row has to lie: L-infinity, and [0, 1]. Queries may lie elsewhere."""

    row: Rows
    radius: float

    def clip(self, rows: NDArray[np.floating]) -> Rows:
        """Return rows (n, *shape) or one row (*shape) moved to the nearest point of the ball."""
        low, high = np.maximum(self.row - self.radius, 0.0), np.minimum(self.row + self.radius, 1.0)
        clipped: Rows = np.clip(rows, low, high).astype(np.float32)
        return clipped

    def inside(self, rows: Rows) -> NDArray[np.bool_]:
        """Return which rows (n, *shape) lie in the ball, rounding apart."""
        gaps = np.abs(rows - self.row).reshape(len(rows), -1).max(axis=1)
        inside: NDArray[np.bool_] = gaps <= self.radius + 1e-6
        return inside


@dataclass(frozen=True, slots=True, eq=False)
class Task:
    """What a search is to do: leave the true class within the ball, by at most `budget` questions."""

    ball: Ball
    label: int
    budget: int


Search = Callable[[Task, np.random.Generator], Steps]
"""A generator of rows to ask. It may end by itself, and then return the row that it believes in, asked or not."""


def margins(answers: Answers, label: int) -> NDArray[np.float64]:
    """Return how far the true class is ahead, in logarithms of what was answered, (rows,); below 0: another is told.

    Unanswered rows are infinitely far: no search takes them for better.
    """
    told = np.log(np.nan_to_num(answers.probabilities.astype(np.float64)) + UNSEEN)
    true = told[:, label].copy()
    told[:, label] = -np.inf
    ahead: NDArray[np.float64] = np.where(answers.answered, true - told.max(axis=1), np.inf)
    return ahead


@dataclass(slots=True, eq=False)
class Best:
    """The row within the ball of which the attacker was told the least margin."""

    ball: Ball
    label: int
    row: Rows = field(init=False)
    margin: float = field(init=False, default=np.inf)
    won: bool = False
    queries: int = 0

    def __post_init__(self) -> None:
        self.row = self.ball.row

    def take(self, rows: Rows, answers: Answers) -> None:
        """Look at what was answered. Raises Found where a row of the ball was answered wrongly, as it seems."""
        rows = rows[: len(answers.labels)]
        self.queries += len(rows)
        ahead = np.where(self.ball.inside(rows), margins(answers, self.label), np.inf)
        at = int(ahead.argmin())
        if ahead[at] < self.margin:
            self.row, self.margin = rows[at].copy(), float(ahead[at])
        wrong = self.ball.inside(rows) & answers.answered & (answers.labels != self.label)
        if answers.acted is not None:  # who sees that goes on
            wrong &= ~answers.acted
        if wrong.any():
            self.row, self.won = rows[int(wrong.argmax())].copy(), True
            raise Found

    def claim(self, row: Rows | None) -> None:
        """Take the row that a search believes in, if it does."""
        if row is not None:
            self.row, self.won = self.ball.clip(row), True

    def attempt(self) -> Attempt:
        """Return what came of it, as the attacker believes."""
        return Attempt(self.won, self.queries, self.row, float(np.abs(self.row - self.ball.row).max()))


@dataclass(frozen=True, slots=True)
class Searching:
    """Implements QueryAttack: one search through one account."""

    search: Search
    radius: float = 0.1

    def run(self, oracle: Oracle, row: Rows, label: int, budget: int, rng: np.random.Generator) -> Attempt:
        """See QueryAttack. An ask of which nothing is answered counts as answered without a word."""
        best = Best(Ball(row, self.radius), label)
        steps = self.search(Task(best.ball, label, budget), rng)
        refused, classes = 0, label + 2
        try:
            rows = next(steps)
            while best.queries < budget and refused < REFUSALS_MAX:
                asked = rows[: budget - best.queries]
                try:
                    answers, refused = oracle.ask(asked), 0
                    classes = answers.probabilities.shape[1]
                except Refused:
                    answers, refused = silence(len(asked), classes), refused + 1
                best.take(asked, answers)
                if len(answers.labels) < len(rows):
                    break  # cut off in the middle of what it wanted to know
                rows = steps.send(answers)
        except StopIteration as end:
            best.claim(end.value)
        except (Found, BudgetSpent):
            pass
        return best.attempt()


def silence(rows: int, classes: int) -> Answers:
    """Return answers of which there is none."""
    nothing = np.full((rows, classes), np.nan, np.float32)
    return Answers(nothing, np.full(rows, -1), np.zeros(rows, np.bool_), np.ones(rows, np.bool_))


class Counted:
    """Implements Oracle over another: counts what is asked, ends it at its budget, hides what only the lab may know.

    One attempt each; not for several threads.
    """

    def __init__(self, inner: Oracle, *, budget: int, sees_actions: bool = False) -> None:
        self._inner = inner
        self._budget = budget
        self._sees_actions = sees_actions
        self._seen: set[bytes] = set()
        self.accounts = inner.accounts
        self.asked = 0
        self.actions = 0
        self.before_action: int | None = None
        """Distinct rows answered before the first action; None until there is one."""

    @property
    def answered(self) -> int:
        """Distinct rows answered so far."""
        return len(self._seen)

    def ask(self, rows: NDArray[np.float32], account: int = 0) -> Answers:
        """Ask, as far as the budget goes: rows beyond it are cut off, and a call without any left raises BudgetSpent.

        A cut call returns fewer answers than rows.
        """
        rows = rows[: self._budget - self.asked]
        if not len(rows):
            raise BudgetSpent
        self.asked += len(rows)
        try:
            answers = self._inner.ask(rows, account)
        except Refused:
            self._act()
            raise
        acted = ~answers.answered if answers.acted is None else answers.acted | ~answers.answered
        for row, answered, moved in zip(rows, answers.answered, acted, strict=True):
            if moved:
                self._act()
            if answered and len(self._seen) < UNIQUE_MAX:
                self._seen.add(hashlib.blake2b(row.tobytes(), digest_size=16).digest())
        return answers if self._sees_actions else replace(answers, acted=None)

    def _act(self) -> None:
        self.actions += 1
        if self.before_action is None:
            self.before_action = len(self._seen)
