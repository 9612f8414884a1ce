"""Which incidents there were, from the audit log: it is the only place where they are written down.

Pure, and bounded. An incident that is closed and opened again under the same name goes on.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import orjson

from ops.incidents.timeline import FOR_EVER_NS, Scope

INCIDENTS_MAX = 10_000
ACTS_MAX = 500
PRINCIPAL, TENANT, MODEL = "principal:", "tenant:", "model:"


@dataclass(slots=True)
class Opened:
    """An incident as it was opened, and the indexes of what names it since."""

    name: str
    index: int
    time_ns: int
    administrator: str
    reason: str
    from_ns: int
    until_ns: int
    suspects: tuple[str, ...]
    acts: list[int] = field(default_factory=list)
    closed_index: int | None = None

    def scope(self) -> Scope:
        """Return what its timeline is about."""
        return Scope(
            self.from_ns,
            self.until_ns,
            tenants=frozenset(self._named(TENANT)),
            principals=frozenset(each.rpartition("/")[2] for each in self._named(PRINCIPAL)),
            models=frozenset(self._named(MODEL)),
        )

    def _named(self, prefix: str) -> list[str]:
        return [each.removeprefix(prefix) for each in self.suspects if each.startswith(prefix)]


@dataclass(slots=True)
class Register:
    """The incidents of a log by name."""

    incidents: dict[str, Opened] = field(default_factory=dict)

    def add(self, index: int, data: bytes) -> None:
        """Take in the next entry of the log, canonical JSON as it stands there."""
        if b'"incident":"' not in data:
            return
        entry: Mapping[str, Any] = orjson.loads(data)
        name = entry.get("incident") or entry.get("detail", {}).get("incident", "")
        known = self.incidents.get(name)
        if entry["kind"] != "incident":
            if known is not None and len(known.acts) < ACTS_MAX:
                known.acts.append(index)
            return
        if entry["action"] == "opened" and known is None:
            if len(self.incidents) < INCIDENTS_MAX:
                self.incidents[name] = opened(index, entry)
        elif known is not None:
            known.closed_index = index if entry["action"] == "closed" else None
            if len(known.acts) < ACTS_MAX:
                known.acts.append(index)


def opened(index: int, entry: Mapping[str, Any]) -> Opened:
    """Return an incident from the entry that opens it."""
    return Opened(
        name=entry["incident"],
        index=index,
        time_ns=int(entry["time_ns"]),
        administrator=entry["administrator"],
        reason=entry.get("reason", ""),
        from_ns=int(entry.get("from_ns", 0)),
        until_ns=int(entry.get("until_ns", FOR_EVER_NS)),
        suspects=tuple(entry.get("suspects", ())),
    )
