"""The composition root: from the two files to a running gateway. Plain tables from kind to factory.

A process opens its parts once, in the order in which they depend on each other, and closes them in the opposite order.
"""

from __future__ import annotations

import asyncio
import random
import socket
import time
from dataclasses import dataclass, field
from functools import partial
from importlib.metadata import version
from typing import TYPE_CHECKING

from gateway import errors
from gateway.admission.concurrency import Concurrency
from gateway.admission.memory import MemoryLimiter
from gateway.admission.snapshot import LimitsFile
from gateway.auth.isolation import NOBODY
from gateway.codec import CodecLimits
from gateway.config.place import place_of
from gateway.edge.server import certificates_expire
from gateway.host.accounts_files import AccountsFiles
from gateway.host.parts import (
    answers_of,
    auth_fragments,
    comparer_of,
    compiled,
    make_keys,
    open_ring,
    open_sink,
    remembered_limits,
    serve_all,
)
from gateway.host.shared_limits import open_shared, shares_limits, worker_share
from gateway.host.ticker import keep_accounts, keep_limits, tick
from gateway.host.unprotected import Forgetful, Unlimited
from gateway.models.compile_release import with_standings
from gateway.models.models import end_batching, load_listed, retire, screen_facts, serve
from gateway.models.standings import RELEASES, read_reached, standings
from gateway.policy.issuers import Issuers
from gateway.policy.load import load_policy
from gateway.request.acknowledgement import require_places
from gateway.request.batching import start_batching
from gateway.request.cache import open_cache
from gateway.request.capture import BACKLOG_SHARE, Room, Vault
from gateway.request.completion import BODY_INCOMPLETE, write_sums
from gateway.request.elsewhere import Elsewhere
from gateway.request.gateway import Gateway
from gateway.request.labels.gate import REASONS as LABEL_REASONS
from gateway.request.record import site_of
from gateway.request.tally import Tally
from gateway.request.traces import Traces, open_traces, require_tracing
from ops.audit.payloads.keys import KeyStore
from ops.audit.store.client import AuditClient
from ops.metrics import Metrics

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping
    from pathlib import Path

    from gateway.auth.isolation import Isolations
    from gateway.config.config import Config
    from gateway.edge.service import Stream, Unary
    from gateway.models.compile_release import Standing
    from gateway.models.host_link import HostLink
    from gateway.models.model_set import Key, Listed, ModelSet
    from gateway.models.rules import Active
    from gateway.models.served import Served
    from gateway.policy.policy import Policy
    from ops.process.logging import Log
    from serving.bundles.bundle import Bundle

REASONS = frozenset({BODY_INCOMPLETE, *(row.reason for row in errors.TABLE.values()), *LABEL_REASONS})


@dataclass(frozen=True, slots=True)
class Staged:
    """A policy and models that are ready to be put in force together. `opened` are those that were not there before."""

    active: Active
    policy: Policy
    models: ModelSet
    served: Mapping[Key, Served]
    opened: tuple[Served, ...]


