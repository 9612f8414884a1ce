"""A recorder that ended because a sync had failed does not start again before its log was held against its replica.

The doubt is a file in the state directory, so that it outlives the supervisor; it goes when log and replica agree.
Where neither a replica nor witnesses are configured there is nothing to compare with: the recorder's own recovery,
which reads the device, decides.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from gateway.host.supervisor import StartFailed
from ops.audit.compare import compare
from ops.audit.durable import keep_file
from ops.audit.errors import AuditError, Poisoned, ReplicationError

if TYPE_CHECKING:
    from pathlib import Path

    from ops.audit.checkpoint import VerifierKey
    from ops.audit.object_store import ObjectStore
    from ops.logging import Log

__all__ = ["Doubt"]


@dataclass(frozen=True, slots=True)
class Doubt:
    """Whether the log of a host is in doubt: `file` says so. The others are what `compare` takes."""

    file: Path
    directory: Path
    vkey: VerifierKey
    lock: Path
    store: ObjectStore | None
    cosigned: Path
    log: Log

    def ended(self, code: int) -> None:
        """Take in how the recorder ended."""
        if code == Poisoned.exit_code:
            with suppress(OSError):  # of a disk that fails: then whoever starts it on this disk finds it failing too
                keep_file(self.file, b"a sync failed; the log is to be compared with its replica\n")

    async def may_start(self) -> str:
        """Return why the recorder may not start yet, or nothing. Raises StartFailed: it never may."""
        if not self.file.exists():
            return ""
        try:
            await asyncio.to_thread(self._compare)
        except ReplicationError as problem:
            raise StartFailed(f"after a failed sync the log contradicts what is known of it: {problem}") from problem
        except (AuditError, OSError) as problem:
            return f"a sync had failed, and the log cannot be compared with its replica: {problem}"
        self.log("log-compared")
        return ""

    def _compare(self) -> None:
        compare(self.directory, self.vkey, self.lock, self.store, self.cosigned)
        self.file.unlink()
