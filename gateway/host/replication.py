"""Copies the log to an object store as it grows (`audit.replication`), in the supervisor, beside the recorder.

Rules:
- Nothing here is in the way of an append. What the store does decides only what `lag_max` and `acknowledge` make of it.
- What passes (a store that is away, full, slow, or refuses) is tried again each time. A contradiction between store and
  log stops it until the gateway is started again: somebody has to look first.
- The lag is the age of the oldest public record that the store is not known to hold. Before the first look at the store
  it counts from the start of the gateway.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from gateway.config.document import ConfigRejected
from ops.audit.copies.object_store import Place, open_store, read_credentials
from ops.audit.copies.replicator import EpochReplicator
from ops.audit.errors import AuditError, NoteError, ReplicationError, StoreError
from ops.audit.log.checkpoint import parse_vkey

if TYPE_CHECKING:
    from collections.abc import Callable

    from gateway.config.config import Config
    from ops.audit.copies.replicator import Behind
    from ops.metrics.parts import ReplicationMetrics
    from ops.process.logging import Log

MEASURE_EVERY_S = 1.0
NS = 1_000_000_000


def open_replicator(config: Config) -> EpochReplicator | None:
    """Return what copies the log, None where nothing does. The store is not asked yet.

    Raises:
        ConfigRejected: the place, the credentials or the key cannot be used.
    """
    wanted = config.audit.replication
    if wanted is None:
        return None
    try:
        credentials = {} if wanted.credentials is None else read_credentials(wanted.credentials)
        place = Place(wanted.url, wanted.endpoint, wanted.region, credentials, wanted.timeout_ms / 1000)
        store = open_store(place)
        vkey = parse_vkey(config.audit.vkey.read_text().strip())
    except (StoreError, NoteError, OSError) as problem:
        raise ConfigRejected([f"audit.replication: {problem}"]) from problem
    retention = None if wanted.retention_min_ms is None else timedelta(milliseconds=wanted.retention_min_ms)
    return EpochReplicator(config.audit.directory, store, vkey, lambda: datetime.now(UTC), retention)


@dataclass(slots=True)
class Replication:
    """Runs `replicator` every `every_s` seconds. `behind` says that the lag is beyond `lag_max_s`; `size` how many
    entries of the epoch at hand the store holds. `moved` is called on the event loop whenever one of them may have
    changed.
    """

    replicator: EpochReplicator
    every_s: float
    lag_max_s: float | None
    log: Log
    metrics: ReplicationMetrics
    moved: Callable[[], None]
    started_ns: int
    behind: bool = False
    problem: str = ""
    stopped: bool = False

    @property
    def size(self) -> int:
        """Entries of the epoch at hand that the store holds, with all that belongs to them."""
        return 0 if self.replicator.held is None else self.replicator.held.size

    @property
    def place(self) -> tuple[int, int]:
        """The epoch, and how much of it; all of those before."""
        return self.replicator.number, self.size

    async def run(self) -> None:
        """Copy until cancelled, or until store and log contradict each other."""
        try:
            while not self.stopped:
                await asyncio.to_thread(self.replicate)
                self.measure()
                await asyncio.sleep(self.every_s)
            await asyncio.Event().wait()  # a task that ends would end the host, and clients are still served
        finally:
            self.replicator.cut.set()  # the thread ends after the objects that it has in hand

    def replicate(self) -> None:
        """Copy once. Whatever goes wrong is counted, and logged when it is new."""
        try:
            self.replicator.replicate()
        except ReplicationError as problem:
            self.stopped = True
            self.metrics.failed("stopped")
            self.log("replication-stopped", level="error", problem=str(problem))
        except (AuditError, OSError) as problem:
            self._failed(str(problem))
        except Exception as problem:  # noqa: BLE001  the gateway must not end because a store found a new way
            self._failed(f"a fault of our own: {type(problem).__name__}")
        else:
            if self.problem:
                self.log("replication-back", size=self.size)
            self.problem = ""

    def _failed(self, problem: str) -> None:
        self.metrics.failed("failed")
        if not self.problem:
            self.log("replication-failed", level="warning", problem=problem)
        self.problem = problem

    async def watch(self) -> None:
        """Measure each second, also while a copy is being made."""
        while True:
            self.measure()
            await asyncio.sleep(MEASURE_EVERY_S)

    def measure(self) -> None:
        """Write down how far the store is, and say when calls are to be refused for it, or no more."""
        try:
            found = self.replicator.behind()
        except (AuditError, OSError):  # the log is being written for the first time, or cannot be read: others say so
            return
        seconds = self._lag_s(found)
        self.metrics.measured(size=self.size, entries=found.entries, seconds=seconds)
        behind = self.lag_max_s is not None and seconds > self.lag_max_s
        if behind != self.behind:
            self.behind = behind
            state = "calls are refused" if behind else "calls are taken again"
            self.log("replication-lag", level="error" if behind else "info", problem=state, count=found.entries)
        self.moved()

    def _lag_s(self, found: Behind) -> float:
        if found.since_ns is None:
            return 0.0
        since_ns = self.started_ns if self.replicator.held is None else found.since_ns
        return max(0, time.time_ns() - since_ns) / NS
