"""The query budget in the request path: who still has means, what a batch's answers cost, what they may be.

It brings together `defenses.extraction` (prices, accounts, proofs of work) and the policy's `budget`. One object a
model version and process; it outlives reloads of the policy.

Rules:
- Before anything is computed a caller without means is refused: QUOTA_EXCEEDED, or PROOF_OF_WORK_WANTED with a
  challenge. A proof is taken once, before the model runs, whether the request is answered after that or not.
- After the model ran each row is charged, and rows beyond the first step tell the likeliest class alone. A request
  that runs into the end of the budget half way is refused as a whole.
- What a screen refuses is charged too: it was looked at.
- A request is charged once, however often it is judged.
- Accounts that the watch holds for one are one account here.
- In shadow all of it is charged and recorded, and nothing is done.
- The accounts are this process's. With several workers a caller has as many budgets as he has connections to different
  workers, at most: docs/explanation/defenses.md.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from threading import Lock
from typing import TYPE_CHECKING, Any

import numpy as np

from defenses.budget.policy import Action, Mode
from defenses.errors import DefenseError, ProofInvalid
from defenses.extraction.budget import BudgetStep
from defenses.extraction.ledger import Ledger
from defenses.extraction.proof_of_work import SEED_BYTES, Difficulty, Toll
from gateway import errors
from gateway.admission.limiter import Decision

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from defenses.extraction.budget import Budget, Prices
    from gateway.auth.principal import Principal
    from gateway.request.judgement import Judgement
    from gateway.request.record import Record
    from gateway.request.state import Item, ModelRules

    Rows = np.ndarray[Any, np.dtype[np.intp]]
    Actions = np.ndarray[Any, np.dtype[np.uint8]]

BUDGET_RULE = "extraction-budget"
SPENT_RETRY_MS = 60_000
DIFFICULTY = Difficulty()  # where the policy has steps of a watch, and no budget
STEP_NAMES = {step: step.name.lower() for step in BudgetStep}
ACTIONS = {
    BudgetStep.FULL: Action.ALLOW,
    BudgetStep.TOP1: Action.TOP1,
    BudgetStep.PROOF_OF_WORK: Action.TOP1,  # the proof was taken at the door
    BudgetStep.REFUSE: Action.TOP1,  # of a row; the request is refused
}


@dataclass(frozen=True, slots=True)
class BudgetRules:
    """What the policy says of a version's budget; `by_class` where a priority class has its own, None for none."""

    mode: Mode
    budget: Budget
    by_class: Mapping[str, Budget | None]
    difficulty: Difficulty

    def of(self, priority_class: str) -> Budget | None:
        """Return the budget of an account of this class."""
        return self.by_class.get(priority_class, self.budget)


@dataclass(slots=True)
class Metering:
    """Prices and accounts of one model version in this process. `account_of` names a principal's account."""

    prices: Prices | None
    toll: Toll
    account_of: Callable[[str], str]
    draw: Callable[[int], bytes]
    ledger: Ledger = field(default_factory=Ledger)
    _lock: Lock = field(default_factory=Lock)

    def require_means(
        self, record: Record, rules: BudgetRules | None, rows: int, now_ns: int, *, suspected: bool
    ) -> None:
        """Refuse a caller who has to prove work and has not, or whose budget is spent.

        `suspected`: the watch wants a proof of work, whatever the budget says.

        Raises:
            QuotaExceeded, ProofOfWorkWanted: as above.
        """
        caller = record.caller()
        budget = None if rules is None or rules.mode != Mode.ENFORCE else rules.of(caller.priority_class)
        difficulty = DIFFICULTY if rules is None else rules.difficulty
        beyond_days, step = 0.0, BudgetStep.FULL
        if budget is not None:
            account = self.ledger.of(self.account_of(caller.name))
            beyond_days, step = budget.debt_days(account, now_ns) - budget.proof_after, budget.step(account, now_ns)
            if step == BudgetStep.REFUSE:
                retry_ms = budget.retry_after_ms(account, now_ns) + 1
                record.limited(Decision(False, BUDGET_RULE, int(budget.units), 0, retry_ms, retry_ms))
                raise errors.QuotaExceeded(BUDGET_RULE, retry_ms)
        if step == BudgetStep.PROOF_OF_WORK or suspected:
            self._require_proof(record, difficulty.bits_for(beyond_days, rows), now_ns)

    def snapshot(self) -> bytes:
        """Return who owes what. From any thread; batches go on meanwhile."""
        return self.ledger.snapshot(self._lock)

    def _require_proof(self, record: Record, bits: int, now_ns: int) -> None:
        name = record.caller().name
        try:
            if record.proof:
                self.toll.take(name, record.proof, bits, now_ns)
                return
        except ProofInvalid:
            pass  # he gets a new challenge, and is not told what was wrong with the old one
        raise errors.ProofOfWorkWanted(self.toll.ask(name, bits, now_ns, self.draw(SEED_BYTES)))

    def charge(
        self,
        items: Sequence[Item],
        rules: BudgetRules,
        prediction: np.ndarray[Any, Any],
        p_values: np.ndarray[Any, np.dtype[np.float64]],
        *,
        repeated: list[int],
        starts: Rows,
        now_ns: int,
    ) -> Metered:
        """Charge what a batch's rows cost to their callers; a `repeated` row costs less. Raises DefenseError.

        A request that was charged before, in a batch that failed behind this, is not charged again.
        """
        assert self.prices is not None, "the policy asks for a budget only where there are prices"
        novelty = np.ones(len(prediction))
        novelty[repeated] = 0.0
        costs = self.prices.cost(prediction, p_values, novelty=novelty).tolist()
        ends = [*starts[1:].tolist(), len(costs)]
        charges = []
        with self._lock:
            for item, first, end in zip(items, starts.tolist(), ends, strict=True):
                if item.charge is None:
                    item.charge = self._charged(item.record.caller(), rules, costs[first:end], now_ns)
                charges.append(item.charge)
        return Metered(rules.mode, charges)

    def _charged(self, caller: Principal, rules: BudgetRules, costs_milli: list[int], now_ns: int) -> Charge:
        """Charge a request's rows to its caller's account."""
        budget = rules.of(caller.priority_class)
        if budget is None:
            return Charge(sum(costs_milli), [BudgetStep.FULL] * len(costs_milli), 0.0)
        name = self.account_of(caller.name)
        self.ledger.join(name, caller.name, budget, now_ns)
        row_steps = [self.ledger.charge(name, budget, cost, now_ns, proven=True) for cost in costs_milli]
        return Charge(sum(costs_milli), row_steps, budget.debt_days(self.ledger.of(name), now_ns))


