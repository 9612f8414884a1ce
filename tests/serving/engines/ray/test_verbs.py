"""The verbs of `stockade ray`, without a cluster: what they print and how they end."""

from __future__ import annotations

import json
import time

import msgspec
import pytest

from serving.engines.ray import cluster as ray_cluster
from serving.engines.ray import verbs as ray_verbs
from serving.engines.ray.frames import ApplicationStatus
from serving.engines.ray.settings import DeployPlan, RaySettings
from serving.engines.ray.verbs import EX_LOST, EX_NO, EX_UNUSABLE, follow, main
from serving.errors import ReplicaRefused

SETTINGS = msgspec.json.encode(RaySettings(address="127.0.0.1:1"))
STARTING = ApplicationStatus("DEPLOYING", 0, "starts", wanted=1)
RUNNING = ApplicationStatus("RUNNING", 1, wanted=1)
FAILED = ApplicationStatus("DEPLOY_FAILED", 0, "no such bundle", wanted=1)


@pytest.fixture
def said(capsys):
    """The lines that were printed since the last call."""
    return lambda: [json.loads(line) for line in capsys.readouterr().out.splitlines()]


@pytest.fixture(autouse=True)
def no_cluster(monkeypatch):
    monkeypatch.setattr(ray_verbs, "connect", lambda _address: None)
    monkeypatch.setattr(ray_verbs, "DEPLOY_POLL_S", 0)


def test_a_deployment_is_followed_until_all_run_one_line_a_change(said):
    looks = iter([{}, {"a-1": STARTING}, {"a-1": STARTING, "z-9": FAILED}, {"a-1": RUNNING}])
    assert follow(lambda: next(looks), {"a-1"}, timeout_s=60) == 0
    assert [(line["application"], line["state"]) for line in said()] == [("a-1", "DEPLOYING"), ("a-1", "RUNNING")]


def test_one_that_cannot_run_ends_the_wait_and_so_does_the_time(said):
    assert follow(lambda: {"a-1": FAILED, "b-1": STARTING}, {"a-1", "b-1"}, timeout_s=60) == EX_NO
    assert said()[0]["message"] == "no such bundle"
    assert follow(dict, {"a-1"}, timeout_s=0.01) == EX_NO
    assert said() == [{"problem": "not all run after 0.01 s"}]


def test_status_waits_longer_than_the_watch_does_and_names_what_did_not_answer(said, monkeypatch):
    monkeypatch.setattr(ray_cluster, "deployed_applications", lambda: time.sleep(0.5))
    monkeypatch.setattr(ray_verbs, "STATUS_TIMEOUT_S", 0.01)
    assert main(["status"], SETTINGS) == EX_LOST
    assert said() == [{"problem": "TimeoutError: Serve's controller said nothing for 0.01 s"}]


def test_what_a_replica_would_refuse_is_said_as_it_is(said, monkeypatch):
    def refuse(_applications):
        raise ReplicaRefused("format 9 is not known")

    monkeypatch.setattr(ray_verbs, "deploy_all", refuse)
    assert main(["deploy", "60"], msgspec.json.encode(DeployPlan("127.0.0.1:1", []))) == EX_UNUSABLE
    assert said() == [{"problem": "format 9 is not known"}]
    assert main(["undeploy"], b"") == EX_UNUSABLE
