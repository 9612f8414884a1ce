"""From the evidence against an account to the step it stands on: pure but for the small table of who stands where.

An account's evidence M is a test martingale: a benign account ever reaches M >= 1/alpha with probability at most alpha
(Ville 1939; Ramdas et al., "Game-theoretic statistics and safe anytime-valid inference", Statistical Science 2023,
section 3). So a step is named by its alpha. What was once reached counts, however the evidence falls afterwards: who
mixes innocent questions in between would otherwise step down again. A step lasts for a time after it was last reached.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from heapq import heapify, heappop, heappush

import numpy as np
from numpy.typing import NDArray

from defenses.budget.policy import Action
from defenses.errors import RuleInvalid

STANDINGS_MAX = 100_000
SLACK = 64  # ends that stand for nobody any more, before they are sorted out


@dataclass(frozen=True, slots=True)
class Step:
    """What becomes of an account from `log_evidence` (natural) on, until `lasts_ns` after it was last there."""

    action: Action
    log_evidence: float
    lasts_ns: int

    @classmethod
    def at(cls, alpha: float, action: Action, lasts_ns: int) -> Step:
        """Return the step that benign accounts reach with this probability at most; RuleInvalid outside (0, 1)."""
        if not 0.0 < alpha < 1.0:
            raise RuleInvalid("alpha", f"{alpha}: outside (0, 1)")
        return cls(action, -math.log(alpha), lasts_ns)


@dataclass(frozen=True, slots=True)
class Standing:
    """Where an account stands, and until when."""

    action: Action
    until_ns: int


@dataclass(slots=True)
class Standings:
    """Who stands on a step. Bounded: of more than STANDINGS_MAX accounts those that end first are forgotten first."""

    standings_max: int = STANDINGS_MAX
    _held: dict[str, Standing] = field(default_factory=dict)
    _ends: list[tuple[int, str]] = field(default_factory=list)  # a heap; of who stands elsewhere by now too

    def reach(
        self,
        accounts: Sequence[str],
        log_evidence: NDArray[np.float64],
        steps: Sequence[Sequence[Step]],
        now_ns: int,
    ) -> NDArray[np.uint8]:
        """Return the action of each account, uint8 (accounts,), once it has this evidence, float64 (accounts,).

        `steps` are those of each account. NaN counts as all the evidence there can be.
        """
        reached = np.zeros(len(accounts), np.uint8)
        for position, (account, evidence, ladder) in enumerate(
            zip(accounts, log_evidence.tolist(), steps, strict=True)
        ):
            for step in ladder:
                if not evidence < step.log_evidence:
                    self._hold(account, Standing(step.action, now_ns + step.lasts_ns), now_ns)
            reached[position] = self.of(account, now_ns)
        return reached

    def of(self, account: str, now_ns: int) -> Action:
        """Return what an account that asks now has coming."""
        held = self._held.get(account)
        if held is None:
            return Action.ALLOW
        if now_ns >= held.until_ns:
            del self._held[account]
            return Action.ALLOW
        return held.action

    def forgive(self, account: str) -> bool:
        """Take an account off its step; False when it stood on none."""
        return self._held.pop(account, None) is not None

    def held(self, now_ns: int) -> Mapping[str, Standing]:
        """Return who stands on a step."""
        return {account: standing for account, standing in self._held.items() if now_ns < standing.until_ns}

    def restore(self, held: Mapping[str, Standing]) -> None:
        """Take over what another process knew."""
        for account, standing in held.items():
            self._hold(account, standing, 0)

    def _hold(self, account: str, wanted: Standing, now_ns: int) -> None:
        held = self._held.get(account)
        if held is not None and now_ns < held.until_ns and held.action > wanted.action:
            return
        self._held[account] = wanted
        heappush(self._ends, (wanted.until_ns, account))
        while len(self._held) > self.standings_max:
            until_ns, first = heappop(self._ends)
            if first in self._held and self._held[first].until_ns == until_ns:
                del self._held[first]
        if len(self._ends) > 2 * len(self._held) + SLACK:
            self._ends = [(standing.until_ns, name) for name, standing in self._held.items()]
            heapify(self._ends)
