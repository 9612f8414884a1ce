"""What a limiter knows, in a small file: a worker that starts again has not forgotten who has nothing left.

It is written every few seconds and at the end, so a worker that is killed takes those seconds with it, no more. Only
buckets that are not full are in it; those without a row of their own (`memory`: the sketch) are not.

A file that cannot be read is as none: it can only lift limits that a restart would lift anyway, and it lies where only
the gateway writes. Times in it are the wall clock's, because a monotonic clock begins anew with the machine. A wall
clock that was set back makes debts no longer than they were written; one that was set forward forgives what it skips.
"""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from gateway.admission.memory import MemoryLimiter

BYTES_MAX = 64 * 1024 * 1024
FORMAT = 1


class Snapshot(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    """When it was made, and (key, nanoseconds until it is full) of each bucket then."""

    format: int
    wall_ns: int
    debts: list[tuple[str, int]]


def write_snapshot(file: Path, debts: Sequence[tuple[str, int]], wall_ns: int) -> None:
    """Replace the file. Blocks; raises OSError. It is not synced: a machine that dies has forgotten its callers."""
    beside = file.with_name(f"{file.name}.new")
    descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as written:
        written.write(msgspec.msgpack.encode(Snapshot(FORMAT, wall_ns, list(debts))))
    beside.replace(file)


def read_snapshot(file: Path, wall_ns: int) -> list[tuple[str, int]]:
    """Return the debts that are left now; nothing when there is no file, or none that can be read."""
    try:
        with file.open("rb") as found:
            data = found.read(BYTES_MAX + 1)
        snapshot = msgspec.msgpack.decode(data, type=Snapshot)
    except (OSError, ValueError):  # msgspec's errors are ValueErrors, and text that is no UTF-8 is one too
        return []
    if snapshot.format != FORMAT:
        return []
    passed_ns = max(0, wall_ns - snapshot.wall_ns)
    return [(key, debt_ns - passed_ns) for key, debt_ns in snapshot.debts if debt_ns > passed_ns]


class LimitsFile:
    """Keeps the memory of one worker's limiter in a file."""

    def __init__(
        self, file: Path, memory: MemoryLimiter, *, clock_ns: Callable[[], int], wall_ns: Callable[[], int]
    ) -> None:
        self._file = file
        self._memory = memory
        self._clock_ns = clock_ns
        self._wall_ns = wall_ns

    def load(self) -> None:
        """Let the limiter know what its predecessor knew."""
        now_ns = self._clock_ns()
        for key, debt_ns in read_snapshot(self._file, self._wall_ns()):
            self._memory.learn(key, now_ns + debt_ns, now_ns)

    async def save(self) -> None:
        """Write what the limiter knows now. Raises OSError."""
        await asyncio.to_thread(
            lambda: write_snapshot(self._file, self._memory.debts(self._clock_ns()), self._wall_ns())
        )
