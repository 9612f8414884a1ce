"""The parts of one gateway process, as the pipeline works with them. `gateway.host.app` puts them together."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from gateway.auth.isolation import NOBODY, Isolations
from gateway.request.elsewhere import Elsewhere
from gateway.request.sums import Sums

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Mapping, Sequence

    from gateway.admission.budget import Budget
    from gateway.admission.concurrency import Ticket
    from gateway.admission.limiter import Limiter
    from gateway.admission.shared import SharedLimiter
    from gateway.auth.principal import Principal
    from gateway.codec import CodecLimits
    from gateway.models.host_link import HostLink
    from gateway.models.rules import Active
    from gateway.models.served import Served
    from gateway.request.cache import AnswerCache
    from gateway.request.capture import Room, Vault
    from gateway.request.comparison import Comparer
    from gateway.request.labels.answers import Answers
    from gateway.request.record import Site
    from gateway.request.tally import Tally
    from ops.audit.store.client import Done
    from ops.audit.store.ring import InflightRing
    from ops.process.logging import Log

ACKNOWLEDGE_NS = 30_000_000_000  # of a gateway that nobody configured, such as a control process


class Concurrency(Protocol):
    """How many calls may be in flight. `enter` raises a refusal where there is no room."""

    @property
    def in_flight(self) -> int: ...

    def enter(self, budget: Budget) -> Ticket: ...

    def leave(self, ticket: Ticket) -> None: ...


class Sink(Protocol):
    """Takes entries of the audit log; `done` hears on the event loop whether they are durable."""

    @property
    def available(self) -> bool: ...

    @property
    def backlog_records(self) -> int: ...

    def append(self, entries: Sequence[bytes], done: Done, *, blobs: Sequence[bytes] = ()) -> None: ...


@dataclass(slots=True)
class Gateway:
    """The parts of one gateway process. `active`, `served`, `isolations` and `draining` are all that is ever replaced.

    `host` is how a worker asks its supervisor; who has none cannot load or unload models.
    """

    site: Site
    active: Active
    served: Mapping[tuple[str, str], Served]
    limiter: Limiter
    concurrency: Concurrency
    codec_limits: CodecLimits
    metadata_bytes_max: int
    sink: Sink
    ring: InflightRing
    tally: Tally
    comparer: Comparer
    log: Log
    loop: asyncio.AbstractEventLoop
    vault: Vault
    room: Room
    auth_json: Callable[[Principal], str]
    new_id: Callable[[], bytes]
    clock_ns: Callable[[], int]
    wall_ns: Callable[[], int]
    log_level: str = "info"
    shared: SharedLimiter | None = None
    host: HostLink | None = None
    cache: AnswerCache | None = None
    answers: Answers | None = None
    isolations: Isolations = NOBODY
    draining: bool = False
    elsewhere: Elsewhere = field(default_factory=lambda: Elsewhere(ACKNOWLEDGE_NS))
    sums: Sums = field(default_factory=Sums)
    streams: set[asyncio.Queue[asyncio.Task[bytes] | None]] = field(default_factory=set)
