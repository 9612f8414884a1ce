"""The Ray engine from the configuration: what it is told, and what `stockade ray` deploys.

No Ray here: `serving.engines.ray.bridge` runs in a process of its own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from serving.engines.fallback import FallbackEngine
from serving.engines.inprocess import InProcessEngine
from serving.engines.ray.engine import RayEngine
from serving.engines.ray.settings import RaySettings

if TYPE_CHECKING:
    from collections.abc import Callable

    from gateway.config.config import Config
    from ops.process.logging import Log
    from serving.bundles.bundle import Bundle
    from serving.engines.engine import Engine
    from serving.errors import BackendUnavailable


def ray_settings(config: Config) -> RaySettings:
    """Return what the configuration says of the cluster, which it must have."""
    ray = config.engine.ray
    assert ray is not None, "config_rules hold that there is one"
    return RaySettings(
        address=ray.address,
        namespace=ray.namespace,
        call_timeout_ms=ray.call_timeout_ms,
        replicas_min=ray.replicas.min,
        replicas_max=ray.replicas.max,
        target_ongoing=ray.replicas.target_ongoing,
        max_ongoing=ray.max_ongoing,
        cpus_per_replica=ray.replicas.cpus,
        prefer_local=ray.prefer_local,
        models_per_replica=ray.models_per_replica,
        drain_timeout_ms=config.transport.drain_timeout_ms,
    )


def open_ray(bundle: Bundle, config: Config, log: Log) -> Engine:
    """Return the engine of one bundle, with the fallback that is configured."""
    ray = config.engine.ray
    assert ray is not None, "config_rules hold that there is one"
    engine = RayEngine(bundle, ray_settings(config), start_timeout_s=ray.start_timeout_ms / 1000)
    if config.engine.fallback != "inprocess":
        return engine
    return FallbackEngine(engine, InProcessEngine(bundle), telling(bundle, log))


def telling(bundle: Bundle, log: Log) -> Callable[[BackendUnavailable | None], None]:
    """Return what writes down that a model fell back on the worker's own engine, and that it came back."""

    def changed(gone: BackendUnavailable | None) -> None:
        if gone is None:
            log("fallback-ended", model=bundle.name, version=bundle.version)
            return
        facts = {"error": type(gone).__name__, "problem": gone.remark or None}
        log("fallback-began", level="warning", model=bundle.name, version=bundle.version, **facts)

    return changed
