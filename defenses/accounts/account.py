"""The evidence against an account: e-processes, which may be looked at after every query.

An e-value is a number that is at most 1 on average for benign traffic, given the past, and large under attack. An
e-process multiplies them:

    M_t = e_t (M_{t-1} + w_t),   w_t = c / (t log(t + 1)^2),   the sum of all w is 1,   M_0 = 0

M_t is the average, with weights w, over products that begin at every time s <= t: who behaves for a month cannot save
up credit against the day of the attack. For benign traffic M_t minus the sum of w so far is a supermartingale, so
P(M_t >= 1/alpha for any t) <= alpha: Ville's inequality, for an account's whole life (Shin, Ramdas and Rinaldo,
arXiv 2203.03532, section 2). Evidence of several screens or bets is averaged, which keeps the bound whatever their
dependence.

Pure: arithmetic on logarithms, O(1) memory, no clock, no randomness.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import exp, inf, log, log1p
from typing import Final, Self

import numpy as np
from numpy.typing import NDArray

from defenses.accounts.direction import Motion
from defenses.errors import CalibrationInvalid

START_SUM: Final = 3.387735531037927
"""Sum over t >= 1 of 1 / (t log(t + 1)^2): 2,000,000 terms and the integral of the rest."""
LOG_EVIDENCE_MAX: Final = 27.6
"""Where evidence stops growing: 1e12, beyond any alpha. So an account that mends its ways is not suspected for ever."""
STEPS_MAX: Final = 2**53
ONE_BALL: Final = (0.15, 0.1, 0.15, 0.2, 0.4)  # how a search's repeats spread over the outcomes: the same anchor again
MANY_BALLS: Final = (0.8, 0.1, 0.05, 0.03, 0.02)  # and of searches among hundreds of things in turn
REPEAT_BETS: Final = ((0.9, ONE_BALL), (0.5, ONE_BALL), (0.1, ONE_BALL), (0.3, MANY_BALLS), (0.1, MANY_BALLS))
"""Bets on repeats: which part of an attacker's traffic is attack, and how that spreads."""
GAPS: Final = (2, 5)  # queries since the last repeat from which the next context holds
SIMILARITY_WEIGHT: Final = 0.8  # of the two screens' evidence in their average
RETURNS_WEIGHT: Final = 0.2  # of the evidence of returns beside that average, where there is any
LOG_SIMILARITY, LOG_DIRECTION = log(SIMILARITY_WEIGHT), log(1.0 - SIMILARITY_WEIGHT)
LOG_BOTH, LOG_RETURNS = log(1.0 - RETURNS_WEIGHT), log(RETURNS_WEIGHT)


class EProcess:
    """Evidence against one account: a process for each of several bets on the same queries, averaged.

    One object for all bets, because there is one for each of 100,000 accounts.
    """

    __slots__ = ("logs", "steps")

    def __init__(self, bets: int = 1) -> None:
        self.steps = 0  # queries that were bet on
        self.logs = [-inf] * bets

    def update(self, log_e: Sequence[float]) -> None:
        """Take the natural logarithms of one more e-value a bet, never NaN."""
        self.steps = min(self.steps + 1, STEPS_MAX)
        begun, logs = log_start_weight(self.steps), []
        for before, value in zip(self.logs, log_e, strict=True):
            # log_add, written out: this runs for every query
            held = begun + log1p(exp(before - begun)) if before < begun else before + log1p(exp(begun - before))
            logs.append(min(value + held, LOG_EVIDENCE_MAX))
        self.logs = logs

    @property
    def log_evidence(self) -> float:
        return log_mean(self.logs)


def log_start_weight(step: int) -> float:
    """Return log w_t for t = `step` >= 1."""
    return -log(START_SUM * step) - 2.0 * log(log1p(step))


def log_add(one: float, other: float) -> float:
    """Return log(exp(one) + exp(other)) without overflow; either may be -inf."""
    high, low = (one, other) if one >= other else (other, one)
    return high if low == -inf else high + log1p(exp(low - high))


def log_mean(values: Sequence[float]) -> float:
    """Return the logarithm of the mean of exp(values): the average of several accounts of the same evidence."""
    high = max(values)
    if high == -inf:
        return -inf
    return high + log(sum([exp(value - high) for value in values]) / len(values))


