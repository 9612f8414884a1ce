"""An oracle that counts for the lab what an attack asks, ends it at its budget, and hides what the lab alone may know.

Around every oracle that an attack is given. Which rows were acted upon stays here, unless the experiment says that the
attacker sees it (`sees_actions`: the perfect oracle of OARS, arXiv 2303.06280).
"""

import hashlib
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from defenses.lab.attack import Answers, BudgetSpent, Oracle, Refused

UNIQUE_MAX = 1_000_000


class Counted:
    """Implements Oracle over another. One attempt each; not for several threads."""

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
