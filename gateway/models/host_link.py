"""How a worker asks its supervisor for what concerns the whole host, and hears what came of it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from itertools import count
from typing import Any


class HostLink:
    """Questions by their number. Everything is called on the event loop."""

    def __init__(self, say: Callable[..., None]) -> None:
        """`say` sends an event to the supervisor."""
        self._say = say
        self._numbers = count(1)
        self._waiting: dict[int, asyncio.Future[dict[str, Any]]] = {}

    async def ask(self, **question: Any) -> dict[str, Any]:
        """Send a question, and return its answer. Whoever stops waiting has asked all the same."""
        number = next(self._numbers)
        answer: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self._waiting[number] = answer
        try:
            self._say(event="asked", number=number, **question)
            return await answer
        finally:
            del self._waiting[number]

    def answered(self, number: int, answer: dict[str, Any]) -> None:
        """Take in what the supervisor says; nobody may be waiting for it any more."""
        waiting = self._waiting.get(number)
        if waiting is not None and not waiting.done():
            waiting.set_result(answer)
