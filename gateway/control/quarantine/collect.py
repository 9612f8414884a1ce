"""Finds in the public log what somebody should look at. Off the request path: the supervisor reads what was published.

A finding is a request that an enforcing screen did not let pass and that was not simply answered as it is. What is not
in the log yet is found a second later; what was published while the gateway was down is found when it is back.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import orjson

from gateway.control.quarantine.store import Finding
from ops.audit.log.epochs import numbered, split_origin

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from gateway.control.desk import Desk
    from gateway.control.quarantine.store import Quarantine
    from ops.audit.reader.read import LogReader


PART = 16_384
WRITTEN_EVERY = 16_384  # entries without findings, which a restart may read once more
FIRST_LOOK = 100_000  # entries, where nothing is remembered


def look(desk: Desk, seen: Seen) -> bool:
    """Take in the next part of the log. Returns whether there is more. Blocks. Raises as `collect`."""
    quarantine = desk.quarantine
    origin, next_ = seen.origin or quarantine.mark("origin"), seen.next or int(quarantine.mark("next") or 0)
    return collect(quarantine, desk.public_log().reader_from(origin, next_), seen)


@dataclass(slots=True)
class Seen:
    """How far the log was read, beyond what is written down: what found nothing is not worth a sync each second."""

    origin: str = ""
    next: int = 0
    written: int = 0


def collect(quarantine: Quarantine, reader: LogReader, seen: Seen | None = None) -> bool:
    """Take in the next part of the log. Returns whether there is more. Blocks.

    How far it came is written down with what was found, else every WRITTEN_EVERY entries; `seen` holds it meanwhile.

    Raises:
        QuarantineError: the database cannot be used.
        ReadError, OSError: the log cannot be read.
    """
    head = reader.checkpoint
    if seen is None or seen.origin != head.origin:
        before = quarantine.mark("origin")
        next_epoch = before not in ("", head.origin) and split_origin(before)[0] == split_origin(head.origin)[0]
        if before not in ("", head.origin) and not next_epoch:
            quarantine.forget()
        written = 0 if next_epoch else int(quarantine.mark("next") or max(0, head.size - FIRST_LOOK))
        seen = seen or Seen()
        seen.origin, seen.next, seen.written = head.origin, written, written
    first = seen.next
    count = max(0, min(PART, head.size - first))
    if count:
        found = list(findings(reader.entries(first, count), numbered(split_origin(head.origin)[1], first)))
        if found or first + count - seen.written >= WRITTEN_EVERY or seen.written == 0:
            quarantine.take(found, {"origin": head.origin, "next": str(first + count)})
            seen.written = first + count
        seen.next = first + count
    return first + count < head.size


def findings(entries: Sequence[bytes], first: int) -> Iterator[Finding]:
    """Yield what is to be looked at among entries of the log, of which the first has this number."""
    for index, data in enumerate(entries, first):
        if b'"screens":' in data and b'"decision":"allow"' not in data:
            entry: dict[str, Any] = orjson.loads(data)
            if found := tuple(map(line_of, filter(unlike, entry.get("screens", ())))):
                yield finding_of(index, entry, found)


def unlike(screen: dict[str, Any]) -> bool:
    """Say whether an enforcing screen did not let a request pass."""
    return bool(screen["mode"] == "enforce" and screen["verdict"] != "pass")


def line_of(screen: dict[str, Any]) -> str:
    """Return what a screen said, in a line."""
    return f"{screen['name']} {screen['verdict']} p={screen['p_micro'] / 1e6:.6f} {screen['technique']}"


def finding_of(index: int, entry: dict[str, Any], found: tuple[str, ...]) -> Finding:
    """Return what is kept of an entry."""
    auth, model = entry.get("auth", {}), entry.get("model", {})
    return Finding(
        entry=index,
        request=entry["id"],
        time_ns=int(entry["time_ns"]),
        tenant=auth.get("tenant", ""),
        principal=auth.get("principal", ""),
        model=model.get("name", ""),
        version=model.get("version", ""),
        decision=entry["decision"],
        found=found,
        payload="request" in entry.get("payload", {}),
    )
