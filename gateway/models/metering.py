"""The query budget of one model version in this process: prices, accounts and proofs of work.

It joins `defenses.extraction` and the policy's `budget`; it outlives reloads of the policy. What a request has to do
with it stands in `gateway.request.metering`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from threading import Lock
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from defenses.budget.policy import Action, Mode
from defenses.errors import ProofInvalid
from defenses.extraction.budget import BudgetStep
from defenses.extraction.ledger import Ledger
from defenses.extraction.proof_of_work import SEED_BYTES, Difficulty, Toll
from gateway import errors
from gateway.admission.limiter import Decision

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from defenses.extraction.budget import Budget, Prices
    from gateway.auth.principal import Principal

    Rows = np.ndarray[Any, np.dtype[np.intp]]
    Actions = np.ndarray[Any, np.dtype[np.uint8]]

BUDGET_RULE = "extraction-budget"
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


class Payer(Protocol):
    """A request whose caller pays: who calls, the proof of work that came along, and where a refusal is noted."""

    @property
    def proof(self) -> str: ...

    def caller(self) -> Principal: ...

    def limited(self, decision: Decision, clock_ns: int | None = None) -> None: ...


class Chargeable(Protocol):
    """A request of a batch. `charge` is None until it was charged."""

    charge: Charge | None

    def caller(self) -> Principal: ...


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
        self, record: Payer, rules: BudgetRules | None, rows: int, now_ns: int, *, suspected: bool
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

    def _require_proof(self, record: Payer, bits: int, now_ns: int) -> None:
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
        items: Sequence[Chargeable],
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
                    item.charge = self._charged(item.caller(), rules, costs[first:end], now_ns)
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
