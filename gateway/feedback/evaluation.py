"""How well versions have been doing: what they answered beside the labels that came later.

Of each version of a model that takes labels, over those of the last `feedback.window`: the share that it had right, and
how far its confidence was off (expected calibration error, Guo et al. 2017, arXiv 1706.04599, section 2, bins of equal
width). Labels of two sources are never put together:

- trusted: of the principals in `feedback.trusted`, also where trusted rows contradict them, as in the agreement that
  canaries are judged by. This is the figure to believe.
- others: of everybody else, as far as they passed the gate. The gate holds back what trusted rows contradict, and with
  it labels of rows that the version had wrong: the figure is too kind. Its course still tells of change.

`keep_evaluating` looks every minute, in the supervisor. The metrics have what it found; the log has it once an hour,
where it has changed. Nothing is decided here.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from gateway.feedback.store import FILE, FeedbackStore

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from gateway.feedback.rows import Outcomes
    from gateway.host.host import Host
    from gateway.policy.policy import Policy

__all__ = ["MICRO", "Evaluation", "Evaluations", "evaluated", "evaluated_all", "keep_evaluating"]

LOOK_EVERY_S = 60.0
RECORD_EVERY_NS = 3_600 * 1_000_000_000
NS_PER_MS = 1_000_000
MICRO = 1_000_000


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What labels since `since_ns` say of a version. `calibration_error` is a share."""

    model: str
    version: str
    source: str
    since_ns: int
    labels: int
    right: int
    calibration_error: float

    def figures(self) -> tuple[str, str, str, int, int, float]:
        """Return what its series show."""
        return self.model, self.version, self.source, self.labels, self.right, self.calibration_error

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


def _of(model: str, version: str, source: str, parts: Iterable[Outcomes], since_ns: int) -> Evaluation:
    labels = sum(part.labels for part in parts)
    off = sum(abs(part.right - part.confidence_micro / MICRO) for part in parts)
    return Evaluation(model, version, source, since_ns, labels, sum(part.right for part in parts), off / labels)


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


async def keep_evaluating(host: Host) -> None:
    """Look again every minute. Ends with the host."""
    control = host.control
    assert control is not None, "it is open"
    evaluations = Evaluations(host.place.memory.with_name(FILE))
    metrics = control.app.metrics.evaluations()
    while True:
        now_ns = control.app.gw.wall_ns()
        try:
            await asyncio.to_thread(evaluations.look, host.policy, now_ns)
        except (sqlite3.Error, OSError) as problem:
            host.log("versions-not-evaluated", level="error", problem=str(problem))
        else:
            metrics.found([each.figures() for each in evaluations.found])
            for entry in evaluations.to_record(now_ns):
                await control.record_when_possible("evaluation", **entry)
        await asyncio.sleep(LOOK_EVERY_S)
