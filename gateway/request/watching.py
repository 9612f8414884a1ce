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

from dataclasses import dataclass, field, replace
from threading import Lock
from typing import TYPE_CHECKING, Any

import numpy as np

from defenses.accounts.observed import Asker
from defenses.budget.hardening import HardeningRule, harden
from defenses.budget.policy import Action, Mode, RequestVerdicts, micro
from defenses.budget.steps import Standings
from defenses.errors import DefenseError
from gateway import errors
from gateway.admission.limiter import Decision

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from defenses.accounts.observed import Observed
    from defenses.accounts.watch import Watch
    from defenses.budget.steps import Standing
    from gateway.request.inference import Inferred
    from gateway.request.record import Record
    from gateway.request.state import Item, ModelRules, WatchRules

    Tensors = Mapping[str, np.ndarray[Any, Any]]
    Rows = np.ndarray[Any, np.dtype[np.intp]]
    Actions = np.ndarray[Any, np.dtype[np.uint8]]

COOL_DOWN_RETRY_MS = 1000
COOL_DOWN = "cool-down"  # what the record says
COOL_DOWN_RULE = "principal-requests"  # what a caller is told: the name of an ordinary limit
TOP1 = HardeningRule(top_k=1, temperature=1.0, decimals=0)
STEP_NAMES = {action: action.name.lower() for action in Action}


@dataclass(slots=True)
class Watching:
    """The watch of one model version in this process, and which accounts stand on a step."""

    watch: Watch
    standings: Standings = field(default_factory=Standings)
    _lock: Lock = field(default_factory=Lock)

    def observe(self, items: Sequence[Item], rules: WatchRules, inferred: Inferred, now_ns: int) -> Watched:
        """Remember what these requests ask, and say what follows. Raises DefenseError."""
        starts = inferred.starts
        callers = [item.record.caller() for item in items]
        askers = [Asker(caller.name, caller.tenant) for caller in callers]
        with self._lock:
            seen = self.watch.observe(askers, starts, inferred.inputs, inferred.outputs, now_ns)
            evidence = np.maximum.reduceat(seen.log_evidence, starts)
            steps = [rules.steps_of(caller.priority_class) for caller in callers]
            standing = self.standings.reach([caller.name for caller in callers], evidence, steps, now_ns)
        return Watched(rules, seen, self.watch.digests, self.watch.techniques, starts, evidence, standing)

    def forgive(self, principals: Iterable[str]) -> None:
        """Forget the evidence against these, and let them step down: an operator found them innocent."""
        with self._lock:
            for name in principals:
                self.watch.forgive(name)
                self.standings.forgive(name)

    def snapshot(self, now_ns: int) -> tuple[bytes, Mapping[str, Standing]]:
        """Return what is remembered, and who stands on a step. From any thread; batches go on in between."""
        remembered = self.watch.snapshot(self._lock)
        with self._lock:
            return remembered, self.standings.held(now_ns)

    def restore(self, remembered: bytes, standings: Mapping[str, Standing]) -> None:
        """Take over what `snapshot` returned. Raises DefenseError, and then nothing has changed."""
        with self._lock:
            self.watch.restore(remembered)
            self.standings.restore(standings)


@dataclass(frozen=True, slots=True, eq=False)
class Watched:
    """What the watch said of a batch. `evidence` float64 (requests,), `standing` uint8 (requests,) of Action."""

    rules: WatchRules
    seen: Observed
    digests: Mapping[str, str]
    techniques: Mapping[str, str]
    starts: Rows
    evidence: np.ndarray[Any, np.dtype[np.float64]]
    standing: Actions

    def only(self, position: int) -> Watched:
        """Return what was said of one request of the batch."""
        first, end = [*self.starts.tolist(), len(self.seen.log_evidence)][position : position + 2]
        return replace(
            self,
            seen=self.seen.part(first, end),
            starts=np.zeros(1, np.intp),
            evidence=self.evidence[position : position + 1],
            standing=self.standing[position : position + 1],
        )

    @property
    def enforced(self) -> bool:
        """Whether the steps are taken, or only recorded."""
        return self.rules.mode == Mode.ENFORCE

    def actions(self) -> Actions:
        """Return what the steps ask for, uint8 (requests,): nothing in shadow."""
        return self.standing if self.enforced else np.zeros_like(self.standing)

    def repeats(self) -> list[int]:
        """Return how many rows of each request lie close to an earlier question of its account."""
        if not self.seen.anchors:
            return [0] * self.starts.size
        close = np.zeros(len(self.seen.log_evidence), np.int64)
        close[list(self.seen.anchors)] = 1
        repeated: list[int] = np.add.reduceat(close, self.starts).tolist()
        return repeated

    def verdicts(self) -> list[RequestVerdicts]:
        """Return each screen's view of each request, from its worst row, for the record."""
        names = self.seen.p_values
        threshold = np.full(self.starts.size, round(self.rules.flag_alpha * 1_000_000), np.int64)
        p = np.array(list(names.values()))
        scores = np.array([self.seen.scores[name] for name in names])
        if self.starts.size < p.shape[1]:
            p, scores = np.minimum.reduceat(p, self.starts, axis=1), np.maximum.reduceat(scores, self.starts, axis=1)
        columns = zip(names, (p <= self.rules.flag_alpha).view(np.uint8), micro(p), micro(scores), strict=True)
        return [
            RequestVerdicts(name, self.rules.mode, flagged, p_micro, score_micro, threshold)
            for name, flagged, p_micro, score_micro in columns
        ]

    def on_steps(self) -> dict[str, int]:
        """Return how many of the requests came from accounts that stand on a step, by the step's name."""
        if not self.standing.any():
            return {}
        counts = np.bincount(self.standing, minlength=len(STEP_NAMES)).tolist()
        return {name: counts[action] for action, name in STEP_NAMES.items() if action and counts[action]}

    def rows(self) -> list[tuple[str, Actions, np.ndarray[Any, np.dtype[np.float64]]]]:
        """Return each screen's name, its verdict on each row and its p-value of each row, for the metrics."""
        return [
            (name, (p_values <= self.rules.flag_alpha).view(np.uint8), p_values)
            for name, p_values in self.seen.p_values.items()
        ]

    def accounts_json(self) -> list[str]:
        """Return the `account` part of each request's record, canonical JSON."""
        return [
            f'{{"evidence_milli":{milli},"mode":"{self.rules.mode.value}","repeats":{repeats},'
            f'"step":"{STEP_NAMES[Action(step)]}"}}'
            for milli, repeats, step in zip(
                np.rint(np.minimum(np.maximum(self.evidence, -1e6), 1e6) * 1000).astype(np.int64).tolist(),
                self.repeats(),
                self.standing.tolist(),
                strict=True,
            )
        ]


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
        watched = watching.observe(items, rules.watch, inferred, now_ns)
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
