"""The releases of a host as they go: follows the policy, looks at what was counted, and says what has changed.

One object for a host, in its supervisor, which alone sees what all workers have counted: so a canary stands at one
place for all of them. It does no IO but for its memory (`gateway.models.standings`); `rollout` reads the counts, tells
the workers, and has the changes recorded.

A restart keeps the step, the promotion and the rollback, and begins the running step's time and counts again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Literal

from gateway.models.canary import Evidence, Labels, Limits, Plan, Progress, begin, decide
from gateway.models.compile_release import fingerprint, weights_of
from gateway.models.standings import Reached, read_reached, standings, write_reached
from gateway.request.drifts import beside
from ops.metrics import TIMES, VersionCounts

if TYPE_CHECKING:
    from pathlib import Path

    from gateway.models.compile_release import Standing
    from gateway.policy.policy import ModelPolicy, Policy
    from gateway.policy.release import Canary

Counted = dict[tuple[str, str], VersionCounts]
Labelled = Mapping[tuple[str, str], Labels]
"""By (model, version)."""
NONE_LABELLED: Labelled = MappingProxyType({})
Action = Literal["set", "started", "advanced", "promoted", "rolled-back", "ended"]
BLAMED = frozenset({"BACKEND_TIMED_OUT", "BACKEND_UNAVAILABLE", "MODEL_ERROR", "QUEUE_FULL", "SCREEN_UNAVAILABLE"})
"""Reasons of failures that the version is to blame for, and not its caller."""
LATE = frozenset({"DEADLINE_PASSED", "DEADLINE_UNMEETABLE"})
"""Reasons that may be either's: a deadline is the caller's choice, and what hangs in this process misses every one."""
MICRO = 1_000_000


@dataclass(frozen=True, slots=True)
class Change:
    """What has happened to a model's release: one entry of the log. `counts` is what it was judged by."""

    action: Action
    model: str
    version: str
    weights: Mapping[str, float]
    reason: str = ""
    counts: Mapping[str, int] = field(default_factory=dict)

    def entry(self) -> dict[str, object]:
        """Return its part of the entry."""
        micro = {version: round(share * MICRO) for version, share in self.weights.items()}
        fields: dict[str, object] = {"action": self.action, "name": self.model, "version": self.version}
        fields["weights_micro"] = micro
        if self.reason:
            fields["reason"] = self.reason
        if self.counts:
            fields["counts"] = dict(self.counts)
        return fields


@dataclass(slots=True)
class Trial:
    """A model with a release. `before` is what had been counted when the canary's step began, `first` when all did."""

    name: str
    model: ModelPolicy
    before: Counted
    first: Counted
    plan: Plan | None = None
    progress: Progress | None = None

    @property
    def version(self) -> str:
        """The version that is tried: the canary's or the shadow's; with neither the one in `serve`."""
        release = self.model.release
        assert release is not None, "only such models are here"
        tried = release.canary or release.shadow
        return tried.version if tried is not None else self.model.serve

    @property
    def kind(self) -> str:
        """What the release is."""
        release = self.model.release
        assert release is not None, "only such models are here"
        return "canary" if release.canary is not None else "shadow" if release.shadow is not None else "weights"

    @property
    def watched(self) -> bool:
        """Whether anything can come of looking at what is counted. Labels come late: also of one that was promoted."""
        if self.progress is None or self.plan is None:
            return False
        return self.progress.phase == "running" or (self.progress.phase == "promoted" and self.plan.limits.by_labels)

    def evidence(self, counted: Counted, labelled: Labelled = NONE_LABELLED) -> Evidence:
        """Return what was seen of the version since its step, or the shadow, began.

        The served version's response times are those since the beginning: at the last step it answers nobody.
        """
        served = self.name, self.model.serve
        here, there = since(counted, self.before, (self.name, self.version)), since(counted, self.before, served)
        return replace(
            evidence_of(here, there),
            served_times=since(counted, self.first, served).times,
            drift=drift_beside(here, self.model.serve),
            served_drift=drift_beside(there, self.version),
            labelled=labelled.get((self.name, self.version), Labels()),
        )


