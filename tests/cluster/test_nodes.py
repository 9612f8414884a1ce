"""A full object store, a new version, a node that is drained, replicas that grow, replicas nearby: without an error."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from gateway.tools.bench.machine import parse_stat
from tests.cluster.gateways import asking, deploy, ray_gateway, ray_site, recorded_once, replicas_that_run
from tests.cluster.ray_nodes import ray_cluster, replicas_of
from tests.e2e.caller import calling, images, infer_body
from tests.e2e.running import until
from tests.gateway.rig import only_tiny
from tests.serving.tiny import tiny_sealed, write

KIOSK = "stockade-kiosk-1"
PATIENCE_S = 240.0
FILL_OBJECT_STORE = """
import sys, time
import numpy as np
import ray
ray.init(address=sys.argv[1], log_to_driver=False)
kept = [ray.put(np.zeros(8_000_000, np.uint8)) for _ in range(20)]
store = ray.cluster_resources()["object_store_memory"]
assert 20 * 8_000_000 > store, store
print("full", flush=True)
sys.stdin.read()
"""


@pytest.fixture(scope="module")
def cluster():
    with ray_cluster(cpus=3) as running:
        yield running


def test_a_full_object_store_is_not_in_the_way(made_site, tmp_path, cluster):
    """Twenty objects that are all kept do not fit; batches of 200 KB go to the replicas all the same."""
    site = ray_site(made_site, tmp_path / "site", cluster)
    deploy(site)
    with ray_gateway(site) as running:
        command = [sys.executable, "-c", FILL_OBJECT_STORE, cluster.address]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as filler:
            until(lambda: "full" in filler.stdout.readline(), "not filled", PATIENCE_S)
            with asking(running, bodies=[infer_body(images()[:64])]) as load:
                load.more(50)
            filler.stdin.close()
        assert load.reasons.keys() == {"OK"}, load.reasons
        recorded_once(site, load)


def test_a_new_version_is_taken_into_use_under_load(made_site, tmp_path, cluster):
    """Deployed beside the old one, then made the default by a policy; the old one goes when nobody asks for it."""
    site = ray_site(made_site, tmp_path / "site", cluster, namespace="roll", start_timeout="1s")
    write(tiny_sealed("2"), site.directory / "bundles/tiny/2")
    (site.directory / "bundles/tiny/2").rename(tmp_path / "later")
    deploy(site)
    (tmp_path / "later").rename(site.directory / "bundles/tiny/2")
    body = infer_body(model="tiny")
    with ray_gateway(site) as running:
        with calling(site, running.facts["data"], site.bearer("rival")) as caller:
            until(lambda: caller.infer(body).reason == "OK", "never ready", PATIENCE_S)
        with asking(running, bodies=[body], who="rival") as load:
            load.more(50)
            deploy(site)
            load.more(50)
            site.change_policy(lambda policy: policy["models"].update(tiny={"serve": "2"}))
            running.process.send_signal(signal.SIGHUP)
            until(lambda: load.replies[-1].message.model_version == "2", "the new version never answers", PATIENCE_S)
            load.more(50)
        assert load.reasons.keys() == {"OK"}, load.reasons
        assert [load.replies[at].message.model_version for at in (0, -1)] == ["1", "2"]
        recorded_once(site, load)


def test_a_drained_node_gives_its_replicas_away_first(made_site, tmp_path, cluster):
    other = cluster.add_node(cpus=2)
    site = ray_site(
        made_site, tmp_path / "site", cluster, namespace="drain", replicas={"min": 4, "max": 4, "cpus": 0.4}
    )
    deploy(site)
    with ray_gateway(site) as running, asking(running) as load:
        until(lambda: replicas_of(other, "drain-kiosk-1"), "none on the second node", PATIENCE_S)
        load.more(50)
        ray = Path(sys.executable).with_name("ray")
        drained = subprocess.run(
            [
                str(ray), "drain-node", f"--address={cluster.address}", f"--node-id={node_id(other)}",
                "--reason=DRAIN_NODE_REASON_PREEMPTION", "--reason-message=test", "--deadline-remaining-seconds=60",
            ],
            capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        assert drained.returncode == 0, drained.stderr
        until(lambda: not replicas_of(other, "drain-kiosk-1"), "still some on the drained node", PATIENCE_S)
        load.more(50)
        other.stop(hard=True)
        load.more(50)
    assert load.reasons.keys() == {"OK"}, load.reasons
    recorded_once(site, load)


def test_replicas_grow_with_what_waits_for_them(made_site, tmp_path):
    """More batches on their way than one replica should have: Serve starts a second, which takes its part."""
    with ray_cluster() as cluster:  # of its own: the other tests' replicas hold on to their processors
        replicas = {"min": 1, "max": 2, "target_ongoing": 1}
        site = ray_site(made_site, tmp_path / "site", cluster, namespace="grow", replicas=replicas, call_timeout="30s")
        deploy(site)
        with ray_gateway(site) as running, asking(running) as load:
            (first,) = cluster.replica_pids("grow-kiosk-1")
            until(lambda: replicas_that_run(site, "grow-kiosk-1") == 2, "no second replica", PATIENCE_S)
            (second,) = {*cluster.replica_pids("grow-kiosk-1")} - {first}
            load.more(100)
            first_us, second_us = worked_us([first, second], load, 500)
            assert second_us > first_us / 4
        assert load.reasons.keys() == {"OK"}, load.reasons
        recorded_once(site, load)


def test_replicas_of_the_own_node_are_asked_first(made_site, tmp_path):
    """Two nodes with a replica each: one does the work of a gateway that prefers its own node, both that of another."""
    with ray_cluster(cpus=1) as cluster:
        cluster.add_node(cpus=1)
        near, anywhere = (
            tiny_site(made_site, tmp_path / name, cluster, prefer_local=prefer)
            for name, prefer in (("near", True), ("anywhere", False))
        )
        deploy(near)
        assert [len(replicas_of(node, "stockade-tiny-1")) for node in cluster.nodes] == [1, 1]
        shares = {}
        for site in (near, anywhere):
            pids = cluster.replica_pids("stockade-tiny-1")
            with ray_gateway(site) as running, asking(running, bodies=[infer_body(model="tiny")], who="rival") as load:
                load.more(50)
                less_us, more_us = sorted(worked_us(pids, load, 1000))
            assert load.reasons.keys() == {"OK"}, load.reasons
            recorded_once(site, load)
            shares[site.directory.name] = less_us / more_us
        assert shares["near"] < 0.4, shares
        assert shares["anywhere"] > 0.6, shares


def tiny_site(made_site, path, cluster, **ray):
    """A gateway of the small model alone, with a processor for each of two replicas."""
    site = ray_site(made_site, path, cluster, replicas={"min": 2, "max": 2, "cpus": 1}, call_timeout="30s", **ray)
    shutil.rmtree(site.directory / "bundles/kiosk")
    site.change_policy(only_tiny)
    return site


def worked_us(pids, load, calls):
    """The processor time that each of these processes took while that many calls ended."""

    def taken_us(pid):
        return parse_stat(Path(f"/proc/{pid}/stat").read_text()).cpu_us

    before_us = [taken_us(pid) for pid in pids]
    load.more(calls)
    return [taken_us(pid) - before for pid, before in zip(pids, before_us, strict=True)]


def node_id(node):
    """The id of a node, as its raylet was told it."""
    for pid in node.tree.living():
        arguments = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        for argument in arguments:
            if argument.startswith((b"--node_id=", b"--node-id=")):
                return argument.partition(b"=")[2].decode()
    raise AssertionError("no raylet")
