"""A control plane of its own process that erases, or places a hold, and may be killed at a named point.

python -m tests.faults.erasing HOME DATABASE approve|place|finish NUMBER POINT
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gateway.control.custody.procedure import Custody
from ops.audit.log.entry import canonical
from ops.audit.payloads.erasure import Erasures
from ops.audit.payloads.erasure_rows import Erasure, Hold, Word
from ops.audit.reader.read import LogReader
from ops.audit.store.client import Receipt
from tests.faults.recorder_process import KEY, client_of, settings_in

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

NOW = 1_800_000_000_000_000_000
BEN = Word("spiffe://t/ben", "ben", "b" * 32, NOW + 1)


def wanted(number: int) -> Erasure:
    """What is asked for: one subject for each number."""
    return Erasure(
        id=f"{number:032x}",
        tenant="store-7",
        subject=f"subject-{number}",
        pseudonym=f"{number:032x}",
        months=(),
        reason="DSR-1",
        requested_by="spiffe://t/anna",
        requester="anna",
        requested_ns=NOW,
    )


def hold(number: int) -> Hold:
    return Hold(f"{number:032x}", "store-7", f"subject-{number}", f"{number:032x}", "case 7", "anna", "a" * 32, NOW)


async def main(home: Path, database: Path, do: str, number: int, point: str) -> None:
    def reached(name: str) -> None:
        if name == point:
            os.kill(os.getpid(), signal.SIGKILL)

    settings = settings_in(home)
    client = client_of(settings)
    await client.connect()

    async def record(kind: str, entries: Sequence[Mapping[str, Any]]) -> None:
        durable = asyncio.get_running_loop().create_future()
        fixed = {"build": "0", "kind": kind, "time_ns": str(NOW), "v": 1}
        ids = [sha256(os.urandom(16)).hexdigest()[:32] for _ in entries]
        made = [canonical({**fixed, "id": new, **fields}) for new, fields in zip(ids, entries, strict=True)]
        client.append(made, durable.set_result)
        assert isinstance(await durable, Receipt)

    erasures = Erasures(database, reached=reached)

    def reader(_origin, _index):
        return LogReader.open(settings.directory, KEY.verifier)

    custody = Custody(erasures, record, reader, lambda *_, **__: None, reached, caught_up=True)
    match do:
        case "approve":
            await custody.approve(wanted(number).id, BEN)
        case "place":
            await custody.place(hold(number))
        case "finish":
            await custody.finish()
    erasures.close()
    await client.close()


if __name__ == "__main__":
    _, home_, database_, do_, number_, point_ = sys.argv
    asyncio.run(main(Path(home_), Path(database_), do_, int(number_), point_))