class Releases:
    """What a host's releases have come to."""

    def __init__(self, file: Path) -> None:
        """Read what was reached before. Raises PolicyRejected when the file is damaged."""
        self._file = file
        self._reached = read_reached(file)
        self.trials: dict[str, Trial] = {}

    @property
    def labelled(self) -> bool:
        """Whether a canary is judged by trusted labels."""
        plans = [trial.plan for trial in self.trials.values() if trial.watched]
        return any(plan is not None and plan.by_labels for plan in plans)

    @property
    def watched(self) -> bool:
        """Whether a canary is on its way."""
        return any(trial.watched for trial in self.trials.values())

    def standings(self) -> dict[str, Standing]:
        """Return how far the canaries are, for the workers."""
        return standings(self._reached)

    def weights(self, name: str) -> dict[str, float]:
        """Return the weights in force of a model with a release."""
        return weights_of(name, self.trials[name].model, self.standings())

    def follow(self, policy: Policy, counted: Counted, now_ns: int) -> list[Change]:
        """Take over a policy: what it ends, what it begins, what it sets. Nothing for what it leaves as it was."""
        wanted = {name: model for name, model in policy.models.items() if model.release is not None}
        same = {
            name
            for name, trial in self.trials.items()
            if name in wanted and (wanted[name].release, wanted[name].serve) == (trial.model.release, trial.model.serve)
        }
        serve = {name: {model.serve: 1.0} for name, model in policy.models.items()}
        changes = [
            replace(self.ended(name, counted, ""), weights=serve.get(name, {}))
            for name in self.trials
            if name not in same
        ]
        for name in [name for name in self.trials if name not in same]:
            del self.trials[name]
        changes += [self._begin(name, model, counted, now_ns) for name, model in wanted.items() if name not in same]
        # What was taken back is remembered also where it is gone: it must not come again with a policy of before.
        self._reached = {
            name: one for name, one in self._reached.items() if name in wanted or one.phase == "rolled-back"
        }
        return changes

    def look(self, counted: Counted, now_ns: int, labelled: Labelled = NONE_LABELLED) -> list[Change]:
        """Let each canary that is on its way go on, go back or wait, by what was counted and labelled."""
        changes = []
        for trial in self.trials.values():
            if not trial.watched or trial.plan is None or trial.progress is None:
                continue
            seen = trial.evidence(counted, labelled)
            trial.progress, event = decide(trial.plan, trial.progress, seen, now_ns)
            if event is not None:
                self._reach(trial)
                trial.before = counted
                changes.append(self._change(event, trial, trial.progress.reason or step_of(trial), seen))
        return changes

    def ended(self, name: str, counted: Counted, reason: str) -> Change:
        """Say that a release is over, with what was counted of it."""
        trial = self.trials[name]
        return self._change("ended", trial, reason, trial.evidence(counted))

    def keep(self) -> None:
        """Write down how far the canaries are. Raises OSError."""
        write_reached(self._file, self._reached)

    def _begin(self, name: str, model: ModelPolicy, counted: Counted, now_ns: int) -> Change:
        trial = self.trials[name] = Trial(name, model, counted, counted)
        canary = model.release.canary if model.release is not None else None
        if canary is None:
            return self._change("set", trial, "")
        trial.plan, mark = plan_of(canary), fingerprint(model)
        known = self._reached.get(name)
        if known is None or known.fingerprint != mark or known.step >= len(trial.plan.steps):
            trial.progress = begin(now_ns)
            self._reach(trial)
            return self._change("started", trial, step_of(trial))
        trial.progress = Progress(known.phase, known.step, now_ns, known.reason)
        return self._change("set", trial, known.reason or step_of(trial))

    def _reach(self, trial: Trial) -> None:
        assert trial.progress is not None, "it has begun"
        assert trial.plan is not None, "so it has a plan"
        progress = trial.progress
        share = progress.share(trial.plan)
        self._reached[trial.name] = Reached(
            fingerprint(trial.model), trial.version, progress.phase, progress.step, share, progress.reason
        )

    def _change(self, action: Action, trial: Trial, reason: str, seen: Evidence | None = None) -> Change:
        weights = weights_of(trial.name, trial.model, self.standings())
        return Change(action, trial.name, trial.version, weights, reason, counts_of(seen) if seen is not None else {})


def plan_of(canary: Canary) -> Plan:
    """Return what the policy wants of a canary."""
    limits = canary.abort_on
    return Plan(
        canary.steps,
        canary.step_every_ms * 1_000_000,
        canary.min_requests,
        Limits(**limits.model_dump()),
        canary.min_labels,
    )


def step_of(trial: Trial) -> str:
    """Say at which step a canary is."""
    assert trial.progress is not None, "it has begun"
    assert trial.plan is not None, "so it has a plan"
    return f"step {trial.progress.step + 1} of {len(trial.plan.steps)}"


def since(counted: Counted, before: Counted, key: tuple[str, str]) -> VersionCounts:
    """Return what was counted of a version since then; drift is as it is now."""
    now, then = counted.get(key, VersionCounts()), before.get(key, VersionCounts())
    return VersionCounts(
        now.outcomes - then.outcomes,
        [later - earlier for later, earlier in zip(now.times, then.times, strict=True)],
        {name: value - then.shadow[name] for name, value in now.shadow.items()},
        now.drift,
    )


def blamed(counts: VersionCounts, reasons: frozenset[str] = BLAMED) -> int:
    """Return how many requests failed by the version's fault, or for other reasons."""
    return sum(count for (_, reason), count in counts.outcomes.items() if reason in reasons)


def evidence_of(tried: VersionCounts, served: VersionCounts) -> Evidence:
    """Return what counts of the version on trial and of the served one say. Compared is what either ran beside."""
    failed = blamed(tried)
    return Evidence(
        requests=sum(tried.times) + failed + int(tried.shadow["requests"]),
        errors=failed + int(tried.shadow["errors"]),
        late=blamed(tried, LATE),
        compared=int(tried.shadow["rows"] + served.shadow["rows"]),
        disagreements=int(tried.shadow["disagreements"] + served.shadow["disagreements"]),
        bounds=TIMES,
        times=tried.times,
        served_times=served.times,
    )


def drift_beside(counts: VersionCounts, other: str) -> float | None:
    """Return the largest drift that a canary is judged by: on rows that the other version judged too."""
    return max((value for name, value in counts.drift.items() if name.startswith(beside(other))), default=None)


def counts_of(seen: Evidence) -> dict[str, int]:
    """Return what a record says of what was seen."""
    found = {
        "answered": sum(seen.times),
        "compared": seen.compared,
        "disagreements": seen.disagreements,
        "errors": seen.errors,
        "requests": seen.requests,
    }
    said = seen.labelled
    if said.labels:
        found |= {"labels": said.labels, "right": said.right}
    if said.calibration_error is not None:
        found["calibration_error_micro"] = round(said.calibration_error * MICRO)
    return found
