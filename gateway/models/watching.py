"""The watch over the accounts of one model version in this process.

It joins `defenses.accounts.watch` (what an account's questions look like), `defenses.budget.steps` (where that puts it)
and the policy's `watch`; it outlives reloads of the policy. What a request has to do with it stands in
`gateway.request.watching`. Several batch threads may come at once: a lock makes one of them wait.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from threading import Lock
from typing import TYPE_CHECKING, Any

import numpy as np

from defenses.accounts.observed import Asker
from defenses.budget.policy import Action, Mode, RequestVerdicts, micro
from defenses.budget.steps import Standings

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from defenses.accounts.observed import Observed
    from defenses.accounts.watch import Watch
    from defenses.budget.steps import Standing, Step
    from gateway.auth.principal import Principal

    Tensors = Mapping[str, np.ndarray[Any, Any]]
    Rows = np.ndarray[Any, np.dtype[np.intp]]
    Actions = np.ndarray[Any, np.dtype[np.uint8]]

STEP_NAMES = {action: action.name.lower() for action in Action}


@dataclass(frozen=True, slots=True)
class WatchRules:
    """What becomes of accounts whose questions look like an attack; `steps` by priority class where it has its own.

    `consistent`: what is close to an earlier question gets its answer from the beginning; None: not even recorded.
    """

    mode: Mode
    flag_alpha: float
    consistent: Mode | None
    steps: tuple[Step, ...]
    by_class: Mapping[str, tuple[Step, ...]]

    def steps_of(self, priority_class: str) -> tuple[Step, ...]:
        """Return the steps of an account of this class."""
        return self.by_class.get(priority_class, self.steps)


@dataclass(slots=True)
class Watching:
    """The watch of one model version in this process, and which accounts stand on a step."""

    watch: Watch
    standings: Standings = field(default_factory=Standings)
    _lock: Lock = field(default_factory=Lock)

    def observe(
        self,
        callers: Sequence[Principal],
        rules: WatchRules,
        *,
        inputs: Tensors,
        outputs: Tensors,
        starts: Rows,
        now_ns: int,
    ) -> Watched:
        """Remember what these callers' requests ask, and say what follows. Raises DefenseError.

        `inputs` and `outputs` are row on row; `starts` holds the first row of each request, intp (requests,).
        """
        askers = [Asker(caller.name, caller.tenant) for caller in callers]
        with self._lock:
            seen = self.watch.observe(askers, starts, inputs, outputs, now_ns)
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
