"""What a profile sets: defaults of stockade.yaml for a kind of machine. What the file itself says counts.

Pure data and how it is laid under a file. A profile never touches what is secure about a gateway: no key here begins
with `unsafe_`, and screens, limits and the audit log are as everywhere.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

PROFILES: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "standard": {},
        # One core, gateway and recorder together within 300 MiB. Bounds are small, since what waits is memory. One
        # server a port is enough where one core runs everything. A flash card lives by what is written to it: narrow
        # tiles are published every five seconds, not each second; entries are as durable before as ever.
        "edge": {
            "workers": 1,
            "engine": {"batch_rows_max": 16, "queue_rows_max": 256, "queue_bytes_max": "8MiB"},
            "transport": {"message_max": "1MiB", "rows_max": 64, "in_flight_max": 128, "servers_per_port": 1},
            "audit": {"backlog_max": "4MiB", "publish_every": "5s"},
            "cache": {"entries_max": 4096, "bytes_max": "8MiB", "ttl": "10m"},
        },
    }
)


def laid_under(values: object, chosen: str | None) -> object:
    """Return the values of a file over those of its profile; `chosen` on a command line counts before the file's own.

    What is no mapping, or names no profile that there is, is returned as it is: whoever reads it says what is wrong.
    """
    if not isinstance(values, dict):
        return values
    named = values.get("profile", "standard") if chosen is None else chosen
    if not isinstance(named, str) or named not in PROFILES:
        return {**values, "profile": named}
    return _over(PROFILES[named], {**values, "profile": named})


def _over(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Merge two mappings, section by section; what stands above counts, also an empty value."""
    merged = dict(below)
    for key, value in above.items():
        under = merged.get(key)
        merged[key] = _over(under, value) if isinstance(under, Mapping) and isinstance(value, Mapping) else value
    return merged
