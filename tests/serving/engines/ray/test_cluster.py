"""What is made of what Serve says, and how long it may say nothing."""

from __future__ import annotations

import time
from enum import Enum

import pytest

from serving.engines.ray import cluster as ray_cluster
from serving.engines.ray.cluster import Cluster, is_of_this_machine, state_of
from serving.engines.ray.frames import ApplicationStatus
from serving.engines.ray.settings import RaySettings


class Said(str, Enum):  # noqa: UP042  as Serve has them: str() of one is not its value
    """What Serve says of an application, and of a replica."""

    DEPLOYING = "DEPLOYING"
    RUNNING = "RUNNING"
    STARTING = "STARTING"
    STOPPING = "STOPPING"


def details(states, wanted=3):
    """An application as Serve's controller describes it."""
    deployment = {"message": "", "target_num_replicas": wanted, "replicas": [{"state": state} for state in states]}
    return {"status": Said.DEPLOYING, "message": "starts", "deployments": {"model": deployment}}


def test_what_serve_says_of_an_application_is_what_it_wants_and_what_runs():
    application = details([Said.RUNNING, Said.RUNNING, Said.STARTING, Said.STOPPING])
    assert state_of(application) == ApplicationStatus("DEPLOYING", 2, "starts", wanted=3)


async def test_only_applications_of_the_own_namespace_are_seen(monkeypatch):
    deployed = {name: details([]) for name in ("stockade-tiny-1", "stockades-tiny-1", "other-tiny-1")}
    monkeypatch.setattr(ray_cluster, "deployed_applications", lambda: deployed)
    assert list(await Cluster(RaySettings(address="127.0.0.1:1")).look()) == ["stockade-tiny-1"]


async def test_a_controller_that_says_nothing_is_named_with_the_time_it_had(monkeypatch):
    monkeypatch.setattr(ray_cluster, "deployed_applications", lambda: time.sleep(0.5))
    cluster = Cluster(RaySettings(address="127.0.0.1:1"), look_timeout_s=0.01)
    with pytest.raises(TimeoutError, match=r"controller said nothing for 0\.01 s"):
        await cluster.look()


@pytest.mark.parametrize(("address", "ours"), [("127.0.0.1", True), ("192.0.2.1", False), ("2001:db8::1", False)])
def test_an_address_is_of_this_machine_when_a_socket_can_have_it(address, ours):
    assert is_of_this_machine(address) is ours
