"""What a process knows of accounts, in a small file a model version: a worker that starts again has forgotten nobody.

Who was on a step, what was asked, what is owed: a restart must not clear an attacker's history. It is written every
half minute and at the end, so a worker that is killed takes those seconds with it, no more.

A file that cannot be read, or is of another calibration or key, is as none, and is said so: it can only forget what a
restart would forget anyway, and it lies where only the gateway writes. Inputs are in it as codes under the pepper's
key, and answers as they were given; mode 0600.
"""

from __future__ import annotations

import asyncio
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec

from defenses.budget.policy import Action
from defenses.budget.steps import Standing
from defenses.errors import DefenseError, SnapshotInvalid

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from gateway.models.metering import Metering
    from gateway.models.served import Served
    from gateway.models.watching import Watching
    from ops.process.logging import Log

FORMAT = 1
BYTES_MAX = 256 * 1024 * 1024


class Kept(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    """What one model version knew: of which bundle, who stood where until when, the watch and the ledger."""

    format: int
    digest: str
    standings: list[tuple[str, int, int]]
    watch: bytes
    ledger: bytes


@dataclass(frozen=True, slots=True)
class AccountsFiles:
    """Keeps what one process knows of accounts beside its other memory: `<process>.<model>.<version>.accounts`."""

    directory: Path
    process: str
    log: Log
    wall_ns: Callable[[], int]

    def load(self, served: Served) -> None:
        """Let a model version know what its predecessor in this process knew."""
        path = self._path(served)
        try:
            self._restore(served, msgspec.msgpack.decode(read(path), type=Kept))
        except FileNotFoundError:
            return
        except (OSError, ValueError, DefenseError) as problem:  # msgspec's errors are ValueErrors
            self.log("accounts-not-restored", level="warning", file=path.name, error=type(problem).__name__)

    def _restore(self, served: Served, kept: Kept) -> None:
        if (kept.format, kept.digest) != (FORMAT, served.bundle.digest):
            raise SnapshotInvalid("of another bundle")
        if served.watching is not None and kept.watch:
            standings = {name: Standing(Action(step), until_ns) for name, step, until_ns in kept.standings}
            served.watching.restore(kept.watch, standings)
        if served.metering is not None and kept.ledger:
            served.metering.ledger.restore(kept.ledger, self.wall_ns())

    async def save(self, served: Iterable[Served]) -> None:
        """Write what is known now, of every version that watches or meters. Raises OSError."""
        for each in list(served):
            metered = each.metering is not None and each.metering.prices is not None
            if not each.unloaded and (each.watching is not None or metered):
                await asyncio.to_thread(self._write, each)

    def _write(self, served: Served) -> None:
        kept = Kept(FORMAT, served.bundle.digest, *_watched(served.watching, self.wall_ns()), _owed(served.metering))
        path = self._path(served)
        beside = path.with_name(f"{path.name}.new")
        descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "wb") as written:
            written.write(msgspec.msgpack.encode(kept))
        beside.replace(path)

    def _path(self, served: Served) -> Path:
        return self.directory / f"{self.process}.{served.bundle.name}.{served.bundle.version}.accounts"


def _watched(watching: Watching | None, now_ns: int) -> tuple[list[tuple[str, int, int]], bytes]:
    if watching is None:
        return [], b""
    watch, held = watching.snapshot(now_ns)
    return [(name, int(one.action), one.until_ns) for name, one in held.items()], watch


def _owed(metering: Metering | None) -> bytes:
    return b"" if metering is None else metering.snapshot()


def read(path: Path) -> bytes:
    """Return the file, as much of it as may be there. Raises OSError."""
    with path.open("rb") as found:
        return found.read(BYTES_MAX)
