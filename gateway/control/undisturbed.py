"""Work that goes on when whoever asked for it has gone: what is half done must be done."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

T = TypeVar("T")


async def undisturbed(
    work: Coroutine[Any, Any, T], tasks: set[asyncio.Task[Any]], failed: Callable[[BaseException], None]
) -> T:
    """Await work that a cancelled caller does not end. `tasks` holds it while it runs.

    `failed` is told what it raised: maybe nobody else hears of it.
    """

    def ended(task: asyncio.Task[T]) -> None:
        tasks.discard(task)
        if not task.cancelled() and (problem := task.exception()) is not None:
            failed(problem)

    task = asyncio.create_task(work)
    tasks.add(task)
    task.add_done_callback(ended)
    return await asyncio.shield(task)
