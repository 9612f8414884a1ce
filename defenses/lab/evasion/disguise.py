"""Disguises of a query attack: innocent questions between its own, several accounts, several images at once.

The first two stand between an attack and its oracle, and any attack can wear them. Innocent questions are not among
those that an attack is counted for.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from numpy.typing import NDArray

from defenses.lab.attack import Answers, Attempt, Oracle, Reason, Refused
from defenses.lab.evasion.query import Best, Found, Rows, Search, Steps, Task, silence

REFUSALS_MAX: Final = 3  # rounds of which nothing was answered: then the account is lost


@dataclass(slots=True, eq=False)
class Between:
    """Asks `innocent` rows, one after the other and round again, so that they are `share` of all questions."""

    inner: Oracle
    innocent: Rows
    share: float
    accounts: int = 1
    _owed: float = 0.0
    _next: int = 0

    def ask(self, rows: NDArray[np.float32], account: int = 0) -> Answers:
        """Ask row by row, innocent ones in between; the answers to these are thrown away."""
        asked, own = [], []
        for row in rows:
            self._owed += self.share / (1.0 - self.share)
            while self._owed >= 1.0:
                asked.append(self.innocent[self._next % len(self.innocent)])
                self._next, self._owed = self._next + 1, self._owed - 1.0
            own.append(len(asked))
            asked.append(row)
        answers = self.inner.ask(np.stack(asked), account)
        kept = _part(answers, own)
        if not kept.answered.any():
            raise Refused(Reason.REFUSED)
        return kept


@dataclass(slots=True, eq=False)
class Spread:
    """Sybils: each question goes to the next of these accounts of the inner oracle. One of them: that one's view."""

    inner: Oracle
    among: Sequence[int]
    accounts: int = 1
    _next: int = field(default=0)

    def ask(self, rows: NDArray[np.float32], account: int = 0) -> Answers:  # noqa: ARG002  there is one
        """Ask in rows of one account each; Refused where none of them was answered."""
        parts: dict[int, list[int]] = {}
        for place in range(len(rows)):
            parts.setdefault(self.among[(self._next + place) % len(self.among)], []).append(place)
        self._next += len(rows)
        answers: dict[int, Answers] = {}
        refused: list[Refused] = []
        for number, places in parts.items():
            try:
                answers[number] = self.inner.ask(rows[places], number)
            except Refused as refusal:
                refused.append(refusal)
        if not answers:
            raise refused[0]
        classes = next(iter(answers.values())).probabilities.shape[1]
        return _joined(len(rows), classes, [(places, answers.get(number)) for number, places in parts.items()])


def rotate(
    oracle: Oracle,
    search: Search,
    tasks: Sequence[Task],
    rng: np.random.Generator,
    tell: Callable[[int, int], None],
) -> list[Attempt]:
    """Search for all tasks at once through one account: a round asks one row of each image, in order.

    Between two questions about one image lie as many others as there are images, more than a window remembers.
    `before_action` and `answered` of the attempts are left to the caller, who counts the account.
    """
    turns = [_Turn.begun(search, task, generator) for task, generator in zip(tasks, rng.spawn(len(tasks)), strict=True)]
    most, refused = max(task.budget for task in tasks), 0
    for done in range(most):
        asking = [turn for turn in turns if turn.going]
        if not asking or refused >= REFUSALS_MAX:
            break
        rows = np.stack([turn.next_row for turn in asking])
        try:
            answers, refused = oracle.ask(rows), 0
        except Refused:
            answers, refused = silence(len(rows), max(task.label for task in tasks) + 2), refused + 1
        for place, turn in enumerate(asking):
            turn.take(_part(answers, [place]))
        tell(done + 1, most)
    return [turn.best.attempt() for turn in turns]


@dataclass(slots=True, eq=False)
class _Turn:
    """One search of several: the rows that it wants answered, and what of them was."""

    best: Best
    steps: Steps
    budget: int
    wanted: Rows
    answers: list[Answers] = field(default_factory=list)
    going: bool = True

    @classmethod
    def begun(cls, search: Search, task: Task, rng: np.random.Generator) -> _Turn:
        steps = search(task, rng)
        return cls(Best(task.ball, task.label), steps, task.budget, next(steps))

    @property
    def next_row(self) -> Rows:
        row: Rows = self.wanted[len(self.answers)]
        return row

    def take(self, answer: Answers) -> None:
        row = self.next_row
        self.answers.append(answer)
        try:
            self.best.take(row[None], answer)
            if len(self.answers) == len(self.wanted):
                self.wanted, self.answers = self.steps.send(_stacked(self.answers)), []
            self.going = self.best.queries < self.budget
        except Found:
            self.going = False
        except StopIteration as end:
            self.best.claim(end.value)
            self.going = False


def _part(answers: Answers, places: Sequence[int]) -> Answers:
    """Return the answers at these places."""
    at = np.asarray(places, np.intp)
    acted = None if answers.acted is None else answers.acted[at]
    return Answers(answers.probabilities[at], answers.labels[at], answers.answered[at], acted)


def _stacked(parts: Sequence[Answers]) -> Answers:
    """Return answers one after the other. Silence has fewer classes where nothing was ever answered."""
    classes = max(part.probabilities.shape[1] for part in parts)
    probabilities = np.full((len(parts), classes), np.nan, np.float32)
    for place, part in enumerate(parts):
        probabilities[place, : part.probabilities.shape[1]] = part.probabilities[0]
    labels, answered = (np.concatenate([getattr(part, name) for part in parts]) for name in ("labels", "answered"))
    acted = None if any(part.acted is None for part in parts) else np.concatenate([part.acted for part in parts])
    return Answers(probabilities, labels, answered, acted)


def _joined(rows: int, classes: int, parts: Sequence[tuple[list[int], Answers | None]]) -> Answers:
    """Return the answers of several accounts in the order that was asked; None: that account got none."""
    joined = silence(rows, classes)
    acted = np.ones(rows, np.bool_)
    told = all(answers is None or answers.acted is not None for _, answers in parts)
    for places, answers in parts:
        if answers is not None:
            joined.probabilities[places], joined.labels[places] = answers.probabilities, answers.labels
            joined.answered[places] = answers.answered
            if answers.acted is not None:
                acted[places] = answers.acted
    return Answers(joined.probabilities, joined.labels, joined.answered, acted if told else None)
