"""The victim as thieves meet it, with the query budget in force and a clock that they can wait on; and its first day.

A theft takes days, so its cost is taken on a clock of its own: the same prices, accounts and steps as in the gateway
(`defenses.extraction`), the model by its bundle, S1 refusing what it refuses, hardening. A thief stays within full
answers: where his account has had a day's worth, he waits. What he pays is kept in `Bill`.

`first_day` is the check on these costs. One account asks natural images as fast as it can, through the service itself,
until nothing is answered. The answers in full and of the class alone together must be what the prices of the same rows
say; that stands beside them in the trial.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

import numpy as np
from numpy.typing import NDArray

from defenses.budget.hardening import HardeningRule, harden
from defenses.budget.screen import Evidence
from defenses.extraction.allowance import fit_budget
from defenses.extraction.budget import DAY_NS, FRESH, MILLI, TOP1_SHARE, Account, Budget, Prices
from defenses.lab.attack import Answers, Finding, Model, Oracle, Refused, Run, Size, Split
from defenses.screens.evidence import load_evidence

QUERIES_PER_DAY: Final = 1_000
POLICY: Final = {"budget": {"mode": "enforce", "queries_per_day": QUERIES_PER_DAY}}
HARDENING: Final = HardeningRule(top_k=3, temperature=1.0, decimals=3)
REFUSE_FPR_MAX: Final = 0.001
DEVELOP_ROWS: Final = 5_000
ASKED: Final = {Size.SMOKE: 300, Size.FULL: 3_000}
CHUNK_ROWS: Final = 50
PREDICTION: Final = "probabilities"


@dataclass(frozen=True, slots=True, eq=False)
class Defence:
    """What stands between the model and the thief: S1's refusals, prices, the budget, hardening."""

    prices: Prices
    budget: Budget
    refuse_level: float
    hardening: HardeningRule = HARDENING


@dataclass(slots=True)
class Bill:
    """What a theft has cost so far. `account_days`: in days' allowances of one account; undefended 0."""

    asked: int = 0
    answered: int = 0
    refused: int = 0
    price_units: float = 0.0
    account_days: float = 0.0


@dataclass(slots=True)
class Service:
    """Implements Oracle. Undefended (`defence` None) every row is answered in full, at no price.

    Defended, an account that has had its full answers waits until there are more: the clock is moved on, and that is
    what `waited_days` says.
    """

    model: Model
    defence: Defence | None = None
    accounts: int = 1
    bill: Bill = field(default_factory=Bill)
    now_ns: int = DAY_NS
    _account: Account = FRESH

    @property
    def waited_days(self) -> float:
        """How long the theft has taken, in days."""
        return (self.now_ns - DAY_NS) / DAY_NS

    def ask(self, rows: NDArray[np.float32], account: int = 0) -> Answers:
        """Answer rows float32 (n, *shape), in order; see `Oracle`."""
        del account  # there is one
        outputs = self.model.outputs(rows)
        prediction = np.asarray(outputs[PREDICTION], np.float32)
        labels = prediction.argmax(axis=1).astype(np.int64)
        refused, released = np.zeros(len(rows), np.bool_), prediction
        if self.defence is not None:
            judged = load_evidence(self.model.arrays()).judge(Evidence({}, outputs), rows=len(rows))
            refused = judged.p_values <= self.defence.refuse_level
            for cost in self.defence.prices.cost(prediction, judged.p_values).tolist():
                self._charge(self.defence.budget, cost)
            released = harden(prediction, self.defence.hardening)
            released[refused] = np.nan
        self.bill.asked += len(rows)
        self.bill.answered += int((~refused).sum())
        self.bill.refused += int(refused.sum())
        return Answers(released, np.where(refused, -1, labels), ~refused, refused)

    def _charge(self, budget: Budget, cost_milli: int) -> None:
        """Charge a row, after waiting where the account owes more than full answers allow."""
        over_days = budget.debt_days(self._account, self.now_ns) - budget.top1_after
        if over_days >= 0.0:
            self.now_ns += int(over_days * DAY_NS) + 1_000_000
        self._account, _ = budget.charge(self._account, cost_milli, self.now_ns, proven=True)
        self.bill.price_units += cost_milli / MILLI
        self.bill.account_days = self.bill.price_units / budget.units