@dataclass(slots=True)
class App:
    """An open gateway with what has to be closed, and what compiles a new policy for it."""

    config: Config
    gw: Gateway
    issuers: Issuers
    keys: KeyStore
    metrics: Metrics
    sink: AuditClient | Forgetful
    pepper: bytes
    limits_file: LimitsFile
    accounts: AccountsFiles
    traces: Traces | None = None
    ticker: asyncio.Task[None] | None = field(default=None)
    standings: Mapping[str, Standing] = field(default_factory=dict)
    in_force: tuple[Active, Policy] = field(init=False)
    retiring: set[asyncio.Task[None]] = field(default_factory=set)

    def compile(self, policy: Policy, served: Mapping[Key, Served] | None = None) -> Active:
        """Return the policy ready to be put in force, for these models or the present ones; or raise PolicyRejected."""
        require_places(policy, self.config.audit)
        served = self.gw.served if served is None else served
        return compiled(self.config, policy, served, self.pepper, self.issuers)

    def stage(self, policy: Policy, models: ModelSet) -> Staged:
        """Open what is listed and not there yet, and compile the policy for it all. Blocks; changes nothing.

        Raises:
            FileRejected, ServingError: it would not do. What was opened is closed again.
        """
        served: dict[Key, Served] = {}
        opened: list[Served] = []
        try:
            for listed in models.listed:
                unloaded, held = listed.key in models.unloaded, self.gw.served.get(listed.key)
                if held is None or held.unloaded != unloaded:
                    held = self._open(listed, held, unloaded=unloaded)
                    opened.append(held)
                served[listed.key] = held
            active = self.compile(policy, served)
        except BaseException:
            self.drop(opened)
            raise
        make_keys(policy, self.keys, self.gw.log)
        return Staged(active, policy, models, served, tuple(opened))

    def _open(self, listed: Listed, before: Served | None, *, unloaded: bool) -> Served:
        """Return a version as it is from now on; what was counted of it goes on."""
        bundle = before.bundle if before is not None else load_listed(self.config, listed)
        opened = serve(bundle, self.config, self.gw.log, unloaded=unloaded)
        if before is None:
            self.accounts.load(opened)
        else:
            opened.watching, opened.metering = before.watching, before.metering
            opened.counters, opened.service_time = before.counters, before.service_time
        if not unloaded:
            start_batching(opened, self.config.engine, self.gw)
        return opened

    def drop(self, opened: Iterable[Served]) -> None:
        """Let go of what was staged and will not be used. From any thread."""
        for each in opened:
            asyncio.run_coroutine_threadsafe(retire(each), self.gw.loop)

    def take_over(self, staged: Staged) -> None:
        """Put what is staged in force; what it replaces finishes the calls that it has taken."""
        before, self.gw.served = self.gw.served, staged.served
        self.put_in_force(staged.active, staged.policy)
        for key, held in before.items():
            if staged.served.get(key) is not held:
                task = self.gw.loop.create_task(retire(held))
                self.retiring.add(task)
                task.add_done_callback(self.retiring.discard)

    def begin(self, active: Active, policy: Policy, reached: Mapping[str, Standing]) -> None:
        """Let the engines work, and put the first policy in force, with canaries where they had got to."""
        for served in self.gw.served.values():
            self.accounts.load(served)
            if not served.unloaded:
                start_batching(served, self.config.engine, self.gw)
        if self.gw.served:
            self.metrics.build(self.gw.site.build)
        for name, expires_s in certificates_expire(self.config.tls).items() if self.config.tls else ():
            self.metrics.certificate(name, expires_s)
        self.standings = reached
        self.put_in_force(active, policy)
        self.ticker = asyncio.create_task(tick(self))

    def put_in_force(self, active: Active, policy: Policy) -> None:
        """Let every request that begins from now on see this policy."""
        self.in_force = active, policy
        if self.gw.cache is not None:
            self.gw.cache.clear()
        self.gw.active = with_standings(active, policy, self.standings)
        self.metrics.release.serve_releases(
            {name: (model.serve, *model.release.versions) for name, model in policy.models.items() if model.release}
        )
        if self.gw.shared is not None:
            self.gw.shared.while_away(worker_share(policy, self.config.workers))
        self.metrics.serve_classes(policy.classes)
        for served in self.gw.served.values():
            self.metrics.serve_model(served.bundle.name, served.bundle.version, screen_facts(active, served))
        if self.gw.served:  # else it is a control process, and no worker
            self.metrics.policy(active.digest)

    def move_canaries(self, standings: Mapping[str, Standing]) -> None:
        """Let every request that begins from now on find the canaries where they stand."""
        self.standings = standings
        self.gw.active = with_standings(*self.in_force, standings)

    async def close(self) -> None:
        """Finish what was accepted, write the last sums, and let go."""
        for served in self.gw.served.values():
            await end_batching(served)
        await asyncio.gather(*self.retiring, return_exceptions=True)
        await asyncio.to_thread(self.gw.comparer.close)
        if self.ticker is not None:
            self.ticker.cancel()
        if self.gw.shared is not None:
            await self.gw.shared.close()
        await keep_limits(self)
        await keep_accounts(self)
        write_sums(self.gw)
        await self.sink.close()
        if self.gw.answers is not None:
            await self.gw.answers.flush()
        for served in self.gw.served.values():
            served.engine.close()
        self.gw.tally.flush()
        if self.traces is not None:
            await asyncio.to_thread(self.traces.close)
        self.issuers.close()
        self.keys.close()
        self.gw.ring.close()
        self.metrics.close()


