"""What verification says: findings, the worst of which is the exit code. Part of `verify` and under its rules."""

from dataclasses import dataclass, field
from typing import Literal

from ops.audit.log.schemas import EpochClose, Genesis

OK, TAMPERED, INCOMPLETE, STALE, USAGE = range(5)
FINDINGS_MAX = 100  # of one chunk, and of one report: a broken disk must not fill memory

Severity = Literal["tampered", "incomplete", "stale", "notice"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong: how bad, what, and where (a path below the log's directory)."""

    severity: Severity
    what: str
    where: str


_EXIT: dict[Severity, int] = {"tampered": TAMPERED, "incomplete": INCOMPLETE, "stale": STALE, "notice": OK}


@dataclass(slots=True)
class Report:
    """What was verified and what is wrong. `exit_code` is the worst finding's (tampered, incomplete, stale)."""

    origin: str = ""
    size: int = 0
    root: str = ""
    findings: list[Finding] = field(default_factory=list)
    severities: set[Severity] = field(default_factory=set)  # of all findings, those that were too many to keep as well
    unverified: int = 0  # files in the directory of which the checkpoint says nothing
    heartbeats: int = 0
    last_time_ns: int = 0
    genesis: Genesis | None = None
    close: EpochClose | None = None  # the last entry, where it closes the epoch
    dropped: dict[int, str] = field(default_factory=dict)  # epochs whose entries it says were removed, with their roots
    seconds: float = 0.0
    usage: bool = False

    @property
    def exit_code(self) -> int:
        if self.usage:
            return USAGE
        found = {_EXIT[each] for each in self.severities}
        return min(found - {OK}, default=OK)

    @property
    def records_per_s(self) -> float:
        return self.size / self.seconds if self.seconds else 0.0

    def add(self, severity: Severity, what: str, where: str) -> None:
        self.severities.add(severity)
        if len(self.findings) < FINDINGS_MAX:
            self.findings.append(Finding(severity, what, where))

    def set_aside(self, what: str, where: str) -> None:
        """A file that is not what the checkpoint vouches for: whoever put it there has changed nothing of the log."""
        self.unverified += 1
        self.add("notice", what, where)

    def refuse(self, what: str, where: str) -> None:
        """Nothing can be said about the log: it was not asked rightly."""
        self.usage = True
        self.add("notice", what, where)