def open_defence(run: Run) -> Defence:
    """Return the defence by the bundle's calibration; where it has none of a budget yet, by rows held out for it."""
    model = run.victim()
    arrays = dict(model.arrays())
    evidence = load_evidence(arrays)
    if "budget.scale" not in arrays:
        rows = run.rows(Split.DEVELOP, DEVELOP_ROWS).rows
        outputs = model.outputs(rows)
        p_values = evidence.judge(Evidence({}, outputs), rows=len(rows)).p_values
        arrays |= fit_budget(np.asarray(outputs[PREDICTION]), p_values, seed=run.seed)[0]
    return Defence(
        Prices.from_calibration(arrays),
        Budget.from_calibration(arrays, QUERIES_PER_DAY),
        evidence.calibration.level(REFUSE_FPR_MAX),
    )


def first_day(run: Run) -> list[Finding]:
    """Let one account ask until it is not answered any more: undefended, defended."""
    model = run.victim()
    rows = run.rows(Split.TRAIN, ASKED[run.lab.size]).rows
    outputs = model.outputs(rows)
    p_values = load_evidence(model.arrays()).judge(Evidence({}, outputs), rows=len(rows)).p_values
    defence = open_defence(run)
    priced = "budget.scale" in model.arrays()
    full, top1 = expected(defence, defence.prices.cost(np.asarray(outputs[PREDICTION]), p_values))
    findings = []
    for defended in (False, True):
        in_force = defended and priced
        with run.oracle(defended=defended, changes=POLICY if in_force else None) as oracle:
            counts = _counts(run, oracle, rows)
        if defended:
            counts |= {"expected_full": float(full), "expected_top1": float(top1)}
        settings = {
            "success": "rows answered to one account without a proof of work",
            "units_per_day": round(defence.budget.units, 1),
            "budget": "in force" if in_force else "none",
        }
        successes = int(counts["full"] + counts["top1"])
        findings.append(Finding(len(rows), successes, counts, settings, defended=defended))
    return findings


def expected(defence: Defence, costs_milli: NDArray[np.int64]) -> tuple[int, int]:
    """Return how many of these rows one account is told in full, and then the class alone of, asked all at once."""
    budget = defence.budget
    days = costs_milli / (MILLI * budget.units)
    owed = np.concatenate([[0.0], days.cumsum()])  # before each row, while all is told
    full = min(int(np.searchsorted(owed, budget.top1_after, side="left")), len(days))
    owed = owed[full] + np.concatenate([[0.0], (days[full:] * TOP1_SHARE).cumsum()])
    return full, min(int(np.searchsorted(owed, budget.proof_after, side="left")), len(days) - full)


def _counts(run: Run, oracle: Oracle, rows: NDArray[np.float32]) -> dict[str, float]:
    counts = {"full": 0.0, "top1": 0.0, "refused": 0.0, "asked": 0.0}
    for first in range(0, len(rows), CHUNK_ROWS):
        chunk = rows[first : first + CHUNK_ROWS]
        counts["asked"] += len(chunk)
        try:
            answers = oracle.ask(chunk)
        except Refused:
            counts["refused"] += len(chunk)
            break
        alone = _class_alone(answers)
        counts["full"] += float((answers.answered & ~alone).sum())
        counts["top1"] += float((answers.answered & alone).sum())
        counts["refused"] += float((~answers.answered).sum())
        run.tell(first + len(chunk), len(rows))
    return counts


def _class_alone(answers: Answers) -> NDArray[np.bool_]:
    """Say which answers are of one class alone. Rows that the model is all but sure of, rounded, look so too."""
    return np.asarray(np.nanmax(np.where(answers.answered[:, None], answers.probabilities, 0.0), axis=1) >= 1.0)
