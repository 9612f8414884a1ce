"""How far the log is known to be elsewhere, as the supervisor says, and what waits for it. No IO, no policy."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from gateway.models.rules import Level

Place = tuple[int, int]
"""An epoch of the log, and an index in it, or how many entries of it. Epochs are copied and cosigned one after another:
who has something of one has all of those before."""
NS = 1_000_000_000


@dataclass(slots=True)
class Elsewhere:
    """How much of the log is known to be elsewhere, by level, and what waits for more. On the event loop.

    `behind`: the replica is so far behind that no call may be taken.
    """

    timeout_ns: int
    behind: bool = False
    _sizes: dict[str, Place] = field(default_factory=lambda: {"replica": (0, 0), "witnessed": (0, 0)})
    _waiting: dict[asyncio.Future[None], tuple[str, Place]] = field(default_factory=dict)

    def told(self, sizes: Mapping[str, Place], *, behind: bool) -> None:
        """Take in what the supervisor says. Sizes do not shrink: what was elsewhere once has been there."""
        self.behind = behind
        for level, size in sizes.items():
            self._sizes[level] = max(self._sizes[level], size)
        for future, (level, place) in self._waiting.items():
            if place < self._sizes[level] and not future.done():
                future.set_result(None)

    def has(self, level: Level, place: Place) -> bool:
        """Say whether the entry at this place is where the level wants it."""
        return level == "local" or place < self._sizes[level]

    async def wait(self, level: Level, place: Place, timeout_ns: int) -> None:
        """Wait until the entry is there. Raises TimeoutError."""
        reached: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting[reached] = (level, place)
        try:
            async with asyncio.timeout(timeout_ns / NS):
                await reached
        finally:
            del self._waiting[reached]
