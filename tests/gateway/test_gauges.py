"""What is refreshed once a second: gauges of the present."""

from __future__ import annotations

from gateway.app import refresh
from tests.gateway.rig import open_rig
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
