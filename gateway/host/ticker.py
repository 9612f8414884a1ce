"""What a process does once a second: it writes the sums of refusals, refreshes the gauges, and forgets erased keys.

Every other second it also writes down what callers have left of their limits, for whoever comes after it.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from itertools import count
from typing import TYPE_CHECKING, Protocol

from gateway.admission.shared import FAILURES
from gateway.request.completion import write_sums
from ops.audit.errors import KeyStoreError
from serving.engines.experts import ExpertsEngine
from serving.engines.fallback import FallbackEngine
from serving.engines.ray.engine import RayEngine

if TYPE_CHECKING:
    from gateway.admission.snapshot import LimitsFile
    from gateway.config.config import Config
    from gateway.host.accounts_files import AccountsFiles
    from gateway.request.gateway import Gateway
    from ops.audit.payloads.keys import KeyStore
    from ops.metrics import Metrics
    from ops.metrics.parts import CacheMetrics, ClusterMetrics, SharedLimitsMetrics

TICK_S = 1.0
KEEP_LIMITS_TICKS = 2
KEEP_ACCOUNTS_TICKS = 30
READY, NOT_READY, UNLOADED = "ready", "not_ready", "unloaded"


class App(Protocol):
    """An open gateway, as far as the ticker looks at it: `gateway.host.app.App`."""

    @property
    def config(self) -> Config: ...

    @property
    def gw(self) -> Gateway: ...

    @property
    def keys(self) -> KeyStore: ...

    @property
    def metrics(self) -> Metrics: ...

    @property
    def limits_file(self) -> LimitsFile: ...

    @property
    def accounts(self) -> AccountsFiles: ...


async def tick(app: App) -> None:
    """Once a second: write the sums of refusals, refresh the gauges."""
    ring_full = 0
    shared_limits = app.metrics.shared_limits(FAILURES) if app.gw.shared is not None else None
    cache = app.metrics.response_cache() if app.gw.cache is not None else None
    cluster = app.metrics.ray_cluster() if app.config.engine.kind == "ray" else None
    for beat in count(1):
        await asyncio.sleep(TICK_S)
        write_sums(app.gw)
        found_full, ring_full = app.gw.ring.full - ring_full, app.gw.ring.full
        try:
            await forget_destroyed(app)
            if beat % KEEP_LIMITS_TICKS == 0:
                await keep_limits(app)
            if beat % KEEP_ACCOUNTS_TICKS == 0:
                await keep_accounts(app)
            refresh(app, found_full, shared_limits)
            if cache is not None:
                count_cached(app, cache)
            if cluster is not None:
                count_replicas(app, cluster)
        except Exception as problem:  # noqa: BLE001  whatever a gauge runs into: the sums must go on being written
            app.gw.log("gauges-not-refreshed", level="error", error=type(problem).__name__)


def refresh(app: App, ring_full: int, shared_limits: SharedLimitsMetrics | None) -> None:
    """Write the gauges. `ring_full` counts what found no slot in the in-flight ring since the last time."""
    gw = app.gw
    app.metrics.inflight(gw.concurrency.in_flight)
    app.metrics.audit_backlog(gw.sink.backlog_records)
    app.metrics.release.drift(gw.tally.drifts.values())
    app.metrics.ring_full(ring_full)
    if gw.shared is not None and shared_limits is not None:
        seen = gw.shared.observed()
        shared_limits.happened(up=seen.up, decisions=seen.decisions, failures=seen.failures, trips_us=seen.trips_us)
    for (name, version), served in gw.served.items():
        if isinstance(served.engine, ExpertsEngine) and (entropy := served.engine.routing) is not None:
            app.metrics.models.routing(name, version, entropy)
    engines: Counter[tuple[str, str]] = Counter()
    for (name, _), served in gw.served.items():
        if isinstance(served.engine, FallbackEngine):
            app.metrics.models.fallback_batches(name, served.engine.taken())
            engines.update((name, READY if ready else NOT_READY) for ready in served.engine.each_ready())
        elif served.unloaded:
            engines[name, UNLOADED] += 1
        else:
            engines[name, READY if served.engine.ready() else NOT_READY] += 1
    for name in {name for name, _ in gw.served}:
        for state in (READY, NOT_READY, UNLOADED):
            app.metrics.models.replicas(name, state, engines[name, state])


def count_cached(app: App, metrics: CacheMetrics) -> None:
    """Write what was found in the response cache since the last time, and what it holds."""
    assert app.gw.cache is not None, "asked for where there is one"
    seen = app.gw.cache.observed()
    metrics.happened(lookups=seen.lookups, entries=seen.entries, nbytes=seen.bytes)


def count_replicas(app: App, metrics: ClusterMetrics) -> None:
    """Write how many replicas Serve has of what is in service, and how many it wants."""
    counts = {}
    for served in app.gw.served.values():
        engine = served.engine.first if isinstance(served.engine, FallbackEngine) else served.engine
        if isinstance(engine, RayEngine) and not served.unloaded:
            found = engine.replicas()
            counts[found.application] = (found.wanted, found.running)
    metrics.replicas(counts)


async def forget_destroyed(app: App) -> None:
    """Let go of the payload keys that an operator has destroyed. While the key database is away, none are destroyed."""
    try:
        await asyncio.to_thread(app.keys.forget_destroyed)
    except KeyStoreError as problem:
        app.gw.log("keys-not-looked-at", level="error", problem=str(problem))


async def keep_limits(app: App) -> None:
    """Write down what callers have left, for whoever comes after this process. Without a disk it goes on without."""
    try:
        await app.limits_file.save()
    except OSError as problem:
        app.gw.log("limits-not-kept", level="warning", error=type(problem).__name__)


async def keep_accounts(app: App) -> None:
    """Write down what is known of accounts, for whoever comes after this process. Without a disk it goes on without."""
    try:
        await app.accounts.save(app.gw.served.values())
    except OSError as problem:
        app.gw.log("accounts-not-kept", level="warning", error=type(problem).__name__)
