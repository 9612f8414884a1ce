"""The watch over accounts in the request path: what a batch's callers have asked before, and what becomes of it.

It brings together `defenses.accounts.watch` (what an account's questions look like), `defenses.budget.steps` (where
that puts it) and the policy's `watch`. One object a model version and process; it outlives reloads of the policy.

Rules:
- Every row that reached the model is remembered, whatever becomes of it: what is refused is evidence too.
- A request is looked at once, however often it is judged.
- A row that is answered with an earlier answer carries nothing of its own: outputs of which the earlier ones are not
  kept (latents) are zero in it.
- In shadow all of it is recorded and nothing is done.
- Several batch threads may come at once: a lock makes one of them wait.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from defenses.budget.hardening import HardeningRule, harden
from defenses.budget.policy import Action, Mode
from defenses.errors import DefenseError
from gateway import errors
from gateway.admission.limiter import Decision

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from gateway.models.rules import ModelRules
    from gateway.models.watching import Watched
    from gateway.request.inference import Inferred
    from gateway.request.item import Item
    from gateway.request.record import Record

    Tensors = Mapping[str, np.ndarray[Any, Any]]
    Rows = np.ndarray[Any, np.dtype[np.intp]]
    Actions = np.ndarray[Any, np.dtype[np.uint8]]

COOL_DOWN_RETRY_MS = 1000
COOL_DOWN = "cool-down"  # what the record says
COOL_DOWN_RULE = "principal-requests"  # what a caller is told: the name of an ordinary limit
TOP1 = HardeningRule(top_k=1, temperature=1.0, decimals=0)


def watch(items: Sequence[Item], rules: ModelRules, inferred: Inferred, now_ns: int) -> Watched | None:
    """Have the watch look at a batch, where the policy has one. A watch that cannot look fails closed.

    A request that was looked at before, in a batch that failed behind this, is judged alone, and not looked at again.
    """
    watching = rules.served.watching
    if rules.watch is None or watching is None:
        return None
    if items[0].watched is not None:
        watched, position = items[0].watched
        return watched.only(position)
    try:
        watched = watching.observe(
            [item.record.caller() for item in items],
            rules.watch,
            inputs=inferred.inputs,
            outputs=inferred.outputs,
            starts=inferred.starts,
            now_ns=now_ns,
        )
    except DefenseError as problem:
        raise errors.ScreenUnavailable from problem
    for position, item in enumerate(items):
        item.watched = watched, position
    return watched


def given_again(watched: Watched | None, row_actions: Actions) -> list[int]:
    """Return the rows that get an earlier answer: those close to an earlier question, where step or policy wants it."""
    if watched is None or not watched.seen.anchors:
        return []
    always = watched.rules.consistent == Mode.ENFORCE
    return [row for row in watched.seen.anchors if always or row_actions[row] >= Action.NEIGHBOUR]


def with_earlier(outputs: Tensors, watched: Watched | None, rows: Sequence[int]) -> Tensors:
    """Return the outputs with the earlier answer in these rows."""
    if watched is None or not rows:
        return outputs
    given = {name: values.copy() for name, values in outputs.items()}
    for row in rows:
        earlier = watched.seen.anchors[row]
        for name, values in given.items():
            values[row] = earlier[name][0] if name in earlier else np.zeros_like(values[row])
    return given


def top_class_only(outputs: Tensors, row_actions: Actions, prediction: str | None) -> Tensors:
    """Return the outputs with the likeliest class alone where the account's step wants it; all else is zero there."""
    chosen = row_actions >= Action.TOP1
    if not chosen.any():
        return outputs
    given = {name: values.copy() for name, values in outputs.items()}
    for name, values in given.items():
        if name == prediction:
            values[chosen] = harden(values[chosen], TOP1)
        elif values.dtype.kind in "fiu":
            values[chosen] = 0
    return given


def require_warm(record: Record, rules: ModelRules, now_ns: int) -> None:
    """RateLimited for an account that has to cool down, before anything is computed for it; it looks like any limit."""
    watching = rules.served.watching
    if rules.watch is None or watching is None or rules.watch.mode != Mode.ENFORCE:
        return
    if watching.standings.of(record.caller().name, now_ns) == Action.COOL_DOWN:
        burst = record.rate.limit if record.rate is not None else 1
        record.limited(Decision(False, COOL_DOWN, burst, 0, COOL_DOWN_RETRY_MS, COOL_DOWN_RETRY_MS))
        raise cooling_down()


def cooling_down() -> errors.RateLimited:
    """Return the refusal of an account that has to cool down."""
    return errors.RateLimited(COOL_DOWN_RULE, COOL_DOWN_RETRY_MS)
