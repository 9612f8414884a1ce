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

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from defenses.budget.policy import Action, Mode
from defenses.errors import DefenseError
from gateway import errors
from gateway.models.metering import BUDGET_RULE

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from gateway.models.metering import Metered
    from gateway.models.rules import ModelRules
    from gateway.request.item import Item
    from gateway.request.judgement import Judgement
    from gateway.request.record import Record

    Rows = np.ndarray[Any, np.dtype[np.intp]]
    Actions = np.ndarray[Any, np.dtype[np.uint8]]

SPENT_RETRY_MS = 60_000


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
