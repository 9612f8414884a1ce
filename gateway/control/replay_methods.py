"""The admin port's method about replays: what one came to, as an entry in the log that was replayed."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from gateway.control.orders import ADMINISTRATOR_CHARACTERS_MAX, told_to
from gateway.errors import ArgumentInvalid
from ops.audit.errors import NoteError, ReadError, TileError
from ops.audit.log.merkle import range_root
from ops.audit.log.tiles import node_from
from stockade.v1 import admin_pb2

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from google.protobuf.message import Message

    from gateway.control.desk import Desk
    from gateway.edge.service import Call
    from gateway.request.item import Answer

LEVELS = ("R1", "R2")
COUNT_MAX = 2**53 - 1
ANOTHER = "this gateway's log has no such tree: it is another log, or an epoch that is closed"


def replay_methods(desk: Desk) -> dict[str, Callable[[Call, bytes], Awaitable[Answer]]]:
    """Return the methods by their names."""

    async def record(request: admin_pb2.RecordReplayRequest, call: Call) -> Message:
        caller, levels = call.record.caller(), [each.level for each in request.levels]
        if not levels or len(set(levels)) < len(levels) or not set(levels) <= set(LEVELS):
            raise ArgumentInvalid("levels", "must be R1, R2 or both")
        counts = [request.first, *(each.checked for each in request.levels)]
        if max(counts) > COUNT_MAX or any(each.differing > each.checked for each in request.levels):
            raise ArgumentInvalid("levels", "hold counts that cannot be")
        if not await asyncio.to_thread(has_tree, desk, request):
            return admin_pb2.RecordReplayResponse(problem=ANOTHER)
        shared = {
            "administrator": caller.credential[:ADMINISTRATOR_CHARACTERS_MAX],
            "first": request.first,
            "request": call.record.id,
            "root": request.root.hex(),
            "size": request.size,
        }
        entries = [
            {**shared, "level": each.level, "checked": each.checked, "differing": each.differing}
            for each in request.levels
        ]
        await desk.record_together("replay-result", entries)
        return admin_pb2.RecordReplayResponse(accepted=True)

    return {"RecordReplay": told_to(admin_pb2.RecordReplayRequest, record)}


def has_tree(desk: Desk, request: admin_pb2.RecordReplayRequest) -> bool:
    """Say whether the public log is, or extends, the tree that was replayed. Blocks."""
    try:
        reader = desk.public_log().reader()
        head = reader.checkpoint
        if request.origin != head.origin or not 0 < request.size <= head.size:
            return False
        return range_root(0, request.size, node_from(reader.hashes)) == request.root
    except (NoteError, ReadError, TileError):
        return False
