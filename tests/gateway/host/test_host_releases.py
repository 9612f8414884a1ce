"""How a host brings its workers to where the canaries are: all of them, once, and whatever the disk says."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

import gateway.host.host
from gateway.config.load import load_config
from gateway.config.place import place_of
from gateway.control.repository import Repository
from gateway.host.host import Host
from gateway.host.serve import DRAFT
from gateway.host.supervisor import Child
from gateway.models.model_set import MODELS
from gateway.models.standings import RELEASES, read_reached
from gateway.policy.file import Kept, Memory
from tests.e2e.site import copy_site
from tests.gateway.rig import until

CANARY = {"version": "2", "steps": [0.5, 1], "step_every": "1h"}


@dataclass(slots=True)
class Deaf(Child):
    """A child without a process, which remembers what it was told."""

    told: list[dict[str, Any]] = field(default_factory=list)
    file: Path | None = None
    on_disk: float | None = None

    def tell(self, **command: Any) -> None:
        self.told.append(command)
        if self.file is not None and (reached := read_reached(self.file)):
            self.on_disk = reached["tiny"].share


@pytest.fixture
def host(made_site, tmp_path):
    site = copy_site(made_site, tmp_path / "site")
    site.change_policy(lambda policy: policy["models"]["tiny"].update(release={"canary": CANARY}))
    config, events = load_config(site.config), []

    def log(event: str, **_: object) -> None:
        events.append(event)

    place = place_of(config)
    place.policies.mkdir(parents=True)
    kept = Kept(config.policy, place.policies, Memory(place.memory))
    children = [Deaf(name, [], log) for name in ("recorder", "worker-0", "worker-1")]
    repository = Repository(config, place.memory.with_name(MODELS), place.policies / DRAFT)
    repository.open(lambda *_, **__: None)
    made = Host(config, place, log, repository, kept, kept.first(log), 0, children[0], children[1:])
    for worker in made.workers:
        worker.ready.set()
        worker.file = place.memory.with_name(RELEASES)
    return made, events


async def test_every_worker_is_told_until_it_says_that_it_has_moved(host):
    host, _ = host
    await host.rollout.follow()
    (command,) = host.workers[0].told
    assert command["do"] == "move"
    assert command["canaries"]["tiny"]["share"] == 0.5
    assert host.workers[1].told == [command]
    host.workers[0]._heard({"event": "moved", "canaries": command["canaries"]})
    await host.rollout.look()
    assert len(host.workers[0].told) == 1
    assert len(host.workers[1].told) == 2, "one that said nothing was forgotten"
    host.workers[0]._heard({"event": "ready"})  # it was started again
    host.workers[1].ready.clear()
    await host.rollout.look()
    assert [len(worker.told) for worker in host.workers] == [2, 2]


async def test_what_was_reached_is_on_disk_before_anybody_is_told(host):
    host, _ = host
    await host.rollout.follow()
    assert {worker.on_disk for worker in host.workers} == {0.5}


async def test_a_full_disk_keeps_no_broken_version_answering(host, monkeypatch):
    host, events = host

    def full() -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(host.rollout.releases, "keep", full)
    await host.rollout.follow()
    assert "releases-not-kept" in events
    assert [len(worker.told) for worker in host.workers] == [1, 1]


async def test_canaries_are_looked_at_while_workers_take_a_new_policy_over(host, monkeypatch):
    host, _ = host
    monkeypatch.setattr(gateway.host.host, "WATCH_EVERY_S", 0.001)
    await host.rollout.follow()
    async with host.reloading:
        tasks = [asyncio.create_task(host.watch(asyncio.Event())), asyncio.create_task(host.watch_releases())]
        await until(lambda: len(host.workers[0].told) > 3)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def test_a_policy_that_was_just_put_in_force_is_followed_before_anybody_looks(host):
    host, _ = host
    await host.rollout.follow()
    host.policy = host.policy.model_copy()
    await host.rollout.look()
    assert len(host.workers[0].told) == 1
    await host.rollout.follow()
    await host.rollout.look()
    assert len(host.workers[0].told) == 3
