"""How well versions have been doing: what they answered beside the labels that came later.

Of each version of a model that takes labels, over those of the last `feedback.window`: the share that it had right, and
how far its confidence was off (expected calibration error, Guo et al. 2017, arXiv 1706.04599, section 2, bins of equal
width). Labels of two sources are never put together:

- trusted: of the principals in `feedback.trusted`, also where others of their tenant or trusted rows contradict them,
  as in the agreement that canaries are judged by. This is the figure to believe.
- others: of everybody else, as far as they passed the gate. The gate holds back what trusted rows contradict, and with
  it labels of rows that the version had wrong: the figure is too kind. Its course still tells of change.

The metrics have beside each what its bundle's manifest says was measured before it served, where it says that.

`keep_evaluating` looks every minute, in the supervisor. The metrics have what it found; the log has it once an hour,
where it has changed. Nothing is decided here: canaries are judged by it (`gateway.models.canary`), and alerts.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from gateway.request.labels.store import FeedbackStore
from ops.metrics import LabelFigures

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable
    from pathlib import Path

    from gateway.policy.policy import Policy
    from gateway.request.labels.rows import Outcomes
    from serving.bundles.bundle import Bundle

RECORD_EVERY_NS = 3_600 * 1_000_000_000
NS_PER_MS = 1_000_000
MICRO = 1_000_000
NOISE_ALPHA = 0.001


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What labels since `since_ns` say of a version.

    `calibration_error` is a share, and so is `calibration_noise`: what it would hardly exceed if the confidence of
    every answer were true.
    """

    model: str
    version: str
    source: str
    since_ns: int
    labels: int
    right: int
    calibration_error: float
    calibration_noise: float

    def figures(self, accuracy: float | None = None, calibration_error: float | None = None) -> LabelFigures:
        """Return what its series show, beside what the version's manifest tells."""
        counts = self.labels, self.right, self.calibration_error, self.calibration_noise
        return LabelFigures(self.model, self.version, self.source, *counts, accuracy, calibration_error)

    def entry(self) -> dict[str, Any]:
        """Return the fields of its entry."""
        return {
            "calibration_error_micro": round(self.calibration_error * MICRO),
            "labels": self.labels,
            "name": self.model,
            "right": self.right,
            "since_ns": str(self.since_ns),
            "source": self.source,
            "version": self.version,
        }


def evaluated(model: str, found: Iterable[Outcomes], since_ns: int) -> list[Evaluation]:
    """Return the evaluation of each version and source of which there are labels."""
    bins: dict[tuple[str, str], list[Outcomes]] = defaultdict(list)
    for each in found:
        bins[each.version, "trusted" if each.trusted else "others"].append(each)
    return [_of(model, version, source, parts, since_ns) for (version, source), parts in sorted(bins.items())]


def _of(model: str, version: str, source: str, parts: Collection[Outcomes], since_ns: int) -> Evaluation:
    labels = sum(part.labels for part in parts)
    right = sum(part.right for part in parts)
    off = sum(abs(part.right - part.confidence_micro / MICRO) for part in parts)
    return Evaluation(model, version, source, since_ns, labels, right, off / labels, calibration_noise(parts))


def calibration_noise(parts: Collection[Outcomes]) -> float:
    """Return what the calibration error of these labels hardly exceeds if every confidence is true, as a share.

    The sum over the bins of |right - confidence| is taken for one of half-normal numbers with the bins' binomial
    variances, and its excess over its mean bounded as by Bernstein at NOISE_ALPHA. Looked at after each of 2,000
    labels, streams with true confidences ever exceed it in 0.3 to 0.6 % of the cases (2,000 streams each of three
    kinds of model).
    """
    sure = [(part.labels, part.confidence_micro / MICRO) for part in parts]
    variances = [max(0.0, confidence * (1 - confidence / labels)) for labels, confidence in sure]
    mean = math.sqrt(2 / math.pi) * sum(map(math.sqrt, variances))
    doubt = -math.log(NOISE_ALPHA)
    excess = math.sqrt(2 * doubt * (1 - 2 / math.pi) * sum(variances)) + doubt / 3
    return (mean + excess) / sum(part.labels for part in parts)


def promised_by(bundles: Iterable[Bundle]) -> dict[tuple[str, str], tuple[float | None, float | None]]:
    """Return accuracy and calibration error of each version as its manifest tells them, where it does."""
    return {(bundle.name, bundle.version): _promise(bundle.manifest["metrics"]) for bundle in bundles}


def _promise(metrics: Mapping[str, Any]) -> tuple[float | None, float | None]:
    """Read a manifest's metrics; a model of sequences tells its own under `next_click`."""
    told = metrics.get("next_click", metrics)
    if not isinstance(told, Mapping):
        return None, None
    return _share(told.get("accuracy")), _share(told.get("calibration_error"))


def _share(told: object) -> float | None:
    """Return what a manifest tells in free form, if it is a share."""
    return float(told) if isinstance(told, int | float) and 0 <= told <= 1 else None


def evaluated_all(store: FeedbackStore, policy: Policy, now_ns: int) -> list[Evaluation]:
    """Return the evaluations of all models that take labels. Blocks."""
    windows = {name: model.feedback.window_ms for name, model in policy.models.items() if model.feedback}
    since = {name: now_ns - window_ms * NS_PER_MS for name, window_ms in windows.items()}
    return [
        each for name, since_ns in since.items() for each in evaluated(name, store.outcomes(name, since_ns), since_ns)
    ]


@dataclass(slots=True)
class Evaluations:
    """What was found last, and what of it the log has. `due_ns`: when the log is to be told again."""

    file: Path
    found: list[Evaluation] = field(default_factory=list)
    recorded: dict[tuple[str, str, str], tuple[int, int, float]] = field(default_factory=dict)
    due_ns: int = 0

    def look(self, policy: Policy, now_ns: int) -> None:
        """Evaluate again. Blocks; raises sqlite3.Error or OSError."""
        self.found = evaluated_all(FeedbackStore(self.file), policy, now_ns) if self.file.exists() else []

    def to_record(self, now_ns: int) -> list[Mapping[str, Any]]:
        """Return the entries that are due: of what is not as the log has it, once in RECORD_EVERY_NS."""
        if now_ns < self.due_ns:
            return []
        now = {(each.model, each.version, each.source): each for each in self.found}
        facts = {key: (each.labels, each.right, each.calibration_error) for key, each in now.items()}
        changed = [key for key, value in facts.items() if self.recorded.get(key) != value]
        if changed:
            self.due_ns = now_ns + RECORD_EVERY_NS
        self.recorded = facts
        return [now[key].entry() for key in changed]
