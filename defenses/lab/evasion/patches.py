"""A search behind patches: each question has small squares painted over, at other places than the last one's.

Query blinding (Chen, Carlini and Wagner 2019, arXiv 1907.05587) by the knowledge of how a watch compares: a question is
a repeat where next to no cell differs by more than a ball is wide from an earlier one's (evasion.similarity). Patches
change several cells by more, medians or not, and hide little of the image: what is left tells nearly what the whole
would. A row that looks wrong behind its patches is asked as it is, but `bare` times at most, since those questions do
lie in one ball.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from defenses.accounts.similarity import MARGIN
from defenses.lab.attack import Answers
from defenses.lab.evasion.query import Rows, Search, Steps, Task


@dataclass(frozen=True, slots=True)
class Patched:
    """A search whose questions are asked behind patches; see the module.

    search: what is asked.
    side: of a patch, in pixels. None lies at the border, where no cell is.
    by: how far its pixels are moved, dark ones up and light ones down.
    patches: on each question.
    bare: rows that are asked without patches at most; taken off the search's budget beforehand.
    """

    search: Search
    side: int
    by: float
    patches: int = 2
    bare: int = 6

    def __call__(self, task: Task, rng: np.random.Generator) -> Steps:
        bare = min(self.bare, task.budget // 2)
        steps = self.search(replace(task, budget=task.budget - bare), rng)
        try:
            rows = next(steps)
            while True:
                answers = yield self.painted(rows, rng)
                wrong = np.flatnonzero(answers.answered & (answers.labels != task.label))[:bare]
                if wrong.size:
                    bare -= wrong.size
                    answers = with_rows(answers, wrong, (yield rows[wrong]))
                rows = steps.send(answers)
        except StopIteration as end:
            believed: Rows | None = end.value
            return believed

    def painted(self, rows: Rows, rng: np.random.Generator) -> Rows:
        """Return the rows (n, height, width), each behind patches at places of its own drawn from `rng`."""
        painted, (height, width) = rows.copy(), rows.shape[1:]
        for row, whole in zip(painted, rows, strict=True):
            for _ in range(self.patches):
                top, left = (rng.integers(MARGIN, side - MARGIN - self.side + 1) for side in (height, width))
                here = np.s_[top : top + self.side, left : left + self.side]
                row[here] = whole[here] + np.where(whole[here] < 0.5, self.by, -self.by)
        clipped: Rows = painted.clip(0.0, 1.0)
        return clipped


def with_rows(answers: Answers, at: NDArray[np.intp], others: Answers) -> Answers:
    """Return answers of which those of the rows `at` are replaced by others, (len(at),)."""
    probabilities, labels, answered = answers.probabilities.copy(), answers.labels.copy(), answers.answered.copy()
    probabilities[at], labels[at], answered[at] = others.probabilities, others.labels, others.answered
    return replace(answers, probabilities=probabilities, labels=labels, answered=answered)
