"""The models of one process: from a bundle on disk to an engine with its queue, and back."""

from __future__ import annotations

import asyncio
import hmac
import os
from contextlib import suppress
from typing import TYPE_CHECKING

from defenses.accounts import similarity
from defenses.accounts.watch import Watch
from defenses.extraction import budget
from defenses.extraction.proof_of_work import Toll
from gateway.models.compile import PREDICTION
from gateway.models.measured import measured_fpr
from gateway.models.metering import Metering
from gateway.models.ray import open_ray
from gateway.models.served import Served
from gateway.models.statistics import ModelCounters, ServiceTime
from gateway.models.upstream import UpstreamEngine, required
from gateway.models.watching import Watching
from ops.audit.log.entry import canonical
from ops.metrics import ScreenFacts
from serving.bundles.bundle import load_bundle
from serving.bundles.catalog import find_bundles
from serving.engines.experts import open_engine
from serving.errors import BundleDuplicate, BundleRejected, EngineClosed, Rejection

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path
    from typing import Any, NoReturn

    from gateway.config.config import Config
    from gateway.models.model_set import Listed
    from gateway.models.rules import Active
    from ops.process.logging import Log
    from serving.bundles.bundle import Bundle
    from serving.engines.engine import Engine

PROOF_KEY_BYTES = 32
WATCH_KEY_LABEL = b"stockade watch 1"
ENGINES: Mapping[str, Callable[[Bundle, Config, Log], Engine]] = {
    "inprocess": lambda bundle, *_: open_engine(bundle),
    "oip": lambda bundle, config, _: UpstreamEngine(bundle, required(config.engine.oip)),
    "ray": open_ray,
}


class NoEngine:
    """Implements `serving.engines.engine.Engine` for a version that is out of service: it is never ready."""

    def __init__(self, bundle: Bundle) -> None:
        self._label = f"{bundle.name}/{bundle.version}"

    def infer(self, _: Mapping[str, Any], /) -> NoReturn:
        """Raise EngineClosed."""
        raise EngineClosed(self._label)

    def ready(self) -> bool:
        """False."""
        return False

    def close(self) -> None:
        """Nothing is held."""


def load_bundles(config: Config, log: Log) -> dict[Path, Bundle]:
    """Verify and load every bundle of the configured directory; returns them by their own directories.

    Raises:
        BundleRejected: one of them is not exactly what a trusted key signed.
        BundleDuplicate: two of them are the same version of one model, whatever their directories are called.
    """
    bundles: dict[Path, Bundle] = {}
    for directory in find_bundles(config.bundles.directory):
        bundle = load_bundle(directory, config.bundles.trusted_keys)
        if (bundle.name, bundle.version) in {(other.name, other.version) for other in bundles.values()}:
            raise BundleDuplicate(bundle.name, bundle.version)
        log("bundle-loaded", model=bundle.name, version=bundle.version, digest=bundle.digest)
        bundles[directory] = bundle
    return bundles


def load_listed(config: Config, listed: Listed) -> Bundle:
    """Verify and load one bundle that the supervisor knows.

    Raises:
        BundleRejected: it is not exactly what a trusted key signed, or another one than the supervisor saw.
    """
    bundle = load_bundle(config.bundles.directory / listed.directory, config.bundles.trusted_keys)
    if bundle.digest != listed.digest:
        raise BundleRejected(Rejection.DIGEST, listed.directory, "another bundle stands there than the gateway knows")
    return bundle


def serve(bundle: Bundle, config: Config, log: Log, *, unloaded: bool = False) -> Served:
    """Return a model with its engine; `start_batching` gives it its queue. One that is unloaded has neither."""
    if unloaded:
        return out_of_service(bundle, config)
    return served_by(ENGINES[config.engine.kind](bundle, config, log), bundle, config)


def out_of_service(bundle: Bundle, config: Config) -> Served:
    """Return a model that is known, and that nothing runs."""
    return served_by(NoEngine(bundle), bundle, config, unloaded=True)


def served_by(engine: Engine, bundle: Bundle, config: Config, *, unloaded: bool = False) -> Served:
    """Return a model with its engine and what is counted of it."""
    watching = open_watching(bundle, config.policy.pepper)
    return Served(
        bundle=bundle,
        engine=engine,
        facts_json=canonical(
            {"digest": bundle.digest, "engine": config.engine.kind, "name": bundle.name, "version": bundle.version}
        ).decode(),
        service_time=ServiceTime(),
        counters=ModelCounters(),
        unloaded=unloaded,
        watching=watching,
        metering=open_metering(bundle, watching),
    )


def open_watching(bundle: Bundle, pepper: Path) -> Watching | None:
    """Return the watch over those who ask this model, where its bundle brings the calibration of one.

    The key of its projection follows from the pepper, so it is the same after a restart, and nobody outside knows it.
    """
    if not any(name.startswith(f"{similarity.NAME}.") for name in bundle.calibration):
        return None
    key = hmac.digest(pepper.read_bytes(), WATCH_KEY_LABEL + bytes.fromhex(bundle.digest), "sha256")
    kept = frozenset(spec.name for spec in bundle.outputs if len(spec.shape) == 1) | {PREDICTION}
    return Watching(Watch.from_calibration(bundle.calibration, key=key, answer_names=kept))


def open_metering(bundle: Bundle, watching: Watching | None) -> Metering:
    """Return who asks for proofs of work, and counts what answers cost where the bundle says how much that is.

    The key of the proofs is this process's and ends with it: nobody spends one proof in two processes.
    """
    priced = any(name.startswith(f"{budget.NAME}.") for name in bundle.calibration)
    return Metering(
        prices=budget.Prices.from_calibration(bundle.calibration) if priced else None,
        toll=Toll(os.urandom(PROOF_KEY_BYTES)),
        account_of=str if watching is None else watching.watch.group_of,
        draw=os.urandom,
    )


async def end_batching(served: Served) -> None:
    """Finish what waits for one model, and take nothing more."""
    if served.unloaded:
        return
    served.batcher.close(drain=True)
    with suppress(RuntimeError):  # it has been ended before
        # Behind the models that run: what is judged after them may need the pool once more.
        await asyncio.get_running_loop().run_in_executor(served.pool, lambda: None)
    await asyncio.to_thread(served.pool.shutdown)


async def retire(served: Served) -> None:
    """Finish what waits for a model, and let go of its engine."""
    await end_batching(served)
    served.engine.close()


def screen_facts(active: Active, served: Served) -> dict[str, ScreenFacts]:
    """Return what the metrics tell of each screen on a model."""
    rules = active.models.get((served.bundle.name, served.bundle.version))
    if rules is None:
        return {}
    report = served.bundle.manifest.get("calibration_report", {})
    facts = {}
    for name, rule in rules.screen_rules.items():
        measured = measured_fpr(report, name, rule.flag_alpha)
        facts[name] = ScreenFacts(rule.flag_alpha, rules.screens[name].technique, rule.mode.value, *measured)
    if rules.watch is not None and served.watching is not None:
        for name, technique in served.watching.watch.techniques.items():
            facts[name] = ScreenFacts(rules.watch.flag_alpha, technique, rules.watch.mode.value)
    return facts
