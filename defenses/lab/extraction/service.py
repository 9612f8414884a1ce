"""The victim as thieves meet it, with the query budget in force and a clock that they can wait on.

A theft takes days, so its cost is taken on a clock of its own: the same prices, accounts, steps and puzzles as in the
gateway (`defenses.extraction`), the model by its bundle, S1 refusing what it refuses, hardening. A gateway over gRPC
shows what an account gets in its first hour (`gateway.tools.lab`); both must agree on that.

What the thief pays is kept in `Bill`:
    answered        rows that were answered
    account_days    what they cost, in days' allowances of one account. Undefended: 0
    proof_hashes    hashes that were expected of him for proofs of work
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

import numpy as np
from numpy.typing import NDArray

from defenses.budget.hardening import HardeningRule, harden
from defenses.budget.screen import Evidence
from defenses.extraction.allowance import fit_budget
from defenses.extraction.budget import DAY_NS, FRESH, MILLI, TOP1_SHARE, Account, Budget, BudgetStep, Prices
from defenses.extraction.proof_of_work import Difficulty
from defenses.lab.attack import Answers, Lab, Model, Split
from defenses.screens.evidence import load_evidence

QUERIES_PER_DAY: Final = 1_000
HARDENING: Final = HardeningRule(top_k=3, temperature=1.0, decimals=3)
REFUSE_FPR_MAX: Final = 0.001
DEVELOP_ROWS: Final = 5_000
PREDICTION: Final = "probabilities"


@dataclass(frozen=True, slots=True, eq=False)
class Defence:
    """What stands between the model and the thief: S1's refusals, prices, the budget, puzzles, hardening."""

    prices: Prices
    budget: Budget
    refuse_level: float
    difficulty: Difficulty = field(default_factory=Difficulty)
    hardening: HardeningRule = HARDENING


@dataclass(slots=True)
class Bill:
    """What a theft has cost so far."""

    asked: int = 0
    answered: int = 0
    refused: int = 0
    price_units: float = 0.0
    account_days: float = 0.0
    proof_hashes: float = 0.0


@dataclass(slots=True)
class Service:
    """Implements Oracle. `until` is the last step that the thief's accounts go to before they wait for better days.

    Undefended (`defence` None) every row is answered in full, at no price. Defended, an account that reaches the end of
    `until` waits until it is below it again: the clock is moved on, and that is what `waited_days` says.
    """

    model: Model
    defence: Defence | None = None
    until: BudgetStep = BudgetStep.FULL
    accounts: int = 1
    bill: Bill = field(default_factory=Bill)
    now_ns: int = DAY_NS
    _held: dict[int, Account] = field(default_factory=dict)

    @property
    def waited_days(self) -> float:
        """How long the theft has taken, in days."""
        return (self.now_ns - DAY_NS) / DAY_NS

    def ask(self, rows: NDArray[np.float32], account: int = 0) -> Answers:
        """Answer rows float32 (n, *shape), in order; see `Oracle`. `account` is ignored: accounts take turns."""
        del account
        outputs = self.model.outputs(rows)
        prediction = np.asarray(outputs[PREDICTION], np.float32)
        self.bill.asked += len(rows)
        if self.defence is None:
            self.bill.answered += len(rows)
            return Answers(prediction, prediction.argmax(axis=1).astype(np.int64), np.ones(len(rows), np.bool_))
        judged = load_evidence(self.model.arrays()).judge(Evidence({}, outputs), rows=len(rows))
        refused = judged.p_values <= self.defence.refuse_level
        costs = self.defence.prices.cost(prediction, judged.p_values)
        shown = harden(prediction, self.defence.hardening)
        steps = np.array([self._charge(cost) for cost in costs.tolist()])
        only_top = steps != BudgetStep.FULL
        shown[only_top] = np.eye(self.model.classes, dtype=np.float32)[prediction[only_top].argmax(axis=1)]
        shown[refused] = np.nan
        labels = np.where(refused, -1, prediction.argmax(axis=1)).astype(np.int64)
        self.bill.answered += int((~refused).sum())
        self.bill.refused += int(refused.sum())
        return Answers(shown, labels, ~refused, refused | only_top)

    def _charge(self, cost_milli: int) -> BudgetStep:
        """Charge the account that owes least; wait where all of them are beyond `until`."""
        assert self.defence is not None, "charged where there is a budget"
        budget = self.defence.budget
        chosen = min(range(self.accounts), key=lambda number: self._held.get(number, FRESH).free_at_ns)
        account = self._held.get(chosen, FRESH)
        ends = {BudgetStep.FULL: budget.top1_after, BudgetStep.TOP1: budget.proof_after}
        end_days = ends.get(self.until, budget.refuse_after)
        over_days = budget.debt_days(account, self.now_ns) - end_days
        if over_days >= 0.0:
            self.now_ns += int(over_days * DAY_NS) + 1_000_000
        beyond = budget.debt_days(account, self.now_ns) - budget.proof_after
        self._held[chosen], step = budget.charge(account, cost_milli, self.now_ns, proven=True)
        if step == BudgetStep.PROOF_OF_WORK:
            self.bill.proof_hashes += 2.0 ** self.defence.difficulty.bits_for(beyond)
        share = 1.0 if step == BudgetStep.FULL else TOP1_SHARE
        self.bill.price_units += cost_milli * share / MILLI
        self.bill.account_days = self.bill.price_units / budget.units
        return step


def open_defence(lab: Lab, model: Model, seed: int) -> Defence:
    """Return the defence by the bundle's calibration; where it has none of a budget yet, by rows held out for it."""
    arrays = dict(model.arrays())
    evidence = load_evidence(arrays)
    if "budget.scale" not in arrays:
        rows = lab.rows(model.name, Split.DEVELOP, DEVELOP_ROWS, seed).rows
        outputs = model.outputs(rows)
        p_values = evidence.judge(Evidence({}, outputs), rows=len(rows)).p_values
        arrays |= fit_budget(np.asarray(outputs[PREDICTION]), p_values, seed=seed)[0]
    return Defence(
        Prices.from_calibration(arrays),
        Budget.from_calibration(arrays, QUERIES_PER_DAY),
        evidence.calibration.level(REFUSE_FPR_MAX),
    )
