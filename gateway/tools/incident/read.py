"""The verified log as an incident sees it: which incidents there are, and the timeline of one.

Nothing is asked of a running gateway, so it works on a copy of the log and after a break-in. What is returned was shown
to lead to the root that is signed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ops.audit.reader.scan import scan_epochs
from ops.incidents.timeline import Register, Timeline

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from ops.audit.log.checkpoint import Checkpoint, VerifierKey
    from ops.incidents.timeline import Opened, Scope


class IncidentUnknown(Exception):
    """The log knows no incident of this name. The message is for the person at the terminal."""


@dataclass(frozen=True, slots=True)
class Story:
    """What the log says: at this checkpoint, of this incident if it is one."""

    head: Checkpoint
    timeline: Timeline
    incident: Opened | None


@dataclass(frozen=True, slots=True)
class Log:
    """A log directory with its key. Every method reads all of it, and raises ReadError, NoteError or ProofError."""

    directory: Path
    vkey: VerifierKey
    progress: Callable[[int, int], None] = lambda _done, _all: None

    def incidents(self) -> Register:
        """Return the incidents that it knows."""
        register = Register()
        scan_epochs(self.directory, self.vkey, register.add, progress=self.progress)
        return register

    def incident(self, name: str) -> Opened:
        """Return one of them. Raises IncidentUnknown."""
        known = self.incidents().incidents
        if name not in known:
            there = ", ".join(sorted(known)[-8:]) or "none"
            raise IncidentUnknown(f"the log knows no incident {name!r} (there: {there})")
        return known[name]

    def story(self, scope: Scope, incident: Opened | None = None) -> Story:
        """Return what happened in this scope."""
        timeline = Timeline(scope)
        head = scan_epochs(self.directory, self.vkey, timeline.add, progress=self.progress)
        return Story(head, timeline, incident)

    def story_of(self, name: str) -> Story:
        """Return what happened in an incident. Raises IncidentUnknown."""
        incident = self.incident(name)
        return self.story(incident.scope(), incident)
