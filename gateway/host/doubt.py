"""A recorder that ended because a sync had failed does not start again before its log was held against others' word.

The doubt is a file in the state directory, so that it outlives whoever started the recorder; it goes when the log
extends what its replica and its witnesses have. Where neither is configured there is nothing to compare with: the
recorder's own recovery, which reads the device, decides.
"""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from gateway.config.document import ConfigRejected
from gateway.host.replication import open_replicator
from gateway.host.supervisor import StartFailed
from ops.audit.copies.compare import compare
from ops.audit.errors import AuditError, ForkRefused, Poisoned, RecorderError, ReplicationError
from ops.audit.log.checkpoint import parse_vkey
from ops.audit.log.trust_policy import TrustPolicy, read_trust_policy
from ops.process.durable import keep_file

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from gateway.config.config import Config
    from gateway.config.place import Place
    from ops.process.logging import Log

DOUBTED = "doubted"


@dataclass(slots=True)
class Doubt:
    """Whether a log is in doubt: `file` says so, or we have `heard` it. `compare` holds it against what is known of it
    elsewhere, as `ops.audit.copies.compare` does, and raises what that raises.
    """

    file: Path
    compare: Callable[[], None]
    log: Log
    heard: bool = field(default=False, init=False)

    def ended(self, code: int) -> None:
        """Take in how the recorder ended."""
        if code == Poisoned.exit_code:
            self.heard = True
            with suppress(OSError):  # of a disk that fails: whoever comes after us finds it failing too
                keep_file(self.file, b"a sync failed; the log is to be compared with its replica and its witnesses\n")

    def settle(self) -> None:
        """Return when the log is not in doubt, or not any more.

        Raises:
            ForkRefused: it contradicts what is known of it; the recorder must never start on it.
            RecorderError: it cannot be compared now.
        """
        if not self.heard and not self.file.exists():
            return
        try:
            self.compare()
        except ReplicationError as problem:
            raise ForkRefused(f"after a failed sync the log contradicts what is known of it: {problem}") from problem
        except (AuditError, ConfigRejected, OSError, sqlite3.Error) as problem:
            text = f"a sync had failed, and the log cannot be compared with what is known of it: {problem}"
            raise RecorderError(text) from problem
        self.file.unlink(missing_ok=True)
        self.heard = False
        self.log("log-compared")

    async def may_start(self) -> str:
        """Return why the recorder may not start yet, or nothing. Raises StartFailed: it never may."""
        try:
            await asyncio.to_thread(self.settle)
        except ForkRefused as problem:
            raise StartFailed(str(problem)) from problem
        except RecorderError as problem:
            return str(problem)
        return ""


def doubt_of(config: Config, place: Place, log: Log) -> Doubt:
    """Return what keeps the recorder of this gateway from a log that is in doubt. Nothing is read or opened yet."""
    audit = config.audit

    def compare_with_all() -> None:
        replicator = open_replicator(config)
        compare(
            audit.directory,
            parse_vkey(audit.vkey.read_text().strip()),
            audit.state_directory / "lock.sqlite",
            store=None if replicator is None else replicator.store,
            cosigned=place.cosigned,
            witnesses=TrustPolicy() if audit.witnesses is None else read_trust_policy(audit.witnesses.policy),
        )

    return Doubt(config.state_dir / DOUBTED, compare_with_all, log)
