"""Keeping callers out of a whole host: the order of things, two operators at once, and what goes wrong."""

from __future__ import annotations

import asyncio
import json

import grpc
import pytest

import gateway.control.tenants.segments
from gateway.auth.isolation import IsolationRefused, read_isolations
from gateway.control.orders import Order
from gateway.errors import AuditUnavailable
from tests.gateway.host.test_admin import controlled
from tests.gateway.rig import image, tiny_body, until

ANNA = Order("spiffe://o/anna", "anna", "ops", "a" * 32, "asks like an attacker", "i-1")
BEN = Order("spiffe://o/ben", "ben", "ops", "b" * 32, "a bill that was not paid")
SOMEBODY = ("plenty", "single")


def entries(rig) -> list[dict]:
    return rig.sink.records(kind="isolation")


def kept(control):
    return read_isolations(control.host.segments.file)


async def test_it_is_recorded_before_it_is_written_down_and_before_it_takes_force(made_site, tmp_path):
    async with controlled(made_site, tmp_path) as (rig, control):
        segments = control.host.segments
        rig.sink.holding = True
        asking = asyncio.create_task(segments.isolate([SOMEBODY], ANNA))
        await until(lambda: rig.sink.held)
        assert not segments.file.exists()
        assert (await rig.ask(tiny_body(image(0.5)), caller="single", timeout=0.001)).code is not grpc.StatusCode.OK
        assert not rig.gw.isolations.listed
        rig.sink.release()
        (made,) = await asking
        assert kept(control).listed == rig.gw.isolations.listed == (made,)
        (entry,) = entries(rig)
        assert (entry["action"], entry["isolation"], entry["tenant"]) == ("isolated", made.id, "plenty")
        assert (entry["administrator"], entry["incident"]) == ("spiffe://o/anna", "i-1")
        assert (entry["reason"], entry["request"]) == ("asks like an attacker", "a" * 32)
        assert entry["principal"] == json.loads(next(iter(sent(rig, "single"))))["principal"]
        assert (await rig.ask(tiny_body(image(0.5)), caller="single")).reason == "ISOLATED"
        assert (await rig.ask(tiny_body(image(0.5)))).reason == "OK"


def sent(rig, name: str):
    """What records say of a principal."""
    principal = next(one for one in accounts(rig) if one.name == name)
    yield rig.gw.auth_json(principal)


def accounts(rig):
    from gateway.auth.principal import Principal

    policy = rig.app.in_force[1]
    return [
        Principal(name, one.tenant, "standard", 1, frozenset(one.roles), "key", "api_key", None)
        for name, one in policy.principals.items()
    ]


async def test_without_the_log_nothing_is_changed(made_site, tmp_path):
    async with controlled(made_site, tmp_path) as (rig, control):
        rig.sink.unavailable = "recorder_gone"
        with pytest.raises(AuditUnavailable):
            await control.host.segments.isolate([SOMEBODY], ANNA)
        assert not rig.gw.isolations.listed
        assert not control.host.segments.file.exists()


async def test_what_cannot_be_written_down_is_not_in_force_and_the_log_says_so(made_site, tmp_path, monkeypatch):
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    async with controlled(made_site, tmp_path) as (rig, control):
        monkeypatch.setattr(gateway.control.tenants.segments, "keep_file", full)
        with pytest.raises(IsolationRefused, match="No space left"):
            await control.host.segments.isolate([SOMEBODY], ANNA)
        assert [entry["action"] for entry in entries(rig)] == ["isolated", "failed"]
        assert not rig.gw.isolations.listed
        monkeypatch.undo()
        (made,) = await control.host.segments.isolate([SOMEBODY], ANNA)
        monkeypatch.setattr(gateway.control.tenants.segments, "keep_file", full)
        with pytest.raises(IsolationRefused, match="No space left"):
            await control.host.segments.lift([made.id], BEN)
        assert [entry["action"] for entry in entries(rig)][2:] == ["isolated", "released", "failed"]
        assert rig.gw.isolations.listed == (made,)