@dataclass(frozen=True, slots=True)
class Charge:
    """What a request was charged, and on which step each of its rows stood then."""

    cost_milli: int
    row_steps: list[BudgetStep]
    debt_days: float

    @property
    def step(self) -> BudgetStep:
        """The furthest step that any of the rows stood on."""
        return max(self.row_steps)


@dataclass(frozen=True, slots=True, eq=False)
class Metered:
    """What a batch was charged: one of `charges` a request."""

    mode: Mode
    charges: list[Charge]

    def row_actions(self) -> Actions:
        """Return what the budget asks for of each row, uint8 (rows,): nothing in shadow."""
        asked = [ACTIONS[step] for charge in self.charges for step in charge.row_steps]
        return np.array(asked, np.uint8) if self.mode == Mode.ENFORCE else np.zeros(len(asked), np.uint8)

    def spent(self, position: int) -> bool:
        """Say whether a request ran into the end of its caller's budget, and is refused for it."""
        return self.mode == Mode.ENFORCE and self.charges[position].step == BudgetStep.REFUSE

    def budget_json(self, position: int) -> str:
        """Return the `budget` part of a request's record, canonical JSON."""
        charge = self.charges[position]
        return (
            f'{{"cost_milli":{charge.cost_milli},"debt_millidays":{round(charge.debt_days * 1000)},'
            f'"mode":"{self.mode.value}","step":"{STEP_NAMES[charge.step]}"}}'
        )


def require_means(record: Record, rules: ModelRules, rows: int, now_ns: int) -> None:
    """Refuse a caller without means before anything is computed for him; see `Metering.require_means`."""
    metering, watching = rules.served.metering, rules.served.watching
    if metering is None or (rules.budget is None and rules.watch is None):
        return
    suspected = (
        rules.watch is not None
        and watching is not None
        and rules.watch.mode == Mode.ENFORCE
        and watching.standings.of(record.caller().name, now_ns) == Action.PROOF_OF_WORK
    )
    metering.require_means(record, rules.budget, rows, now_ns, suspected=suspected)


def meter(
    items: Sequence[Item],
    rules: ModelRules,
    judgement: Judgement,
    *,
    outputs: Mapping[str, np.ndarray[Any, Any]],
    repeated: list[int],
    starts: Rows,
    now_ns: int,
) -> tuple[Judgement, Metered | None]:
    """Charge a batch, where the policy has a budget, and return the judgement with what follows from it.

    `repeated` are rows that get an earlier answer: they tell little. A batch that cannot be priced fails closed.
    """
    metering = rules.served.metering
    if rules.budget is None or metering is None or rules.prediction is None:
        return judgement, None
    p_values = least_p(judgement, rules)
    try:
        metered = metering.charge(
            items,
            rules.budget,
            outputs[rules.prediction],
            p_values,
            repeated=repeated,
            starts=starts,
            now_ns=now_ns,
        )
    except DefenseError as problem:
        raise errors.ScreenUnavailable from problem
    if metered.mode != Mode.ENFORCE:
        return judgement, metered
    asked = metered.row_actions()
    row_actions = np.maximum(judgement.row_actions, asked)
    actions = np.maximum(judgement.actions, np.maximum.reduceat(asked, starts)).tolist()
    return replace(judgement, row_actions=row_actions, actions=actions), metered


def budget_spent() -> errors.QuotaExceeded:
    """Return the refusal of a request that ran into the end of its caller's budget."""
    return errors.QuotaExceeded(BUDGET_RULE, SPENT_RETRY_MS)


def least_p(judgement: Judgement, rules: ModelRules) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Return the p-value of the stateless screens together, float64 (rows,): their least times their number."""
    found = [p_values for name, _, p_values in judgement.rows if name in rules.screens]
    if not found:
        return np.ones(len(judgement.row_actions))
    least: np.ndarray[Any, np.dtype[np.float64]] = np.minimum(np.minimum.reduce(found) * len(found), 1.0)
    return least
