"""Who is kept out of a host: tenants and principals, by an operator's word, until when, and why.

The supervisor writes this down, durably, before anybody acts by it; every process of the host reads it when it starts
and is told when it changes. It stands beside the log, as the memory of the policy's revision does, and not in the state
directory, which may be deleted: who was kept out stays out. It is not signed, and needs not be: it can only take away.
Whoever can write there can let somebody in again, and could as well take the policy's place.

Rules:
- A subject has at most one isolation. Every change of it has a new id, so that nobody lifts what he has not seen.
- One that has run out keeps nobody out, also before anybody has taken it off the list.
- What the policy says does not matter: a principal that is renamed is another one, one that comes back is kept out.

    IsolationRefused     it cannot be done; the message is for the operator
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from functools import cached_property
from hashlib import sha256
from typing import TYPE_CHECKING, Any

from gateway.config.document import PolicyRejected, read_bounded
from gateway.errors import Isolated

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from gateway.auth.principal import Principal

ISOLATIONS = "isolations.json"
ISOLATIONS_MAX = 4096
BYTES_MAX = 8 * 1024 * 1024

Subject = tuple[str, str]
"""Tenant and principal; an empty principal is the whole tenant."""


class IsolationRefused(Exception):
    """It cannot be done. The message is for the operator."""


@dataclass(frozen=True, slots=True)
class Isolation:
    """One subject that is kept out. Times are Unix nanoseconds; `until_ns` of 0 has no end. `id` is 32 hex digits."""

    id: str
    tenant: str
    principal: str
    administrator: str
    reason: str
    since_ns: int
    until_ns: int
    incident: str

    @property
    def subject(self) -> Subject:
        """Return who is kept out."""
        return self.tenant, self.principal

    def holds(self, now_ns: int) -> bool:
        """Say whether it has not run out."""
        return self.until_ns == 0 or now_ns < self.until_ns


@dataclass(frozen=True)
class Isolations:
    """All that are kept out. Immutable; `of` is two look-ups whatever their number."""

    listed: tuple[Isolation, ...] = ()
    by_subject: dict[Subject, Isolation] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "by_subject", {one.subject: one for one in self.listed})

    @cached_property
    def digest(self) -> str:
        """Return what two processes compare to see whether they keep out the same."""
        return sha256(self.to_json()).hexdigest()

    def of(self, principal: Principal, now_ns: int) -> Isolation | None:
        """Return what keeps a caller out, if anything does."""
        if not self.listed:
            return None
        for subject in ((principal.tenant, principal.name), (principal.tenant, "")):
            found = self.by_subject.get(subject)
            if found is not None and found.holds(now_ns):
                return found
        return None

    def require(self, principal: Principal, now_ns: int) -> None:
        """Isolated where something keeps this caller out."""
        if self.listed and self.of(principal, now_ns) is not None:
            raise Isolated

    def with_these(self, more: Iterable[Isolation]) -> Isolations:
        """Return these and `more`, which replace what their subjects had. Raises IsolationRefused beyond the bound."""
        merged = {**self.by_subject, **{one.subject: one for one in more}}
        if len(merged) > ISOLATIONS_MAX:
            raise IsolationRefused(
                f"at most {ISOLATIONS_MAX:,} can be kept out; isolate tenants as a whole, or lift some"
            )
        return Isolations(tuple(merged.values()))

    def without(self, ids: Iterable[str]) -> tuple[Isolations, list[Isolation]]:
        """Return what is left, and what was lifted. Raises IsolationRefused unless each of the ids is there."""
        wanted = set(ids)
        gone = [one for one in self.listed if one.id in wanted]
        if missing := wanted - {one.id for one in gone}:
            problem = f"there is no isolation {min(missing)}: it was changed or lifted meanwhile"
            raise IsolationRefused(f"{problem}; look again with `stockade tenants list`")
        return Isolations(tuple(one for one in self.listed if one.id not in wanted)), gone

    def over(self, now_ns: int) -> Iterator[Isolation]:
        """Yield those that have run out."""
        return (one for one in self.listed if not one.holds(now_ns))

    def to_json(self) -> bytes:
        """Return the bytes of the file."""
        return json.dumps({"isolations": [asdict(one) for one in self.listed]}, sort_keys=True).encode() + b"\n"


NOBODY = Isolations()


def read_isolations(file: Path) -> Isolations:
    """Return what is written down; nobody where there is no file.

    Raises:
        PolicyRejected: the file is not one of ours. Nobody guesses who was kept out.
    """
    if not file.exists():
        return NOBODY
    try:
        found = json.loads(read_bounded(file, BYTES_MAX, PolicyRejected))["isolations"]
        return isolations_of(found)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        advice = "restore it, or remove it: whoever was kept out is then let in"
        raise PolicyRejected([f"{file}: does not say who is kept out; {advice}"]) from None


def isolations_of(found: list[dict[str, Any]]) -> Isolations:
    """Return them as they were written. Raises ValueError or TypeError."""
    listed = tuple(isolation_of(fields) for fields in found)
    if len({one.subject for one in listed}) != len(listed) or len(listed) > ISOLATIONS_MAX:
        raise ValueError("one of them twice, or too many")
    return Isolations(listed)


def isolation_of(fields: dict[str, Any]) -> Isolation:
    """Return one as it was written. Raises ValueError or TypeError."""
    one = Isolation(**fields)
    texts = (one.id, one.tenant, one.principal, one.administrator, one.reason, one.incident)
    times = (one.since_ns, one.until_ns)
    if not all(isinstance(text, str) for text in texts) or not all(type(time) is int and time >= 0 for time in times):
        raise TypeError("a text or a time is something else")
    if not (one.id and one.tenant):
        raise ValueError("no id, or nobody")
    return one
