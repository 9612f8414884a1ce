"""Opens a kept payload for somebody who may: from the public log, decrypted, and on the record before it leaves."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import orjson

from ops.audit.errors import AuditError, KeyMissing, ReadError, SealBroken

if TYPE_CHECKING:
    from gateway.control.desk import Desk
    from gateway.control.orders import Order

PAYLOADS = "Payloads"  # the right, and the service
FIELDS = ("request", "response")
NOT_KEPT = "it was not kept: the policy's `capture` did not ask for it"
CATCHING_UP = "the log is still being read for what was erased; ask again"
_PROBLEMS: dict[type[Exception], str] = {
    KeyMissing: "its key was destroyed",
    SealBroken: "it does not open: it, or what the log says of it, is not what was kept",
    ReadError: "the published log does not hold it",
}


async def open_payload(desk: Desk, index: int, field: str, order: Order) -> tuple[bytes, str]:
    """Return a payload that an entry names, or nothing and why. Either is in the log when this returns.

    Raises:
        AuditUnavailable: it could not be recorded, so nobody reads it.
    """
    payload, problem, key = await asyncio.to_thread(_opened, desk, index, field)
    detail = {"entry": str(index), "field": field, "reason": order.reason, "request": order.request}
    detail |= {"key": key} if key else {}
    outcome = "failed" if problem else "done"
    await desk.record("admin", action="payload-read", administrator=order.administrator, detail=detail, outcome=outcome)
    return payload, problem


def _opened(desk: Desk, entry_number: int, field: str) -> tuple[bytes, str, str]:
    """Return the payload, the problem, and the key's reference. `entry_number` counts over all epochs. Blocks."""
    if not desk.custody.caught_up:
        return b"", CATCHING_UP, ""
    key = ""
    try:
        reader, index = desk.public_log().reader_of(entry_number)
        (data,) = reader.entries(index, 1)
        entry = orjson.loads(data)
        kept = entry.get("payload", {})
        if field not in kept:
            return b"", NOT_KEPT, ""
        sealed, key = kept[field], kept["key"]
        ciphertext = reader.blob(index, bytes.fromhex(sealed["ciphertext_sha256"]))
        record = bytes.fromhex(entry["id"])
        return desk.keys.open(key, record, field, ciphertext, sealed["commitment"]), "", key
    except (AuditError, OSError) as problem:
        said = _PROBLEMS.get(type(problem), f"it cannot be read: {type(problem).__name__}")
        return b"", said, key
