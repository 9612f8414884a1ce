"""What the supervisor looks at again and again: what screens found, what labels say, which erasures are owed.

Each chore is a task that ends with the host; `chores` lists them with their names.
"""

from __future__ import annotations

import asyncio
import sqlite3
from typing import TYPE_CHECKING

from gateway.control.labels.evaluation import promised_by
from gateway.control.quarantine.collect import Seen, look
from gateway.control.quarantine.store import QuarantineError
from ops.audit.errors import AuditError, ReadError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from gateway.host.admin import Control
    from gateway.host.host import Host

COLLECT_EVERY_S = 1.0
EVALUATE_EVERY_S = 60.0


def chores(host: Host, control: Control) -> Iterator[asyncio.Task[None]]:
    """Begin every chore of a host whose control plane is open."""
    for name, work in (
        ("the watch of what screens find", keep_collecting(host, control)),
        ("the watch of what labels say", keep_evaluating(host, control)),
        ("the watch of erasures", control.custody.keep()),
    ):
        yield asyncio.create_task(work, name=name)


async def keep_collecting(host: Host, control: Control) -> None:
    """Look again every second, and at once where there is more. Ends with the host."""
    seen = Seen()
    while True:
        try:
            more = await asyncio.to_thread(lambda: look(control, seen))
        except (QuarantineError, AuditError, OSError) as problem:
            more = False
            if not isinstance(problem, ReadError):  # there is no log to read yet, or it is being written
                host.log("quarantine-not-filled", level="error", problem=str(problem))
        if not more:
            await asyncio.sleep(COLLECT_EVERY_S)


async def keep_evaluating(host: Host, control: Control) -> None:
    """Look again every minute. Ends with the host."""
    found, metrics = host.evaluations, control.app.metrics.evaluations()
    while True:
        now_ns = control.app.gw.wall_ns()
        try:
            await asyncio.to_thread(found.look, host.policy, now_ns)
        except (sqlite3.Error, OSError) as problem:
            host.log("versions-not-evaluated", level="error", problem=str(problem))
        else:
            told = promised_by(host.repository.bundles.values())
            metrics.found(each.figures(*told.get((each.model, each.version), ())) for each in found.found)
            for entry in found.to_record(now_ns):
                await control.record_when_possible("evaluation", **entry)
        await asyncio.sleep(EVALUATE_EVERY_S)
