"""How far the log is known to be elsewhere, as the supervisor says, and what waits for it. No IO, no policy."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["Elsewhere", "Level"]

Level = Literal["local", "replica", "witnessed"]
NS = 1_000_000_000


@dataclass(slots=True)
class Elsewhere:
    """How many entries of the log are known to be elsewhere, by level, and what waits for more. On the event loop.

    `behind`: the replica is so far behind that no call may be taken.
    """

    timeout_ns: int
    behind: bool = False
    _sizes: dict[str, int] = field(default_factory=lambda: {"replica": 0, "witnessed": 0})
    _waiting: dict[asyncio.Future[None], tuple[str, int]] = field(default_factory=dict)

    def told(self, sizes: Mapping[str, int], *, behind: bool) -> None:
        """Take in what the supervisor says. Sizes do not shrink: what was elsewhere once has been there."""
        self.behind = behind
        for level, size in sizes.items():
            self._sizes[level] = max(self._sizes[level], size)
        for future, (level, index) in self._waiting.items():
            if index < self._sizes[level] and not future.done():
                future.set_result(None)

    def has(self, level: Level, index: int) -> bool:
        """Say whether the entry at this index is where the level wants it."""
        return level == "local" or index < self._sizes[level]

    async def wait(self, level: Level, index: int, timeout_ns: int) -> None:
        """Wait until the entry is there. Raises TimeoutError."""
        reached: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting[reached] = (level, index)
        try:
            async with asyncio.timeout(timeout_ns / NS):
                await reached
        finally:
            del self._waiting[reached]
