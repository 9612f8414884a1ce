"""What a replay found: step by step what was compared, what was equal, what differs, and what was not compared and why.

Nothing counts as equal that was not compared.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gateway.tools.replay.history import Recorded

DIFFERENCES_MAX = 10_000  # kept; all are counted
DECISIONS = ("identity", "right", "limits", "route", "screens", "decision")  # level R1
OUTPUTS = ("scores", "output")  # level R2
STEPS = (*DECISIONS, *OUTPUTS)


@dataclass(frozen=True, slots=True)
class Difference:
    """One request that came out otherwise: what the log says, and what follows now."""

    index: int
    id: str
    tenant: str
    model: str
    step: str
    recorded: str
    replayed: str


@dataclass(slots=True)
class Step:
    """`within` are outputs that are not equal to the byte, and no farther away than the tolerance."""

    equal: int = 0
    within: int = 0
    differs: int = 0
    skipped: Counter[str] = field(default_factory=Counter)

    @property
    def compared(self) -> int:
        """How many there was something to say of."""
        return self.equal + self.within + self.differs


@dataclass(slots=True)
class Findings:
    """What was found so far."""

    requests: int = 0
    steps: dict[str, Step] = field(default_factory=lambda: {name: Step() for name in STEPS})
    differences: list[Difference] = field(default_factory=list)

    @property
    def differing(self) -> int:
        """How many comparisons did not come out equal, nor within tolerance."""
        return sum(step.differs for step in self.steps.values())

    @property
    def compared(self) -> int:
        """How many comparisons there were."""
        return sum(step.compared for step in self.steps.values())

    def compare(self, one: Recorded, step: str, recorded: object, replayed: object) -> None:
        """Count one comparison."""
        if recorded == replayed:
            self.steps[step].equal += 1
        else:
            self.differ(one, step, str(recorded), str(replayed))

    def differ(self, one: Recorded, step: str, recorded: str, replayed: str) -> None:
        """Count one that differs."""
        self.steps[step].differs += 1
        if len(self.differences) < DIFFERENCES_MAX:
            self.differences.append(
                Difference(one.index, one.entry.id, one.tenant, one.model, step, recorded, replayed)
            )

    def skip(self, step: str, why: str) -> None:
        """Count one that cannot be compared."""
        self.steps[step].skipped[why] += 1
