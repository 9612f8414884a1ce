"""Whether a canary goes on, goes back, or waits: a pure function of what was seen since its step began.

    running ──(good for a whole step)──► next step ... ──(good for the last step)──► promoted
       └──(one limit broken)──► rolled-back ◄──(trusted labels contradict it)──┘

Rules:
- Going back needs no patience where the case is clear: an error or disagreement rate whose lower 99.9 % confidence
  bound (Clopper and Pearson) is above its limit ends the canary at once. A rate that is only estimated above its limit
  ends it when the step would have ended. So a few unlucky requests at the start do no harm, and a broken version
  answers as few as can tell.
- Going on needs both: the step has lasted, and the version has run `min_requests` in it, answered or compared.
- Response times are judged at the end of a step only, since a percentile of a few requests says little: it takes
  `min_requests` that each version has answered. A step waits for them, up to PATIENCE times its length: at a small
  share of few principals there may be nobody whom the version answers.
- Drift is judged at the end of a step, on rows that both versions judged, and ends a canary where it is above its limit
  and above the served version's by DRIFT_APART of the limit: strange traffic is not the version's fault, and makes both
  drift. While either is above the limit otherwise, nothing moves.
- A deadline that passes is the caller's, who chose it. A version that did nothing well in a whole step, while
  `min_requests` of its requests ran into theirs, hangs, and goes back.
- Trusted labels, where the policy names the least agreement with them, take a version back whenever they are enough to
  tell, also after it was promoted: they come late (`defenses.labels.agreement`, and what it finds in how many). So
  do they where its confidence is further from how often it was right than the policy allows, and chance explains.
- Who is promoted has as many trusted labels as the policy asks for. The last step waits for them, however long.
- Whatever is not measured is not judged.

Knows no clock, no files and no metrics: counts and times are arguments.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Literal

from defenses.budget.intervals import clopper_pearson
from defenses.labels.agreement import fallen

CONFIDENCE = 0.998  # two-sided: 99.9 % on the side that is looked at
P99 = 0.99
PATIENCE = 3
DRIFT_APART = 0.5

Phase = Literal["running", "promoted", "rolled-back"]
Event = Literal["started", "advanced", "promoted", "rolled-back"]


@dataclass(frozen=True, slots=True)
class Limits:
    """What takes a canary back; None is not looked at."""

    error_rate_max: float
    p99_ratio_max: float | None = None
    disagreement_max: float | None = None
    drift_max: float | None = None
    agreement_min: float | None = None
    calibration_error_max: float | None = None

    @property
    def by_labels(self) -> bool:
        """Whether trusted labels can take a version back, also once it was promoted."""
        return self.agreement_min is not None or self.calibration_error_max is not None


@dataclass(frozen=True, slots=True)
class Plan:
    """What the policy wants of a canary. `steps` are its shares, ascending to 1."""

    steps: tuple[float, ...]
    step_ns: int
    requests_min: int
    limits: Limits
    labels_min: int = 0

    @property
    def by_labels(self) -> bool:
        """Whether trusted labels are looked at."""
        return self.limits.by_labels or self.labels_min > 0


@dataclass(frozen=True, slots=True)
class Labels:
    """What trusted labels say: of `labels` of all that the version ever answered, it met `right`.

    `calibration_error`, by the labels of the feedback window, is a share, as is the part of it that may be chance
    (`calibration_noise`); None: it is not known.
    """

    right: int = 0
    labels: int = 0
    calibration_error: float | None = None
    calibration_noise: float = 0.0


@dataclass(frozen=True, slots=True)
class Evidence:
    """What was seen since the step began.

    `requests` and `errors` are the canary's, answered or compared; `late` are those that ran into their deadlines, and
    are in neither. `times` and `served_times` count response times of the canary, and of the served version since the
    canary's first step, by bucket: `bounds` are the buckets' upper bounds in seconds, and one bucket more is open. Rows
    are counted in `compared` and `disagreements`. Drift is None where it is not measured.
    """

    requests: int
    errors: int
    late: int = 0
    compared: int = 0
    disagreements: int = 0
    bounds: Sequence[float] = ()
    times: Sequence[int] = ()
    served_times: Sequence[int] = ()
    drift: float | None = None
    served_drift: float | None = None
    labelled: Labels = Labels()


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a canary is. `step` counts from 0, `began_ns` is when it began; `reason` says why it is over."""

    phase: Phase
    step: int
    began_ns: int
    reason: str = ""

    def share(self, plan: Plan) -> float:
        """Return the share of the principals that the version answers."""
        if self.phase == "running":
            return plan.steps[self.step]
        return 1.0 if self.phase == "promoted" else 0.0


def begin(now_ns: int) -> Progress:
    """Return a canary at its first step."""
    return Progress("running", 0, now_ns)


