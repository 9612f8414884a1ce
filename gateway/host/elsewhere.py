"""What is known of the log elsewhere, by a replica or by witnesses: asked for here, and told to the workers.

Workers hold back answers until their records are there, and refuse calls while the replica is too far behind
(`gateway.request.acknowledgement`). They are told each second, also when nothing has changed: one may just have
started.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from gateway.control.cosigning import Cosigning
from gateway.host.replication import Replication

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from gateway.host.admin import Control
    from gateway.host.host import Host

TELL_EVERY_S = 1.0


def keep_elsewhere(host: Host, control: Control) -> Iterator[asyncio.Task[None]]:
    """Begin to have the log cosigned and copied, as far as that is configured."""
    audit, metrics = host.config.audit, control.app.metrics
    cosigning: Cosigning | None = None
    replication: Replication | None = None

    def tell() -> None:
        reached = {
            "replica": (0, 0) if replication is None else replication.place,
            "witnessed": (0, 0) if cosigning is None else cosigning.place,
            "behind": replication is not None and replication.behind,
        }
        for worker in host.workers:
            worker.tell(do="reached", **reached)

    if audit.witnesses is not None and host.witnesses is not None:
        series = metrics.witnesses(host.witnesses.witnesses)
        every_s = audit.witnesses.every_ms / 1000
        cosigning = Cosigning(
            audit.directory,
            control.public_log().vkey(),
            host.witnesses,
            every_s,
            host.place.cosigned,
            host.log,
            series,
            moved=tell,
        )
        yield asyncio.create_task(cosigning.run(), name="the cosigning of the log")
    if audit.replication is not None and host.replicator is not None:
        lag_max_ms = audit.replication.lag_max_ms
        replication = Replication(
            host.replicator,
            audit.replication.every_ms / 1000,
            None if lag_max_ms is None else lag_max_ms / 1000,
            host.log,
            metrics.replication(),
            tell,
            host.started_ns,
        )
        yield asyncio.create_task(replication.run(), name="the replication of the log")
        yield asyncio.create_task(replication.watch(), name="the watch of the replica")
    if cosigning is not None or replication is not None:
        yield asyncio.create_task(_telling(tell), name="the telling of what is elsewhere")


async def _telling(tell: Callable[[], None]) -> None:
    while True:
        tell()
        await asyncio.sleep(TELL_EVERY_S)
