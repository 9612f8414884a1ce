"""The control plane: what it owes the log is recorded once; a reload that has begun does not hang on who asked."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager

from gateway.config.place import place_of
from gateway.control.repository import Repository
from gateway.host.admin import OWED_MAX, Control
from gateway.host.host import Host
from gateway.host.serve import DRAFT
from gateway.host.supervisor import Child
from gateway.models.model_set import MODELS
from gateway.policy.file import Kept, Memory
from stockade.v1 import admin_pb2
from tests.gateway.rig import HeldSink, open_rig, until
from tests.gateway.words import Words
from tests.serving.tiny import tiny_bundle


def digests(sink: HeldSink) -> list[str]:
    return [entry["digest"] for entry in sink.records(kind="policy")]


@asynccontextmanager
async def controlled(made_site, tmp_path):
    """A control plane over a real gateway, for a host whose processes were not started."""
    async with open_rig(made_site, tmp_path, bundles=[tiny_bundle("2")]) as rig:
        config, log = rig.app.config, Words()
        place = place_of(config)
        kept = Kept(config.policy, place.policies, Memory(tmp_path / "recorder/policy.revision"))
        children = [Child(name, [], log) for name in ("recorder", "worker-0")]
        repository = Repository(config, place.memory.with_name(MODELS), place.policies / DRAFT)
        repository.open(lambda *_, **__: None)
        host = Host(config, place, log, repository, kept, kept.first(log), 0, children[0], children[1:])
        host.control = Control(host)
        host.control.app = rig.app
        yield rig, host.control


def owe(control: Control, number: int) -> asyncio.Task[None]:
    fields = {"digest": f"{number:064x}", "outcome": "loaded"}
    return asyncio.create_task(control.record_when_possible("policy", **fields))


async def test_two_who_record_at_once_record_each_entry_once_and_in_order(made_site, tmp_path):
    async with controlled(made_site, tmp_path) as (rig, control):
        rig.sink.holding = True
        both = [owe(control, number) for number in range(2)]
        await until(lambda: len(control.owed) == 2)
        rig.sink.release()
        await asyncio.gather(*both)
        assert digests(rig.sink) == [f"{number:064x}" for number in range(2)]
        assert not control.owed


async def test_what_is_owed_too_long_is_given_up_aloud(made_site, tmp_path):
    async with controlled(made_site, tmp_path) as (rig, control):
        rig.sink.unavailable = "recorder_gone"
        for number in range(OWED_MAX):
            await owe(control, number)
        assert "owed-entry-dropped" not in control.host.log.events
        await owe(control, OWED_MAX)
        dropped = control.host.log.facts("owed-entry-dropped")
        assert dropped == [{"level": "error", "kind": "policy", "digest": f"{0:064x}"}]
        rig.sink.unavailable = None
        await control.record_owed()
        assert digests(rig.sink) == [f"{number:064x}" for number in range(1, OWED_MAX + 1)]


async def test_an_entry_that_is_given_up_while_it_is_recorded_takes_no_other_along(made_site, tmp_path):
    async with controlled(made_site, tmp_path) as (rig, control):
        rig.sink.holding = True
        owing = [owe(control, number) for number in range(OWED_MAX + 1)]
        await until(lambda: control.owed and control.owed[-1][1]["digest"] == f"{OWED_MAX:064x}")
        rig.sink.release()
        await asyncio.gather(*owing)
        assert digests(rig.sink) == [f"{number:064x}" for number in range(OWED_MAX + 1)]


async def test_a_reload_goes_on_when_whoever_asked_for_it_has_gone(made_site, tmp_path):
    async with controlled(made_site, tmp_path) as (rig, control):
        host, request = control.host, admin_pb2.ReloadPolicyRequest()
        canary = {"version": "2", "steps": [0.5, 1], "step_every": "1h"}
        rig.site.change_policy(lambda policy: policy["models"]["tiny"].update(release={"canary": canary}))
        rig.sink.holding = True
        asked = asyncio.create_task(control.reload_policy(request))
        await until(lambda: rig.sink.held)
        asked.cancel()
        await asyncio.gather(asked, return_exceptions=True)
        assert asked.cancelled()
        rig.sink.release()
        again = await control.reload_policy(request)
        assert (again.accepted, again.digest, again.previous_digest) == (True, host.policy.digest, host.policy.digest)
        assert rig.gw.active.digest == host.policy.digest
        assert digests(rig.sink) == [host.policy.digest]
        assert [entry["action"] for entry in rig.sink.records(kind="release")] == ["started"]
        assert not host.reloads


async def test_a_reload_that_breaks_when_nobody_waits_any_more_is_told(made_site, tmp_path, monkeypatch):
    async with controlled(made_site, tmp_path) as (rig, control):
        rig.site.change_policy(lambda policy: None)
        go = asyncio.Event()

        async def broken(*_: object) -> None:
            await go.wait()
            raise RuntimeError("a defect")

        monkeypatch.setattr(Control, "policy_changed", broken)
        asked = asyncio.create_task(control.reload_policy(admin_pb2.ReloadPolicyRequest()))
        await until(lambda: "policy-loaded" in control.host.log.events)
        asked.cancel()
        go.set()
        await until(lambda: not control.host.reloads)
        told = control.host.log.facts("reload-failed")
        assert told == [{"level": "error", "error": "RuntimeError", "policy": control.host.policy.digest}]


async def test_a_host_that_stops_lets_a_reload_end_and_waits_for_none_that_does_not(made_site, tmp_path):
    async with controlled(made_site, tmp_path) as (rig, control):
        rig.site.change_policy(lambda policy: None)
        rig.sink.holding = True
        asked = asyncio.create_task(control.reload_policy(admin_pb2.ReloadPolicyRequest()))
        await until(lambda: rig.sink.held)
        ending = asyncio.create_task(control.host.end_reloads(20.0))
        rig.sink.release()
        await ending
        assert (await asked).accepted
        rig.site.change_policy(lambda policy: None)
        rig.sink.holding = True
        asked = asyncio.create_task(control.reload_policy(admin_pb2.ReloadPolicyRequest()))
        await until(lambda: rig.sink.held)
        await control.host.end_reloads(0.001)
        await asyncio.gather(asked, return_exceptions=True)
        assert asked.cancelled()
        assert not control.host.reloads
