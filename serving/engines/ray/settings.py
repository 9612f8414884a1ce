"""What the Ray engine is told, and the Serve applications that follow from it. Pure: no Ray, no IO.

`applications` is the one source of what is deployed: `stockade ray deploy` deploys it, `stockade ray config` prints it,
and the engine looks for the same names.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

IMPORT_PATH = "serving.engines.ray.replica:build"
DEPLOYMENT = "model"
FORMAT = 1


class RaySettings(msgspec.Struct, frozen=True, kw_only=True):
    """Where the cluster is and how it is used.

    `address` is of the cluster's head (GCS), `namespace` begins the name of every application. `models_per_replica` is
    0 when every model has replicas of its own; otherwise all share replicas that hold that many models at most.
    """

    address: str
    namespace: str = "stockade"
    call_timeout_ms: int = 5000
    replicas_min: int = 1
    replicas_max: int = 1
    target_ongoing: int = 2
    max_ongoing: int = 8
    cpus_per_replica: float = 1.0
    prefer_local: bool = True
    models_per_replica: int = 0
    drain_timeout_ms: int = 20_000


class Deployable(msgspec.Struct, frozen=True):
    """A bundle that can be deployed: who it is, and where the nodes of the cluster find it."""

    name: str
    version: str
    digest: str
    directory: str


class Application(msgspec.Struct, frozen=True):
    """One Serve application: the arguments of its builder and the options of its deployment."""

    name: str
    args: dict[str, Any]
    options: dict[str, Any]


class DeployPlan(msgspec.Struct, frozen=True):
    """What is deployed where. `prune` names a namespace whose other applications are removed, "" removes none."""

    address: str
    applications: list[Application]
    prune: str = ""


def target_of(settings: RaySettings, name: str, version: str) -> tuple[str, str]:
    """Return the application that answers for a model, and the model's id in it, "" where it has no other.

    No two models have the same, in whatever namespaces. A model's name may have hyphens; a namespace has none
    (`engine.ray.namespace`), and a version is digits (`serving.bundles.manifest`). So the namespace ends at the first
    hyphen, the version begins behind the last, and nothing in a namespace begins like something in another.
    """
    if settings.models_per_replica:
        return f"{settings.namespace}-shared", f"{name}/{version}"
    return f"{settings.namespace}-{name}-{version}", ""


def applications(
    settings: RaySettings, bundles: Sequence[Deployable], trusted_keys: Sequence[Path]
) -> list[Application]:
    """Return the applications that serve these bundles, in their order."""
    named: dict[str, dict[str, Any]] = {}
    for bundle in bundles:
        application, _ = target_of(settings, bundle.name, bundle.version)
        entry = {"directory": bundle.directory, "digest": bundle.digest}
        named.setdefault(application, {})[f"{bundle.name}/{bundle.version}"] = entry
    common = {
        "format": FORMAT,
        "trusted_keys": [str(key) for key in trusted_keys],
        "hung_after_s": settings.call_timeout_ms / 1000,
        "threads": settings.max_ongoing,
        "models_max": settings.models_per_replica,
    }
    return [
        Application(name, {**common, "bundles": bundles_of}, _options(settings)) for name, bundles_of in named.items()
    ]


def serve_config(found: Sequence[Application]) -> dict[str, Any]:
    """Return the Serve config file of these applications: no HTTP, no route, so that the gateway is the only way in."""
    return {
        "proxy_location": "Disabled",
        "applications": [
            {
                "name": application.name,
                "route_prefix": None,
                "import_path": IMPORT_PATH,
                "args": application.args,
                "deployments": [{"name": DEPLOYMENT, **application.options}],
            }
            for application in found
        ],
    }


def _options(settings: RaySettings) -> dict[str, Any]:
    scale: dict[str, Any] = {"num_replicas": settings.replicas_min}
    if settings.replicas_max > settings.replicas_min:
        scale = {
            "autoscaling_config": {
                "min_replicas": settings.replicas_min,
                "max_replicas": settings.replicas_max,
                "target_ongoing_requests": settings.target_ongoing,
                "upscale_delay_s": 3.0,
                "downscale_delay_s": 60.0,
            }
        }
    return {
        **scale,
        "max_ongoing_requests": settings.max_ongoing,
        "ray_actor_options": {"num_cpus": settings.cpus_per_replica},
        "graceful_shutdown_timeout_s": settings.drain_timeout_ms / 1000,
    }