@dataclass(frozen=True, slots=True, eq=False)
class Bet:
    """E-values for outcomes that benign traffic has seldom.

    log_e: float64 (bets, contexts, outcomes); outcome 0 is the ordinary one. One e-process for each bet: an attacker
    that hides in benign traffic is met by a small share, one that goes round among many things by other hopes.
    """

    log_e: NDArray[np.float64]
    pays: list[list[list[float]]] = field(init=False, repr=False)
    """The same by context, outcome and bet, in numbers of Python: one is taken for every query."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "pays", self.log_e.transpose(1, 2, 0).tolist())

    @classmethod
    def against(cls, bounds: NDArray[np.float64], bets: Sequence[tuple[float, Sequence[float]]]) -> Self:
        """Bet against upper bounds of what benign traffic does.

        Args:
            bounds: (contexts, outcomes): P(any outcome but the ordinary | context, past) of benign traffic is at most
                the first, P(outcome | context, past) at most each of the others.
            bets: which part of an attacker's traffic is attack, and hopes, (outcomes - 1,) summing to 1: how its attack
                spreads over the outcomes.

        For every distribution within the bounds the mean of exp(log_e) is at most 1.

        Raises:
            CalibrationInvalid: bounds that are not probabilities, or leave nothing for the ordinary outcome.
        """
        if bounds.ndim != 2 or not ((bounds > 0.0) & (bounds <= 1.0)).all() or not (bounds[:, 0] < 1.0).all():
            raise CalibrationInvalid("bounds", "no probabilities, or nothing is left for what is ordinary")
        tables = []
        for share, hopes in bets:
            ordinary = (1.0 - share) / (1.0 - bounds[:, 0])
            pays = np.maximum(share * np.array(hopes) / bounds[:, 1:], ordinary[:, None])
            table = np.column_stack([ordinary, pays])
            tables.append(np.log(table / np.array([[greatest_mean(*row)] for row in zip(table, bounds, strict=True)])))
        return cls(np.array(tables, np.float64))


def greatest_mean(pays: NDArray[np.float64], bounds: NDArray[np.float64]) -> float:
    """Return the most that pays, (outcomes,), the ordinary one's first and least, can mean within bounds of `Bet`.

    The mean is linear in the probabilities: what pays most is as likely as it may be, then the next.
    """
    left, mean = float(bounds[0]), 0.0
    for outcome in (1 + np.argsort(-pays[1:])).tolist():
        probability = min(float(bounds[outcome]), left)
        mean += probability * float(pays[outcome])
        left -= probability
    return mean + (1.0 - float(bounds[0]) + left) * float(pays[0])


def tails_of(bounds: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return p-values (contexts, outcomes): the bound on this outcome or one as rare; 1 for the ordinary one."""
    each = bounds[:, 1:]
    rarer = np.where(each[:, None, :] <= each[:, :, None], each[:, None, :], 0.0).sum(axis=2)
    return np.column_stack([np.ones(len(bounds)), np.minimum(rarer, bounds[:, :1])])


@dataclass(slots=True)
class Account:
    """What is remembered of one principal; `moving` and `motion` only from its first repeat on, `returning` from where
    returns are bet on.
    """

    tenant: str
    repeating: EProcess
    since_repeat: int = GAPS[-1]  # queries, counted up to where it makes no difference
    queries: int = 0
    repeats: int = 0
    seen_ns: int = 0
    moving: EProcess | None = None
    motion: Motion | None = None
    returning: EProcess | None = None

    @property
    def log_evidence(self) -> float:
        """Return the average of what the two screens have come to, and returns where they are bet on."""
        moving = -inf if self.moving is None else self.moving.log_evidence
        weighted = moving + LOG_DIRECTION
        both = log_add(self.repeating.log_evidence + LOG_SIMILARITY, weighted)
        if self.returning is None:
            return both
        return log_add(both + LOG_BOTH, self.returning.log_evidence + LOG_RETURNS)


def context_of(since_repeat: int) -> int:
    """Return the context of a query: how many queries ago the account's last repeat was, in steps of GAPS."""
    return sum(since_repeat >= gap for gap in GAPS)


def since(since_repeat: int, outcome: int) -> int:
    """Return how many queries ago the last repeat will be for the next query."""
    return 1 if outcome else min(since_repeat + 1, GAPS[-1])
