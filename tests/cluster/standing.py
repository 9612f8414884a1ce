"""A cluster that stands for a whole test session: two models, each with replicas of its own, and both sharing some."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import msgspec

from gateway.tools.samples import bundles_directory
from serving.bundles.bundle import Bundle
from serving.engines.ray.engine import RayEngine
from serving.engines.ray.link import borrow, give_back
from serving.engines.ray.settings import RaySettings
from serving.train.pack import public_pem
from tests.cluster.ray_nodes import Cluster, ray_cluster
from tests.serving.tiny import signing_key, tiny_sealed, write

REPLICA_CPUS = 0.1  # the test machine has few, and Ray only counts them


@dataclass(slots=True)
class Stand:
    """The cluster, what is deployed on it, and how engines are made."""

    cluster: Cluster
    bundles: Path
    keys: list[Path]
    settings: RaySettings
    together: RaySettings

    def own(self, bundle: Bundle) -> RayEngine:
        return RayEngine(bundle, self.settings)

    def shared(self, bundle: Bundle) -> RayEngine:
        return RayEngine(bundle, self.together)


def lay_out(directory: Path) -> tuple[Path, list[Path]]:
    """The kiosk and the small model in a directory of bundles, and the keys that signed them."""
    shutil.copytree(bundles_directory() / "kiosk/1", directory / "bundles/kiosk/1")
    write(tiny_sealed(), directory / "bundles/tiny/1")
    (directory / "tiny.pub").write_bytes(public_pem(signing_key()))
    return directory / "bundles", [bundles_directory() / "stockade-release.pub", directory / "tiny.pub"]


@contextmanager
def standing(directory: Path) -> Iterator[Stand]:
    """Start the cluster and deploy."""
    bundles, keys = lay_out(directory)
    with ray_cluster() as cluster:
        settings = RaySettings(address=cluster.address, cpus_per_replica=REPLICA_CPUS)
        together = msgspec.structs.replace(settings, namespace="together", models_per_replica=1)
        for each in (settings, together):
            said = cluster.deploy(each, bundles, keys)
            assert said[-1]["exit"] == 0, said
        links = [borrow(settings), borrow(together)]  # held, so that each test need not start a bridge
        try:
            yield Stand(cluster, bundles, keys, settings, together)
        finally:
            for link in links:
                give_back(link)
