"""The Ray engine from the configuration: what it is told, and what `stockade ray` deploys.

No Ray here: `serving.ray_bridge` runs in a process of its own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from serving.fallback import FallbackEngine
from serving.inprocess import InProcessEngine
from serving.ray_engine import RayEngine
from serving.ray_settings import RaySettings

if TYPE_CHECKING:
    from gateway.config import Config
    from serving.bundle import Bundle
    from serving.engine import Engine

__all__ = ["open_ray", "ray_settings"]


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


def open_ray(bundle: Bundle, config: Config) -> Engine:
    """Return the engine of one bundle, with the fallback that is configured."""
    ray = config.engine.ray
    assert ray is not None, "config_rules hold that there is one"
    engine = RayEngine(bundle, ray_settings(config), start_timeout_s=ray.start_timeout_ms / 1000)
    return FallbackEngine(engine, InProcessEngine(bundle)) if config.engine.fallback == "inprocess" else engine
