"""The parts of a process that take more than a constructor: what `gateway.host.app` puts together."""

from __future__ import annotations

import asyncio
import time
from functools import lru_cache
from typing import TYPE_CHECKING

from gateway.admission.snapshot import LimitsFile
from gateway.host.unprotected import Forgetful, anybody, without_protection
from gateway.models.compile import compile_policy
from gateway.models.models import serve
from gateway.request.comparison import Comparer
from gateway.request.labels.answers import Answers
from gateway.request.labels.store import FILE as FEEDBACK_FILE
from gateway.request.record import auth_fragment
from ops.audit.errors import KeyStoreError
from ops.audit.log.entry import pseudonym
from ops.audit.store.client import AuditClient
from ops.audit.store.ring import InflightRing

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping

    from gateway.admission.memory import MemoryLimiter
    from gateway.auth.principal import Principal
    from gateway.config.config import Config
    from gateway.config.place import Place
    from gateway.models.model_set import Key
    from gateway.models.rules import Active
    from gateway.models.served import Served
    from gateway.policy.issuers import Issuers
    from gateway.policy.policy import Policy
    from gateway.request.record import Site
    from gateway.request.tally import Tally
    from ops.audit.payloads.keys import KeyStore
    from ops.metrics import Metrics
    from ops.process.logging import Log
    from serving.bundles.bundle import Bundle

RING_SLOTS = 4096
PSEUDONYMS_MAX = 131_072


def serve_all(bundles: Iterable[Bundle], unloaded: Collection[Key], config: Config, log: Log) -> dict[Key, Served]:
    """Return the versions that a process begins with; those that are `unloaded` have no engine."""
    keyed = (((bundle.name, bundle.version), bundle) for bundle in bundles)
    return {key: serve(bundle, config, log, unloaded=key in unloaded) for key, bundle in keyed}


def compiled(config: Config, policy: Policy, served: Mapping[Key, Served], pepper: bytes, issuers: Issuers) -> Active:
    """Return a policy ready to be put in force, or what is left of it where every protection is off."""
    active = compile_policy(policy, served, pepper, issuers.of(policy.issuers), time.time_ns())
    return without_protection(active, anybody(policy)) if config.unsafe_unprotected else active


def make_keys(policy: Policy, keys: KeyStore, log: Log) -> None:
    """Let each tenant of a policy have its key before its first call, which would make all others wait for the disk."""
    try:
        keys.make_tenant_keys(policy.tenants)
    except KeyStoreError as problem:
        log("keys-not-made", level="warning", problem=str(problem))


def remembered_limits(place: Place, process: str, memory: MemoryLimiter) -> LimitsFile:
    """Return where a process keeps what callers have left, once the limiter has what its predecessor left there."""
    path = place.memory.with_name(f"{process}.limits")
    limits_file = LimitsFile(path, memory, clock_ns=time.monotonic_ns, wall_ns=time.time_ns)
    limits_file.load()
    return limits_file


def open_ring(place: Place, process: str, site: Site) -> InflightRing:
    """Return the file that says what a process was at, should it die."""
    context = f'{{{site.head_json},"gateway":{site.gateway_json}}}'.encode()
    return InflightRing.open(place.rings / f"{process}.ring", RING_SLOTS, context, mode=place.modes.ring)


def answers_of(config: Config, place: Place, log: Log) -> Answers | None:
    """Return where answers wait for their labels, unless every protection is off."""
    if config.unsafe_unprotected:
        return None
    return Answers(place.memory.with_name(FEEDBACK_FILE), log, time.time_ns)


def comparer_of(metrics: Metrics, tally: Tally) -> Comparer:
    """Return what runs versions beside each other, and tells the metrics what came of it."""
    return Comparer(
        done=metrics.release.compared,
        judged=tally.drifts.observe,
        both=tally.drifts.observe_both,
        dropped=metrics.release.dropped,
        clock_ns=time.monotonic_ns,
    )


async def open_sink(config: Config, place: Place, log: Log) -> AuditClient | Forgetful:
    """Return where records go, connected."""
    if config.unsafe_unprotected:
        return Forgetful(asyncio.get_running_loop())
    sink = AuditClient(
        place.socket,
        backlog_bytes_max=config.audit.backlog_bytes_max,
        append_timeout_ms=config.audit.append_timeout_ms,
        log=log,
    )
    await sink.connect()
    return sink


def auth_fragments(keys: KeyStore) -> Callable[[Principal], str]:
    """Return what the records say of a principal, remembered: the pseudonym costs a key and an HMAC."""

    @lru_cache(maxsize=PSEUDONYMS_MAX)
    def fragment(principal: Principal) -> str:
        return auth_fragment(principal, pseudonym(keys.tenant_key(principal.tenant), principal.name))

    return fragment
