"""What is refreshed once a second: gauges of the present."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest

from gateway.host.ticker import count_replicas, refresh
from gateway.models.model_set import Listed, ModelSet
from serving.engines.experts import ExpertsEngine
from serving.engines.fallback import FallbackEngine
from serving.engines.ray.engine import RayEngine, Replicas
from serving.errors import BackendUnavailable
from tests.gateway.rig import open_rig
from tests.serving.fake_engine import FakeEngine
from tests.serving.mixture import mixture_bundle
from tests.serving.tiny import tiny_bundle


async def test_the_engines_of_a_model_are_counted_over_its_versions(made_site, tmp_path):
    async with open_rig(made_site, tmp_path, bundles=[tiny_bundle("2"), tiny_bundle("3")]) as rig:
        refresh(rig.app, 0, None)
        assert rig.counted("stockade_replicas", model="tiny", state="ready") == 3
        assert rig.counted("stockade_replicas", model="tiny", state="not_ready") == 0
        rig.gw.served["tiny", "1"].engine.close()
        rig.gw.served["tiny", "3"].engine.close()
        refresh(rig.app, 0, None)
        assert rig.counted("stockade_replicas", model="tiny", state="ready") == 1
        assert rig.counted("stockade_replicas", model="tiny", state="not_ready") == 2


async def test_how_evenly_a_mixture_is_asked_is_seen(made_site, tmp_path):
    async with open_rig(made_site, tmp_path) as rig:
        mixture = ExpertsEngine(mixture_bundle(), crossover_rows=1 << 30)
        rig.gw.served["tiny", "1"].engine = mixture
        refresh(rig.app, 0, None)
        assert rig.counted("stockade_expert_entropy") == 0
        mixture.infer({"image": np.random.default_rng(0).random((300, 28, 28), dtype=np.float32)})
        refresh(rig.app, 0, None)
        assert rig.counted("stockade_expert_entropy", model="tiny", version="1") == pytest.approx(mixture.routing)


class Lost(FakeEngine):
    """Nobody is there."""

    def infer(self, _inputs, /):
        raise BackendUnavailable("tiny/1", "gone")

    def ready(self):
        return False


async def test_an_engine_that_is_lost_is_seen_behind_its_fallback(made_site, tmp_path):
    bundle = tiny_bundle("2")
    async with open_rig(made_site, tmp_path, bundles=[bundle]) as rig:
        engine = rig.gw.served["tiny", "2"].engine = FallbackEngine(Lost(bundle), FakeEngine(bundle), lambda _: None)
        refresh(rig.app, 0, None)
        assert rig.counted("stockade_fallback_batches_total", model="tiny") == 0
        for _ in range(3):
            engine.infer({"image": np.zeros((2, 28, 28), np.float32)})
            refresh(rig.app, 0, None)
        assert engine.ready()
        assert rig.counted("stockade_replicas", model="tiny", state="ready") == 2
        assert rig.counted("stockade_replicas", model="tiny", state="not_ready") == 1
        assert rig.counted("stockade_fallback_batches_total", model="tiny") == 3


async def test_what_is_out_of_service_is_neither_ready_nor_missed(made_site, tmp_path):
    async with open_rig(made_site, tmp_path, bundles=[tiny_bundle("2")]) as rig:
        app = rig.app
        models = ModelSet(
            tuple(Listed("tiny", version, served.bundle.digest, "") for (_, version), served in rig.gw.served.items()),
            frozenset({("tiny", "2")}),
        )
        app.take_over(await asyncio.to_thread(app.stage, app.in_force[1], models))
        refresh(app, 0, None)
        states = ("ready", "not_ready", "unloaded")
        assert [rig.counted("stockade_replicas", model="tiny", state=state) for state in states] == [1, 0, 1]


class OnCluster(RayEngine):
    """A model of which Serve says so many replicas; nobody is connected."""

    def __init__(self, wanted, running):
        self.said = Replicas("stockade-tiny-1", wanted, running)

    def replicas(self):
        return self.said

    def close(self):
        """Nothing to close."""


async def test_replicas_on_a_cluster_are_counted_as_serve_says_also_behind_a_fallback(made_site, tmp_path):
    bundle = tiny_bundle("2")
    async with open_rig(made_site, tmp_path, bundles=[bundle]) as rig:
        metrics = rig.app.metrics.ray_cluster()

        def counted():
            count_replicas(rig.app, metrics)
            states = ("wanted", "running")
            return [
                rig.counted("stockade_ray_replicas", application="stockade-tiny-1", state=state) for state in states
            ]

        served = rig.gw.served["tiny", "2"]
        before, served.engine = served.engine, OnCluster(4, 3)
        assert counted() == [4, 3]
        served.engine = FallbackEngine(OnCluster(4, 0), FakeEngine(bundle), lambda _: None)
        assert counted() == [4, 0]
        served.engine = before
        assert counted() == [0, 0]