async def open_app(
    config: Config,
    policy_file: Path,
    *,
    process: str,
    log: Log,
    methods: Mapping[str, Unary | Stream],
    bundles: Iterable[Bundle],
    unloaded: Collection[Key] = (),
    host: HostLink | None = None,
    isolations: Isolations = NOBODY,
) -> App:
    """Open the parts of one process. `process` is its name on this host, such as "worker-0".

    Without bundles it is a control process: it knows callers and records, and answers for no model. Versions that are
    `unloaded` are known and have no engine. `host` is how a worker asks its supervisor, `isolations` who is kept out.

    Raises:
        ConfigRejected, PolicyRejected, GraphRejected, AuditUnavailable: what stands in the way of a safe start.
    """
    require_tracing(config)
    place = place_of(config)
    policy = load_policy(policy_file, config.policy.public_key)
    require_places(policy, config.audit)
    loop = asyncio.get_running_loop()
    kinds = {path: method.kind for path, method in methods.items()}
    metrics = Metrics(place.metrics, process, methods=kinds, reasons=REASONS)
    site = site_of(version("stockade"), config.digest, f"{socket.gethostname()}/{process}")
    sink = await open_sink(config, place, log)
    keys = KeyStore(config.audit.key_database, config.audit.master_key.read_bytes(), origin=config.audit.origin)
    served = serve_all(bundles, unloaded, config, log)
    pepper = config.policy.pepper.read_bytes()
    issuers = Issuers(config.policy.file.parent)
    active = compiled(config, policy, served, pepper, issuers)
    make_keys(policy, keys, log)
    traces = open_traces(config.tracing, site, metrics, log) if config.tracing is not None else None
    tally = Tally(metrics, loop, traces)
    memory = MemoryLimiter()
    limits_file = remembered_limits(place, process, memory)
    accounts = AccountsFiles(place.memory.parent, process, log, time.time_ns)
    shared = await open_shared(config, pepper, memory, log) if served and shares_limits(config) else None
    transport = config.transport
    gw = Gateway(
        site=site,
        active=active,
        served=served,
        limiter=Unlimited() if config.unsafe_unprotected else shared or memory,
        concurrency=Unlimited() if config.unsafe_unprotected else Concurrency(transport.in_flight_max),
        codec_limits=CodecLimits(message_bytes_max=transport.message_bytes_max, rows_max=transport.rows_max),
        metadata_bytes_max=transport.metadata_bytes_max,
        sink=sink,
        ring=open_ring(place, process, site),
        tally=tally,
        comparer=comparer_of(metrics, tally),
        log=log,
        loop=loop,
        vault=Vault(keys),
        room=Room(config.audit.backlog_bytes_max // BACKLOG_SHARE),
        auth_json=auth_fragments(keys),
        new_id=partial(random.SystemRandom().randbytes, 16),
        clock_ns=time.monotonic_ns,
        wall_ns=time.time_ns,
        log_level=config.log.level,
        shared=shared,
        host=host,
        cache=open_cache(config.cache) if served else None,
        answers=answers_of(config, place, log) if served else None,
        isolations=isolations,
        elsewhere=Elsewhere(config.audit.acknowledge_timeout_ms * 1_000_000),
    )
    app = App(config, gw, issuers, keys, metrics, sink, pepper, limits_file, accounts, traces)
    app.begin(active, policy, standings(read_reached(place.memory.with_name(RELEASES))))
    return app
