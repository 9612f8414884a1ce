"""The requests of a verified log, in the order in which they were recorded, and where processes began anew.

Nothing here is worth anything before the scan that feeds it has returned: only then is it known that the entries lead
to the root that is signed.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from msgspec import UnsetType

from gateway.tools.audit.tail import matches
from ops.audit.log.entry import check
from ops.audit.log.schemas import OutcomeUnknown, Recover, Request

if TYPE_CHECKING:
    from gateway.tools.log_arguments import Match


RECORDS_MAX = 500_000


class TooMany(Exception):
    """There are more records in the range than are replayed at once. The message is for the person at the terminal."""


@dataclass(frozen=True, slots=True)
class Scope:
    """Which requests: recorded between these times (nanoseconds since 1970), and such as `where` wants."""

    from_ns: int = 0
    until_ns: int = 2**63 - 1
    where: tuple[Match, ...] = ()


@dataclass(frozen=True, slots=True)
class Recorded:
    """One request. `chosen`: it is in question; the others in the range are needed for the state of limits."""

    index: int
    entry: Request
    chosen: bool

    @property
    def tenant(self) -> str:
        """Whose it was; "-" for nobody's."""
        return "-" if isinstance(self.entry.auth, UnsetType) else self.entry.auth.tenant

    @property
    def model(self) -> str:
        """The name and version that answered; "-" for none."""
        model = self.entry.model
        return "-" if isinstance(model, UnsetType) else f"{model.name}/{model.version}"


@dataclass(slots=True)
class History:
    """`begins`: the range begins with the log, so buckets were full. `breaks`: (index, gateway; None for all)."""

    scope: Scope
    records: list[Recorded] = field(default_factory=list)
    breaks: list[tuple[int, str | None]] = field(default_factory=list)
    begins: bool = False

    def take(self, index: int, data: bytes) -> None:
        """Take in the next entry. Raises TooMany."""
        entry = check(data)
        if not self.scope.from_ns <= int(entry.time_ns) <= self.scope.until_ns:
            return
        self.begins = self.begins or index == 0
        if isinstance(entry, OutcomeUnknown):
            self.breaks.append((index, entry.gateway))
        elif isinstance(entry, Recover):
            self.breaks.append((index, None))
        elif isinstance(entry, Request):
            if len(self.records) == RECORDS_MAX:
                raise TooMany(f"more than {RECORDS_MAX:,} requests; replay a part with --from and --to")
            self.records.append(Recorded(index, entry, self._chosen(data)))

    def _chosen(self, data: bytes) -> bool:
        if not self.scope.where:
            return True
        plain = json.loads(data)
        return all(matches(plain, wanted) for wanted in self.scope.where)


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
