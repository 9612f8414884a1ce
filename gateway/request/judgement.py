"""From what the model saw to what may leave: screens, the policy's decision, hardening, and what the record keeps.

It only brings together what `defenses` decides. Any failure of a screen is ScreenUnavailable for
the whole batch: a screen that cannot judge fails closed.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from defenses.budget.hardening import harden
from defenses.budget.policy import Action, Verdict, by_request, decide
from defenses.budget.screen import Evidence
from defenses.errors import DefenseError
from gateway import errors
from gateway.request.record import quoted

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from defenses.budget.policy import RequestVerdicts
    from gateway.models.rules import ModelRules
    from gateway.models.watching import Watched

    RowsJudged = Sequence[tuple[str, np.ndarray[Any, np.dtype[np.uint8]], np.ndarray[Any, np.dtype[np.float64]]]]

Tensors = dict[str, np.ndarray[Any, Any]]
DECISIONS = {action: action.name.lower() for action in Action}
VERDICTS = tuple(verdict.name.lower() for verdict in Verdict)


@dataclass(frozen=True, slots=True, eq=False)
class Judgement:
    """`row_actions` is uint8 (rows,); `actions`, `screens_json` and `accounts_json` have one item a request.

    `steps` counts the requests of accounts that stand on a step, by its name. `rows` holds what each screen said of
    each row: its name, verdicts uint8 (rows,), p-values float64 (rows,). `account_rows` has the same of the watch's
    screens, whose p-values are not uniform: most of what is benign has 1.
    """

    row_actions: np.ndarray[Any, np.dtype[np.uint8]]
    actions: list[int]
    screens_json: Sequence[str | None]
    accounts_json: Sequence[str | None]
    rows: RowsJudged
    steps: Mapping[str, int] = field(default_factory=dict)
    account_rows: RowsJudged = ()


def judge(
    rules: ModelRules,
    inputs: Mapping[str, Any],
    outputs: Mapping[str, Any],
    starts: np.ndarray[Any, Any],
    rows: int,
    *,
    watched: Watched | None = None,
) -> Judgement:
    """Score, calibrate and decide a batch; `starts` holds the first row of each request."""
    evidence = Evidence(inputs, outputs)
    try:
        judged = {name: screen.calibrated.judge(evidence, rows=rows) for name, screen in rules.screens.items()}
        decisions = decide(
            {name: one.p_values for name, one in judged.items()},
            rules.screen_rules,
            rows=rows,
            harden_flagged=rules.harden_flagged,
        )
        actions, verdicts = by_request(decisions, {name: one.scores for name, one in judged.items()}, starts)
    except DefenseError as problem:
        raise errors.ScreenUnavailable from problem
    rows_judged = [(view.name, view.verdicts, judged[view.name].p_values) for view in decisions.screens]
    named = {name: (screen.digest, screen.technique) for name, screen in rules.screens.items()}
    if watched is None:
        accounts: Sequence[str | None] = [None] * starts.size
        row_actions = decisions.action
    else:
        steps = watched.actions()
        actions = np.maximum(actions, steps)
        of_rows = steps if steps.size == rows else np.repeat(steps, np.diff(starts, append=rows))
        row_actions = np.maximum(decisions.action, of_rows)
        verdicts = (*verdicts, *watched.verdicts())
        named |= {name: (watched.digests[name], technique) for name, technique in watched.techniques.items()}
        accounts = watched.accounts_json()
    return Judgement(
        row_actions=row_actions,
        actions=actions.tolist(),
        screens_json=trace(named, verdicts, starts.size),
        accounts_json=accounts,
        rows=rows_judged,
        steps={} if watched is None else watched.on_steps(),
        account_rows=[] if watched is None else watched.rows(),
    )


def soften(outputs: Mapping[str, Any], row_actions: np.ndarray[Any, Any], rules: ModelRules) -> Mapping[str, Any]:
    """Return the outputs as they may leave: the prediction hardened, for every row or for those the policy names."""
    name = rules.prediction
    if rules.hardening is None or name is None or name not in outputs:
        return outputs
    prediction = outputs[name]
    if rules.harden_flagged:
        chosen = (row_actions >= Action.HARDEN) & (row_actions < Action.COOL_DOWN)
        if not chosen.any():
            return outputs
        softened = prediction.copy()
        softened[chosen] = harden(prediction[chosen], rules.hardening)
    else:
        softened = harden(prediction, rules.hardening)
    return {**outputs, name: softened}


def trace(
    screens: Mapping[str, tuple[str, str]], verdicts: Sequence[RequestVerdicts], requests: int
) -> list[str | None]:
    """Return the `screens` part of each request's record, canonical JSON; None where no screen is in force.

    `screens` holds the digest and the technique of each.
    """
    if not verdicts:
        return [None] * requests
    columns = []
    for view in verdicts:
        digest, technique = screens[view.name]
        head, tail = fragments(view.name, view.mode.value, digest, technique)
        columns.append(
            [
                f'{head}{p},"score_micro":{score}{tail}{threshold},"verdict":"{VERDICTS[verdict]}"}}'
                for p, score, threshold, verdict in zip(
                    view.p_micro.tolist(),
                    view.score_micro.tolist(),
                    view.threshold_micro.tolist(),
                    view.verdicts.tolist(),
                    strict=True,
                )
            ]
        )
    return ["[" + ",".join(parts) + "]" for parts in zip(*columns, strict=True)]


@lru_cache(maxsize=256)
def fragments(name: str, mode: str, digest: str, technique: str) -> tuple[str, str]:
    """Return what stands before and behind the score in the record, the same for all requests."""
    head = f'{{"digest":"{digest}","mode":"{mode}","name":{quoted(name)},"p_micro":'
    return head, f',"technique":{quoted(technique)},"threshold_micro":'
