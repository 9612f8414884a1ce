"""A process of the host that somebody else starts and keeps: it can be found and missed, never started or stopped."""

from __future__ import annotations

import asyncio
import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

LOOK_EVERY_S = 0.5


@dataclass(slots=True)
class Neighbour:
    """`ready` is set while `there` finds it. It takes the place of a `Child` among what a host waits for."""

    name: str
    there: Callable[[], Awaitable[bool]]
    log: Callable[..., None]
    ready: asyncio.Event = field(default_factory=asyncio.Event)

    async def run(self) -> None:
        """Look for it until cancelled."""
        while True:
            found = await self.there()
            if found != self.ready.is_set():
                self.log("neighbour-found" if found else "neighbour-missed", level=_level(found), child=self.name)
                (self.ready.set if found else self.ready.clear)()
            await asyncio.sleep(LOOK_EVERY_S)

    async def stop(self, timeout_s: float) -> None:
        """Leave it alone."""


def _level(found: bool) -> str:
    return "info" if found else "error"


async def greets(path: Path, timeout_s: float) -> bool:
    """Say whether what listens on a unix socket says something to whoever connects, as the recorder does."""
    try:
        async with asyncio.timeout(timeout_s):
            reader, writer = await asyncio.open_unix_connection(os.fspath(path))
            try:
                return bool(await reader.read(1))
            finally:
                writer.close()
    except (OSError, TimeoutError):
        return False
