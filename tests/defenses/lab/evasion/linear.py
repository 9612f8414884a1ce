"""A black box that is easy to see through: two classes, told apart by a straight line, and a third that is empty."""

from __future__ import annotations

from contextlib import contextmanager
from pathlib import Path

import numpy as np

from defenses.lab.attack import Answers, Reason, Refused, Sample, Size

SIDE = 12


def slope(seed=3):
    """What the model looks at: a pattern of squares."""
    coarse = np.random.default_rng(seed).choice([-1.0, 1.0], (SIDE // 2, SIDE // 2))
    return np.kron(coarse, np.ones((2, 2))).astype(np.float32)


class Linear:
    """Class 0 where slope . (row - 0.5) is above -reach * pixels; a corner of the ball of that radius just crosses.

    Deaf: answers everything as the first row. Refusing: nothing is answered.
    """

    def __init__(self, reach=0.05, *, accounts=1, deaf=False, refusing=(), acting=()):
        self.accounts = accounts
        self.asked = []
        self.w, self.reach = slope(), reach
        self.deaf, self.refusing, self.acting = deaf, set(refusing), set(acting)

    def probabilities(self, rows):
        ahead = ((rows - 0.5) * self.w).sum((1, 2)) + self.reach * self.w.size
        first = 1 / (1 + np.exp(-np.clip(ahead / 10, -30, 30)))
        return np.column_stack([first, 1 - first, np.zeros(len(rows))]).astype(np.float32)

    def ask(self, rows, account=0):
        assert rows.dtype == np.float32
        assert rows.min() >= 0
        assert rows.max() <= 1
        self.asked += [(account, row.copy()) for row in rows]
        if account in self.refusing:
            raise Refused(Reason.RATE_LIMITED)
        seen = np.repeat(self.asked[0][1][None], len(rows), axis=0) if self.deaf else rows
        given = self.probabilities(seen)
        acted = np.full(len(rows), account in self.acting)
        return Answers(given, given.argmax(1), np.ones(len(rows), np.bool_), acted)


def middle(count=1):
    return np.full((count, SIDE, SIDE), 0.5, np.float32)


class LinearLab:
    """A lab whose every model is Linear; accounts of attackers may be treated otherwise than clean ones."""

    def __init__(self, *, size=Size.SMOKE, lies=False, reach=0.05):
        self.size, self.directory = size, Path()
        self.lies, self.reach = lies, reach
        self.opened = []

    def model(self, name, version):
        lab = self

        class Model:
            classes = 3

            def outputs(self, rows):
                return {"probabilities": Linear(lab.reach).probabilities(rows)}

        return Model()

    def rows(self, model, split, count, seed):
        """All of class 0, near the middle; what every fifth is said to be is wrong."""
        noise = np.random.default_rng(seed).uniform(-0.002, 0.002, (count, SIDE, SIDE))
        return Sample((0.5 + noise).astype(np.float32), (np.arange(count) % 5 == 4).astype(np.int64))

    @contextmanager
    def oracle(self, name, version, *, defended, accounts=1, tenants=1, changes=None):
        first = not self.opened
        self.opened.append({"defended": defended, "accounts": accounts, "tenants": tenants, "changes": changes})
        oracle = Linear(self.reach, accounts=accounts)
        if first and self.lies:  # attackers are told class 1 whatever they ask
            oracle.probabilities = lambda rows: np.tile(np.array([[0.1, 0.9, 0.0]], np.float32), (len(rows), 1))
        yield oracle

    def tell(self, what, done, total):
        assert done <= total
