"""What the policy says of a version's budget, as the rules that the pipeline applies."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from defenses.budget.policy import Mode
from defenses.errors import RuleInvalid
from defenses.extraction.budget import NAME, Budget
from defenses.extraction.proof_of_work import Difficulty
from gateway.config.document import PolicyRejected
from gateway.models.metering import BudgetRules

if TYPE_CHECKING:
    from gateway.policy.budget import ExtractionBudget
    from serving.bundles.bundle import Bundle


def budget_rules(budget: ExtractionBudget, bundle: Bundle, prediction: str | None) -> BudgetRules:
    """Return the rules. PolicyRejected where the bundle has no prediction, or no calibration of what answers cost."""
    where = f"models.{bundle.name}.budget"
    if prediction is None:
        raise PolicyRejected([f"{where}: the bundle has no output of rows x classes that this could be about"])
    if not any(name.startswith(f"{NAME}.") for name in bundle.calibration):
        problem = "the bundle has no calibration of a budget; make it with `stockade defenses calibrate`"
        raise PolicyRejected([f"{where}: {problem}"])

    def of(queries: int) -> Budget:
        try:
            return replace(
                Budget.from_calibration(bundle.calibration, queries),
                top1_after=budget.top1_after_days,
                proof_after=budget.proof_after_days,
                refuse_after=budget.refuse_after_days,
            )
        except RuleInvalid as problem:
            raise PolicyRejected([f"{where}.{problem.field}: {problem.problem}"]) from problem

    return BudgetRules(
        mode=Mode(budget.mode),
        budget=of(budget.queries_per_day),
        by_class={name: None if queries is None else of(queries) for name, queries in budget.classes.items()},
        difficulty=Difficulty(budget.proof.bits, budget.proof.bits_max, budget.proof.days_per_bit),
    )
