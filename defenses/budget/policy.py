"""From p-values to actions: pure, vectorised, and the only place in the package that decides.

- A screen's verdict on a row is pass, flag or refuse, by its rule's two levels of p.
- An enforcing screen's verdict moves the row's action; a shadow screen's is recorded and moves nothing.
- A row's action is the strongest that any enforcing screen asks for: allow < flag < harden < refuse. Between them stand
  the steps that an account reaches by all that it asked (`defenses.budget.steps`).
- Fail closed: a p-value that is not a number reaches every level; a rule whose screen gave no p-values is an error.

False-positive rates of several enforcing screens add up (union bound); the levels are per screen.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum, StrEnum

import numpy as np
from numpy.typing import NDArray

from defenses.budget.calibration import CONFIDENCE, ConformalCalibration
from defenses.errors import EvidenceInvalid, RuleInvalid, ScreenMissing

_MICRO = 1_000_000
_MICRO_MAX = 2**53 - 1  # the record's integers


class Mode(StrEnum):
    ENFORCE = "enforce"
    SHADOW = "shadow"


class Verdict(IntEnum):
    PASS = 0
    FLAG = 1
    REFUSE = 2


class Action(IntEnum):
    """From the mildest. Those after HARDEN come from the account's step, REFUSE from either."""

    ALLOW = 0
    FLAG = 1
    HARDEN = 2
    NEIGHBOUR = 3
    PROOF_OF_WORK = 4
    TOP1 = 5
    COOL_DOWN = 6
    REFUSE = 7


_FLAGGED = np.array([Action.ALLOW, Action.FLAG, Action.REFUSE], np.uint8)  # the action by verdict
_HARDENED = np.array([Action.ALLOW, Action.HARDEN, Action.REFUSE], np.uint8)


@dataclass(frozen=True, slots=True)
class ScreenRule:
    """A row is flagged where p <= flag_alpha and refused where p <= refuse_alpha; 0 means never.

    These are levels of p, compared as they are. To bound the false-positive rate, not just its average over calibration
    sets, take them from `calibrated_rule`.
    """

    mode: Mode
    flag_alpha: float
    refuse_alpha: float
    threshold_micro: NDArray[np.int64] = field(init=False, repr=False, compare=False)  # by verdict, for the record

    def __post_init__(self) -> None:
        if self.mode not in tuple(Mode):
            raise RuleInvalid("mode", "neither enforce nor shadow")
        if not 0.0 <= self.flag_alpha <= 1.0:
            raise RuleInvalid("flag_alpha", f"{self.flag_alpha}: outside [0, 1]")
        if not 0.0 <= self.refuse_alpha <= self.flag_alpha:
            raise RuleInvalid("refuse_alpha", f"{self.refuse_alpha}: outside [0, flag_alpha = {self.flag_alpha}]")
        by_verdict = micro(np.array([self.flag_alpha, self.flag_alpha, self.refuse_alpha]))
        object.__setattr__(self, "threshold_micro", by_verdict)


def calibrated_rule(
    mode: Mode,
    calibration: ConformalCalibration,
    *,
    flag_fpr_max: float,
    refuse_fpr_max: float,
    confidence: float = CONFIDENCE,
) -> ScreenRule:
    """Turn rates, as an operator writes them, into levels that keep them; 0 means never.

    CalibrationTooSmall when the calibration set cannot promise the rate; RuleInvalid for rates outside [0, 1).
    """

    def level(field: str, fpr_max: float) -> float:
        if not 0.0 <= fpr_max < 1.0:
            raise RuleInvalid(field, f"{fpr_max}: outside [0, 1)")
        return calibration.level(fpr_max, confidence) if fpr_max else 0.0

    return ScreenRule(mode, level("flag_fpr_max", flag_fpr_max), level("refuse_fpr_max", refuse_fpr_max))


