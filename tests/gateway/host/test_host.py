"""What the host does of its own accord: it watches the policy file, and says whether clients can be served."""

from __future__ import annotations

import asyncio
import os

import pytest

import gateway.host.host
from gateway.config.engine import Engine
from gateway.config.load import load_config
from gateway.config.place import place_of
from gateway.control.repository import Repository
from gateway.host.host import Host
from gateway.host.serve import DRAFT, STOP_SLACK_S, drain_time
from gateway.host.supervisor import Child
from gateway.models.model_set import MODELS
from gateway.policy.file import UNSIGNED_NS, Kept, Memory, stamp
from tests.e2e.site import copy_site
from tests.gateway.rig import until
from tests.gateway.words import Words


@pytest.fixture
def host(made_site, tmp_path):
    """A host whose processes were not started."""
    site = copy_site(made_site, tmp_path / "site")
    config, log = load_config(site.config), Words()
    place = place_of(config)
    place.policies.mkdir(parents=True)
    kept = Kept(config.policy, place.policies, Memory(tmp_path / "recorder/policy.revision"))
    children = [Child(name, [], log) for name in ("recorder", "worker-0", "worker-1")]
    repository = Repository(config, place.memory.with_name(MODELS), place.policies / DRAFT)
    repository.open(lambda *_, **__: None)
    made = Host(config, place, log, repository, kept, kept.first(log), 0, children[0], children[1:])
    made.seen = stamp(site.policy)
    return site, made


async def test_the_watcher_waits_for_the_signature_of_an_edit(host, monkeypatch):
    site, host = host
    looks = 0

    def look(file):
        nonlocal looks
        looks += 1
        return stamp(file)

    monkeypatch.setattr(gateway.host.host, "WATCH_EVERY_S", 0.001)
    monkeypatch.setattr(gateway.host.host, "stamp", look)
    first = host.policy.revision
    watching = asyncio.create_task(host.watch(asyncio.Event()))
    try:
        site.change_policy(lambda policy: None, sign=False)
        seen = looks
        await until(lambda: looks > seen + 5)
        assert (host.policy.revision, host.log.events) == (first, [])
        site.write_policy(site.policy.read_text())
        await until(lambda: host.policy.revision == first + 1)
        assert host.log.events == ["policy-loaded"]
        site.change_policy(lambda policy: None, sign=False)
        long_ago = site.policy.stat().st_mtime_ns - UNSIGNED_NS
        os.utime(site.policy, ns=(long_ago, long_ago))
        await until(lambda: host.log.events == ["policy-loaded", "policy-refused"])
    finally:
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)


def test_clients_can_be_served_when_a_worker_that_is_up_says_so(host):
    _, host = host
    assert not host.ready()
    host.recorder.ready.set()
    first, second = host.workers
    first.ready.set()
    assert host.ready()
    first.able = False  # such as while the disk is full
    assert not host.ready()
    second.ready.set()
    assert host.ready()
    host.recorder.ready.clear()
    assert not host.ready()


@pytest.mark.parametrize(
    ("engine", "more_s"),
    [
        ({}, 0),
        ({"kind": "oip", "oip": {"addresses": ("127.0.0.1:1",), "call_timeout": "7s"}}, 7),
        ({"kind": "ray", "ray": {"address": "127.0.0.1:1", "call_timeout": "9s"}}, 9 + 2),
    ],
    ids=["in the process", "a server", "a cluster"],
)
def test_a_worker_that_stops_has_time_for_a_batch_that_nobody_answers(host, engine, more_s):
    _, host = host
    config = host.config.model_copy(update={"engine": Engine.model_validate(engine)})
    assert drain_time(config) == config.transport.drain_timeout_ms / 1000 + STOP_SLACK_S + more_s
