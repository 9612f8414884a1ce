"""What a gateway says of the replicas behind it: how many Serve wants, and how many run."""

from __future__ import annotations

import json
import shutil
import urllib.request

from prometheus_client.parser import text_string_to_metric_families

from tests.cluster.gateways import ray_gateway, ray_site, stockade
from tests.cluster.ray_nodes import ray_cluster
from tests.e2e.caller import calling
from tests.e2e.running import until
from tests.gateway.rig import image, only_tiny, tiny_body

PATIENCE_S = 90.0


def replicas(running):
    """What a gateway's metrics page says: (application, state) -> replicas."""
    with urllib.request.urlopen(f"http://{running.facts['metrics']}/metrics", timeout=20) as answer:
        families = text_string_to_metric_families(answer.read().decode())
        samples = [each for family in families if family.name == "stockade_ray_replicas" for each in family.samples]
    return {(each.labels["application"], each.labels["state"]): each.value for each in samples}


def test_a_replica_that_the_cluster_has_no_room_for_is_seen_to_be_missing(made_site, tmp_path):
    """Each wants a processor, and the cluster has two for three."""
    with ray_cluster(cpus=2) as cluster:
        site = ray_site(made_site, tmp_path / "site", cluster, replicas={"min": 3, "max": 3, "cpus": 1})
        shutil.rmtree(site.directory / "bundles/kiosk")
        site.change_policy(only_tiny)
        assert stockade("ray", "deploy", str(site.config), "--timeout", "30").returncode == 1
        with ray_gateway(site) as running, calling(site, running.facts["data"], site.bearer("rival")) as caller:
            assert caller.infer(tiny_body(image(0.5))).reason == "OK"
            expected = {("stockade-tiny-1", "wanted"): 3, ("stockade-tiny-1", "running"): 2}
            until(lambda: replicas(running) == expected, "the third is not missed", PATIENCE_S)
        (row,) = json.loads(stockade("ray", "status", str(site.config), "--json").stdout)
        assert (row["state"], row["running"], row["wanted"]) == ("DEPLOYING", 2, 3)
