"""What clients of a gateway see when parts of the cluster behind it die, hang, or are replaced under load."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
from pathlib import Path

import grpc
import pytest

from tests.cluster.gateways import asking, deploy, ray_gateway, ray_site, recorded_once, replicas_that_run
from tests.cluster.ray_nodes import ray_cluster
from tests.e2e.caller import calling, images, infer_body
from tests.e2e.running import until

KIOSK = "stockade-kiosk-1"
PATIENCE_S = 240.0


@pytest.fixture(scope="module")
def cluster():
    with ray_cluster() as running:
        yield running


@pytest.fixture(scope="module")
def site(made_site, tmp_path_factory, cluster):
    """A gateway with two replicas of each model, which run."""
    made = ray_site(
        made_site, tmp_path_factory.mktemp("site") / "s", cluster, replicas={"min": 2, "max": 2}, call_timeout="10s"
    )
    deploy(made)
    return made


@pytest.fixture(scope="module")
def running(site):
    with ray_gateway(site) as served:
        yield served


@pytest.fixture
def whole(cluster, running):
    """The gateway, when both replicas of the kiosk run and answer."""
    until(lambda: len(cluster.replica_pids(KIOSK)) == 2, "not two replicas", PATIENCE_S)
    with calling(running.site, running.facts["data"], running.site.bearer("plenty")) as caller:
        until(lambda: caller.infer(infer_body()).reason == "OK", "no answer", PATIENCE_S)
    return running


def test_a_replica_killed_in_flight_costs_no_client_an_error(cluster, whole):
    with asking(whole) as load:
        load.more(100)
        for _ in range(2):
            killed = cluster.replica_pids(KIOSK)[0]
            os.kill(killed, signal.SIGKILL)
            load.more(200)
            until(lambda gone={killed}: len({*cluster.replica_pids(KIOSK)} - gone) == 2, "not replaced", PATIENCE_S)
            until(lambda: replicas_that_run(whole.site, KIOSK) == 2, "the new one does not answer", PATIENCE_S)
        load.more(100)
    assert load.reasons.keys() == {"OK"}, load.reasons
    recorded_once(whole.site, load)


def test_a_hung_replica_costs_its_own_calls_until_it_is_replaced(cluster, whole):
    with asking(whole) as load:
        load.more(50)
        hung = cluster.replica_pids(KIOSK)[0]
        os.kill(hung, signal.SIGSTOP)
        until(lambda: hung not in cluster.replica_pids(KIOSK), "not ejected", PATIENCE_S)
        until(lambda: len(cluster.replica_pids(KIOSK)) == 2, "not replaced", PATIENCE_S)
        load.more(50)
        until(lambda: {reply.reason for reply in load.replies[-50:]} == {"OK"}, "not well again", PATIENCE_S)
    assert load.reasons.keys() == {"OK", "BACKEND_TIMED_OUT"}, load.reasons
    recorded_once(whole.site, load)


def test_a_redeployment_under_load_costs_no_client_an_error(cluster, whole):
    before = cluster.replica_pids(KIOSK)
    with asking(whole) as load:
        load.more(50)
        deploy(whole.site)
        until(lambda: not set(before) & set(cluster.replica_pids(KIOSK)), "the old ones stay", PATIENCE_S)
        load.more(50)
    assert load.reasons.keys() == {"OK"}, load.reasons
    recorded_once(whole.site, load)


def test_all_replicas_killed_is_said_at_once_and_passes(cluster, whole):
    with asking(whole) as load:
        load.more(50)

        def refused() -> bool:
            """One that was just being replaced is not in the list: kill until somebody hears of it."""
            for pid in cluster.replica_pids(KIOSK):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            return any(reply.reason == "BACKEND_UNAVAILABLE" for reply in load.replies)

        until(refused, "nobody missed the replicas", PATIENCE_S)
        until(lambda: {reply.reason for reply in load.replies[-20:]} == {"OK"}, "no replica came back", PATIENCE_S)
    assert load.reasons.keys() <= {"OK", "BACKEND_UNAVAILABLE", "BACKEND_TIMED_OUT"}, load.reasons
    refused = next(reply for reply in load.replies if reply.reason == "BACKEND_UNAVAILABLE")
    assert refused.code is grpc.StatusCode.UNAVAILABLE
    assert int(refused.trailers["grpc-retry-pushback-ms"]) > 0
    recorded_once(whole.site, load)


def test_a_bridge_that_dies_comes_back(whole):
    def bridges():
        found = []
        for entry in Path("/proc").iterdir():
            try:
                if b"serving.engines.ray.bridge\0" in (entry / "cmdline").read_bytes():
                    found.append(int(entry.name))
            except (OSError, ValueError):
                continue
        return [pid for pid in found if parent_of(pid) == whole.pid_of("worker-0")]

    (bridge,) = bridges()
    with asking(whole) as load:
        load.more(50)
        os.kill(bridge, signal.SIGKILL)
        until(lambda: bridges() not in ([], [bridge]), "no new bridge", PATIENCE_S)
        until(lambda: load.reasons.keys() > {"OK"} and load.replies[-1].reason == "OK", "no answer again", PATIENCE_S)
    assert load.reasons.keys() == {"OK", "BACKEND_UNAVAILABLE"}, load.reasons
    recorded_once(whole.site, load)


def parent_of(pid):
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def test_a_gateway_starts_before_its_models_are_deployed_and_the_fallback_answers(made_site, tmp_path, cluster):
    plain = ray_site(made_site, tmp_path / "plain", cluster, namespace="later", start_timeout="0s")
    backed = ray_site(
        made_site, tmp_path / "backed", cluster, namespace="later", start_timeout="0s", fallback="inprocess"
    )
    with ray_gateway(plain) as first, ray_gateway(backed) as second:
        with calling(plain, first.facts["data"], plain.bearer("plenty")) as caller:
            refused = caller.infer(infer_body())
            assert refused.reason == "BACKEND_UNAVAILABLE"
            assert int(refused.trailers["grpc-retry-pushback-ms"]) > 0
            with calling(backed, second.facts["data"], backed.bearer("plenty")) as other:
                fallen_back = other.infer(infer_body(images()[:16]))
                assert fallen_back.reason == "OK"
                deploy(plain)
                until(lambda: caller.infer(infer_body()).reason == "OK", "never ready", PATIENCE_S)
                from_ray = caller.infer(infer_body(images()[:16])).output("probabilities")
        assert abs(from_ray - fallen_back.output("probabilities")).max() <= 1e-5


def test_a_head_that_is_lost_and_back_is_found_again_by_a_gateway_under_load(made_site, tmp_path):
    """Callers never stop. What is answered again, and what was refused meanwhile, stands in the log once."""
    with ray_cluster() as cluster:
        site = ray_site(made_site, tmp_path / "site", cluster)
        deploy(site)
        with ray_gateway(site) as running, asking(running, patient=True) as load:
            load.more(100)
            cluster.nodes.pop().stop(hard=True)
            until(lambda: load.replies[-1].reason == "BACKEND_UNAVAILABLE", "not noticed", PATIENCE_S)
            shutil.rmtree(cluster.directory)
            cluster.directory.mkdir()
            cluster.start_head()
            deploy(site)
            until(lambda: load.replies[-1].reason == "OK", "not found again", PATIENCE_S)
            load.more(100)
        assert {reply.reason for reply in load.replies[-50:]} == {"OK"}
        assert load.reasons.keys() <= {"OK", "BACKEND_UNAVAILABLE", "BACKEND_TIMED_OUT"}, load.reasons
        recorded_once(site, load)