async def test_two_operators_at_once_come_one_after_the_other_and_neither_cuts_the_other_short(made_site, tmp_path):
    async with controlled(made_site, tmp_path) as (rig, control):
        segments, soon = control.host.segments, rig.gw.wall_ns() + 10**12
        (first,), (second,) = await asyncio.gather(
            segments.isolate([SOMEBODY], ANNA), segments.isolate([SOMEBODY], BEN, until_ns=soon)
        )
        assert segments.isolations.listed == (second,)
        assert (second.until_ns, second.since_ns, second.administrator) == (0, first.since_ns, "spiffe://o/ben")
        with pytest.raises(IsolationRefused, match="changed or lifted meanwhile"):
            await segments.lift([first.id], ANNA)
        assert segments.isolations.listed == (second,)
        lifted = await asyncio.gather(*(segments.lift([second.id], who) for who in (ANNA, BEN)), return_exceptions=True)
        assert sorted(type(each).__name__ for each in lifted) == ["IsolationRefused", "list"]
        assert [entry["action"] for entry in entries(rig)] == ["isolated", "isolated", "released"]
        assert not kept(control).listed


async def test_a_longer_isolation_replaces_a_shorter_one_and_not_the_other_way_round(made_site, tmp_path):
    async with controlled(made_site, tmp_path) as (rig, control):
        segments, now = control.host.segments, rig.gw.wall_ns()
        for asked, held in ((now + 10**12, now + 10**12), (now + 10**11, now + 10**12), (now + 10**13, now + 10**13)):
            (made,) = await segments.isolate([SOMEBODY], ANNA, until_ns=asked)
            assert made.until_ns == held


async def test_all_subjects_or_none(made_site, tmp_path, monkeypatch):
    monkeypatch.setattr("gateway.auth.isolation.ISOLATIONS_MAX", 1)
    async with controlled(made_site, tmp_path) as (rig, control):
        with pytest.raises(IsolationRefused, match="at most 1"):
            await control.host.segments.isolate([SOMEBODY, ("rival", "")], ANNA)
        assert not entries(rig)
        assert not rig.gw.isolations.listed


@pytest.mark.parametrize("subject", [("ops", ""), ("ops", "anna")])
async def test_nobody_isolates_himself(made_site, tmp_path, subject):
    async with controlled(made_site, tmp_path) as (rig, control):
        with pytest.raises(IsolationRefused, match="nobody isolates himself"):
            await control.host.segments.isolate([SOMEBODY, subject], ANNA)
        assert not rig.gw.isolations.listed
        assert len(await control.host.segments.isolate([("ops", "ben")], ANNA)) == 1


async def test_whoever_asked_may_go_and_it_is_done_all_the_same(made_site, tmp_path):
    async with controlled(made_site, tmp_path) as (rig, control):
        rig.sink.holding = True
        asking = asyncio.create_task(control.host.segments.isolate([SOMEBODY], ANNA))
        await until(lambda: rig.sink.held)
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
        rig.sink.release()
        await until(lambda: not control.host.segments.tasks)
        assert len(kept(control).listed) == 1


async def test_what_has_run_out_is_recorded_and_taken_off_the_list_once(made_site, tmp_path):
    async with controlled(made_site, tmp_path) as (rig, control):
        segments, now = control.host.segments, rig.gw.wall_ns()
        clock = now
        rig.gw.wall_ns = lambda: clock
        await segments.isolate([SOMEBODY], ANNA, until_ns=now + 100)
        await segments.isolate([("rival", "")], ANNA)
        await segments.expire()
        assert len(segments.isolations.listed) == 2
        clock = now + 100
        for _ in range(2):
            await segments.expire()
        assert [one.tenant for one in kept(control).listed] == ["rival"]
        assert [entry["action"] for entry in entries(rig)] == ["isolated", "isolated", "expired"]
        rig.sink.unavailable = "recorder_gone"
        await segments.expire()
        assert [one.tenant for one in rig.gw.isolations.listed] == ["rival"]


async def test_a_worker_that_does_not_follow_is_named(made_site, tmp_path, monkeypatch):
    class Process:
        returncode, stdin = None, None

    monkeypatch.setattr(gateway.control.tenants.segments, "PATIENCE_S", 0.02)
    async with controlled(made_site, tmp_path) as (_, control):
        segments, (worker,) = control.host.segments, control.host.workers
        await segments.isolate([SOMEBODY], ANNA)
        assert await segments.behind() == []  # it has no process: whoever starts reads the file
        worker.process = Process()
        assert await segments.behind() == [0]
        assert "isolation-not-everywhere" in control.host.log.events
        worker._heard({"event": "isolated", "digest": segments.isolations.digest})
        assert await segments.behind() == []