@dataclass(frozen=True, slots=True, eq=False)
class ScreenVerdicts:
    """One screen's view of a batch, in the integers of the record; arrays are (rows,).

    `threshold_micro` is on p: the refuse level where the verdict is refuse, else the flag level. So a reader sees
    p <= threshold exactly where the verdict is not pass.
    """

    name: str
    mode: Mode
    verdicts: NDArray[np.uint8]
    p_micro: NDArray[np.int64]
    threshold_micro: NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class Decisions:
    """`action` is uint8 (rows,) of Action; `screens` stand in the order of the rules."""

    action: NDArray[np.uint8]
    screens: tuple[ScreenVerdicts, ...]


def decide(
    p_values: Mapping[str, NDArray[np.float64]],
    rules: Mapping[str, ScreenRule],
    *,
    rows: int,
    harden_flagged: bool = False,
) -> Decisions:
    """Decide a batch. `p_values` may hold screens without a rule: they are not judged and not recorded.

    With `harden_flagged` a row that would be flagged is answered, but hardened. ScreenMissing for a rule without
    p-values, EvidenceInvalid for p-values of another shape than (rows,).
    """
    action = np.zeros(rows, np.uint8)
    screens = []
    moved = _HARDENED if harden_flagged else _FLAGGED
    for name, rule in rules.items():
        if name not in p_values:
            raise ScreenMissing(name)
        if p_values[name].shape != (rows,):
            raise EvidenceInvalid(name, f"p-values of shape {p_values[name].shape} for {rows} rows")
        p = np.fmax(p_values[name], 0.0)  # NaN becomes 0, which reaches every level; a real p is above 0
        verdicts = (p <= rule.flag_alpha).view(np.uint8) + (p <= rule.refuse_alpha).view(np.uint8)
        screens.append(ScreenVerdicts(name, rule.mode, verdicts, micro(p), rule.threshold_micro[verdicts]))
        if rule.mode == Mode.ENFORCE:
            np.maximum(action, moved[verdicts], out=action)
    return Decisions(action, tuple(screens))


def micro(values: NDArray[np.float64]) -> NDArray[np.int64]:
    """Integer micro-units for the record: to the nearest, held within +-(2^53 - 1); NaN becomes the least of them."""
    return np.asarray(np.rint(np.fmin(np.fmax(values * _MICRO, -_MICRO_MAX), _MICRO_MAX)), np.int64)


@dataclass(frozen=True, slots=True, eq=False)
class RequestVerdicts:
    """One screen's view of each request in a batch, taken from the request's worst row; arrays are (requests,)."""

    name: str
    mode: Mode
    verdicts: NDArray[np.uint8]
    p_micro: NDArray[np.int64]
    score_micro: NDArray[np.int64]
    threshold_micro: NDArray[np.int64]


def by_request(
    decisions: Decisions, scores: Mapping[str, NDArray[np.float64]], starts: NDArray[np.intp]
) -> tuple[NDArray[np.uint8], tuple[RequestVerdicts, ...]]:
    """Fold rows into requests: `starts` holds each request's first row, ascending from 0, and no request is empty.

    Returns the action of each request, the strongest of its rows', uint8 (requests,), and what to record per screen.
    """
    if starts.size == len(decisions.action):  # every request has one row: nothing to fold
        return decisions.action, tuple(
            RequestVerdicts(s.name, s.mode, s.verdicts, s.p_micro, micro(scores[s.name]), s.threshold_micro)
            for s in decisions.screens
        )
    return np.maximum.reduceat(decisions.action, starts), tuple(
        RequestVerdicts(
            s.name,
            s.mode,
            np.maximum.reduceat(s.verdicts, starts),
            np.minimum.reduceat(s.p_micro, starts),
            micro(np.maximum.reduceat(scores[s.name], starts)),
            # The worst row's: a refuse level is never above its flag level.
            np.minimum.reduceat(s.threshold_micro, starts),
        )
        for s in decisions.screens
    )