def decide(plan: Plan, progress: Progress, seen: Evidence, now_ns: int) -> tuple[Progress, Event | None]:
    """Return where the canary is now, and what has happened to it: None while it stays where it is."""
    fell = contradicted(plan.limits, seen.labelled)
    if progress.phase == "promoted" and fell:
        return replace(progress, phase="rolled-back", reason=fell), "rolled-back"
    if progress.phase != "running":
        return progress, None
    lasted_ns = now_ns - progress.began_ns
    waited = timed(plan, seen) or lasted_ns >= PATIENCE * plan.step_ns
    ends = lasted_ns >= plan.step_ns and seen.requests >= plan.requests_min and waited
    broken = fell or clearly_broken(plan.limits, seen) or (broken_at_end(plan, seen) if ends else "")
    if not broken and lasted_ns >= plan.step_ns and hangs(plan, seen):
        broken = f"answered nothing, and {seen.late} requests ran into their deadlines"
    if broken:
        return replace(progress, phase="rolled-back", reason=broken), "rolled-back"
    last = progress.step + 1 == len(plan.steps)
    strange = drifts(plan.limits, seen.drift) or drifts(plan.limits, seen.served_drift)
    if not ends or strange or (last and seen.labelled.labels < plan.labels_min):
        return progress, None
    if last:
        return replace(progress, phase="promoted", reason="good through every step"), "promoted"
    return Progress("running", progress.step + 1, now_ns), "advanced"


def clearly_broken(limits: Limits, seen: Evidence) -> str:
    """Say which limit is broken beyond doubt; empty: none."""
    for name, bad, of, most in rates(limits, seen):
        if of and clopper_pearson(bad, of, CONFIDENCE).low > most:
            return over(name, bad, of, most)
    return ""


def contradicted(limits: Limits, said: Labels) -> str:
    """Say how trusted labels contradict the version beyond doubt; empty: they do not."""
    least, most = limits.agreement_min, limits.calibration_error_max
    if least is not None and said.labels and fallen(said.right, said.labels, least):
        share = said.right / said.labels
        return f"agreement with trusted labels {share:.3f} ({said.right} of {said.labels}) is below {least:g}"
    error, noise = said.calibration_error, said.calibration_noise
    if most is not None and error is not None and error - noise > most:
        return f"calibration error on trusted labels {error:.3f} ({noise:.3f} may be chance) is above {most:g}"
    return ""


def broken_at_end(plan: Plan, seen: Evidence) -> str:
    """Say which limit is broken as far as a whole step can tell; empty: none."""
    for name, bad, of, most in rates(plan.limits, seen):
        if of and bad / of > most:
            return over(name, bad, of, most)
    if drifts_alone(plan.limits, seen):
        return f"drift {seen.drift:.3f} is above {plan.limits.drift_max:g}"
    most_ratio = plan.limits.p99_ratio_max
    if most_ratio is None or not timed(plan, seen):
        return ""
    here, served = quantile(seen.times, seen.bounds, P99), quantile(seen.served_times, seen.bounds, P99)
    if here > most_ratio * served:
        return f"p99 {here * 1000:.1f} ms is {here / served:.2f} times the served version's, above {most_ratio:g}"
    return ""


def hangs(plan: Plan, seen: Evidence) -> bool:
    """Say whether the version did nothing well, though enough was asked of it."""
    return seen.requests == seen.errors and seen.late >= plan.requests_min


def timed(plan: Plan, seen: Evidence) -> bool:
    """Say whether response times can be judged, or are not looked at."""
    enough = min(sum(seen.times), sum(seen.served_times)) >= plan.requests_min
    return plan.limits.p99_ratio_max is None or enough


def rates(limits: Limits, seen: Evidence) -> list[tuple[str, int, int, float]]:
    """Return (name, bad, of all, limit) of every rate that is looked at."""
    found = [("error rate", seen.errors, seen.requests, limits.error_rate_max)]
    if limits.disagreement_max is not None:
        found.append(("disagreement", seen.disagreements, seen.compared, limits.disagreement_max))
    return found


def over(name: str, bad: int, of: int, most: float) -> str:
    """Say that a rate is above its limit."""
    return f"{name} {bad / of:.3f} ({bad} of {of}) is above {most:g}"


def drifts_alone(limits: Limits, seen: Evidence) -> bool:
    """Say whether the canary's drift is above its limit, and the served version's neither that nor near it."""
    if seen.drift is None or limits.drift_max is None or drifts(limits, seen.served_drift):
        return False
    return drifts(limits, seen.drift) and seen.drift - (seen.served_drift or 0.0) > DRIFT_APART * limits.drift_max


def drifts(limits: Limits, drift: float | None) -> bool:
    """Say whether a drift is measured, looked at, and above its limit."""
    return drift is not None and limits.drift_max is not None and drift > limits.drift_max


def quantile(counts: Sequence[int], bounds: Sequence[float], share: float) -> float:
    """Return a quantile of what was counted in buckets, interpolated inside its bucket; of nothing: 0.

    What lies in the last, open bucket counts as the highest bound.
    """
    reached = list(accumulate(counts))
    if not reached or not reached[-1]:
        return 0.0
    wanted = share * reached[-1]
    index = bisect_left(reached, wanted)
    if index >= len(bounds):
        return bounds[-1]
    low = bounds[index - 1] if index else 0.0
    before = reached[index - 1] if index else 0
    return low + (bounds[index] - low) * (wanted - before) / (reached[index] - before)
