"""What the admin port takes of operators, and what it refuses before anything is recorded."""

from __future__ import annotations

from contextlib import asynccontextmanager
from types import SimpleNamespace

import pytest

from gateway.auth.principal import Principal
from gateway.control.quarantine.store import Finding, Quarantine
from gateway.errors import ArgumentInvalid, AuditUnavailable
from gateway.host.admin import operator_methods
from gateway.host.supervisor import Child
from stockade.v1 import admin_pb2 as pb
from tests.gateway.host.test_admin import controlled

OPERATOR = Principal("operator", "operations", "standard", 0, frozenset(), "spiffe://o", "mtls", None)
WHY = {"reason": "a test"}


@asynccontextmanager
async def operated(made_site, tmp_path):
    """A control plane, and what asks its methods as the operator does."""
    async with controlled(made_site, tmp_path) as (rig, control):
        control.quarantine = Quarantine(tmp_path / "quarantine.db")
        methods = operator_methods(control)
        record = SimpleNamespace(id="e" * 32, caller=lambda: OPERATOR)
        call = SimpleNamespace(record=record, gw=rig.gw)

        async def ask(name: str, request, reply):
            return reply.FromString((await methods[name](call, request.SerializeToString())).body)

        try:
            yield rig, control, ask
        finally:
            control.quarantine.close()


def tenant(name: str) -> pb.Subject:
    return pb.Subject(tenant=name)


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        (pb.IsolateRequest(subjects=[tenant("plenty")]), "reason"),
        (pb.IsolateRequest(subjects=[tenant("plenty")], reason=" \n "), "reason"),
        (pb.IsolateRequest(subjects=[tenant("plenty")], reason="a\nb"), "reason"),
        (pb.IsolateRequest(subjects=[tenant("plenty")], reason="a\x1b[2J"), "reason"),
        (pb.IsolateRequest(subjects=[tenant("plenty")], reason="x" * 501), "reason"),
        (pb.IsolateRequest(subjects=[tenant("plenty")], incident="x" * 65, **WHY), "incident"),
        (pb.IsolateRequest(**WHY), "subjects"),
        (pb.IsolateRequest(subjects=[pb.Subject()], **WHY), "subjects[0].tenant"),
        (pb.IsolateRequest(subjects=[tenant("plenty"), tenant("nobody")], **WHY), "subjects[1].tenant"),
        (pb.IsolateRequest(subjects=[pb.Subject(principal="nobody")], **WHY), "subjects[0].principal"),
        (pb.IsolateRequest(subjects=[pb.Subject(tenant="plenty", principal="plenty")], **WHY), "subjects[0]"),
        (pb.IsolateRequest(subjects=[pb.Subject(tenant="plenty", pseudonym="a" * 32)], **WHY), "subjects[0].pseudonym"),
        (pb.IsolateRequest(subjects=[tenant("plenty")], until_unix_ns=5, **WHY), "until_unix_ns"),
    ],
)
async def test_isolations_that_cannot_be(made_site, tmp_path, request_, field):
    async with operated(made_site, tmp_path) as (rig, _, ask):
        with pytest.raises(ArgumentInvalid) as refused:
            await ask("Isolate", request_, pb.IsolateResponse)
        assert refused.value.field == field
        assert not rig.sink.entries


async def test_at_most_64_at_a_time(made_site, tmp_path, monkeypatch):
    monkeypatch.setattr("gateway.control.tenants.methods.SUBJECTS_MAX", 2)
    async with operated(made_site, tmp_path) as (_, __, ask):
        two = [tenant("plenty"), tenant("rival")]
        assert (await ask("Isolate", pb.IsolateRequest(subjects=[*two, *two], **WHY), pb.IsolateResponse)).accepted
        more = pb.IsolateRequest(subjects=[*two, tenant("forgetful")], **WHY)
        with pytest.raises(ArgumentInvalid, match="must be 1 to 2"):
            await ask("Isolate", more, pb.IsolateResponse)


async def test_a_caller_as_the_log_calls_it(made_site, tmp_path):
    async with operated(made_site, tmp_path) as (rig, control, ask):
        shown = await ask("ShowTenant", pb.ShowTenantRequest(tenant="plenty", entries_max=1), pb.ShowTenantResponse)
        known = {one.name: one.pseudonym for one in shown.principals}
        subject = pb.Subject(tenant="plenty", pseudonym=known["single"])
        done = await ask("Isolate", pb.IsolateRequest(subjects=[subject], **WHY), pb.IsolateResponse)
        assert [one.principal for one in done.isolations] == ["single"]
        assert rig.sink.records(kind="isolation")[0]["principal"] == known["single"]
        listed = await ask("ListTenants", pb.ListTenantsRequest(), pb.ListTenantsResponse)
        assert listed.tenants[0].name == "plenty"  # whoever is kept out stands first
        assert (listed.tenants[0].isolated, len(listed.isolations)) == (1, 1)
        assert control.host.segments.isolations.listed[0].administrator == "spiffe://o"


async def test_an_incident_is_what_the_log_says_of_it(made_site, tmp_path):
    async with operated(made_site, tmp_path) as (rig, _, ask):
        request = pb.NoteIncidentRequest(
            action="opened",
            reason="noise",
            from_unix_ns=7,
            suspects=[tenant("rival"), pb.Subject(principal="plenty")],
            models=["tiny", "kiosk/2"],
            detail={"ticket": "42"},
        )
        reply = await ask("NoteIncident", request, pb.NoteIncidentResponse)
        (entry,) = rig.sink.records(kind="incident")
        assert (entry["incident"], entry["action"], entry["from_ns"]) == (reply.incident, "opened", "7")
        assert "until_ns" not in entry
        named, suspect = entry["suspects"][0], entry["suspects"][1]
        assert (named, entry["suspects"][2:]) == ("tenant:rival", ["model:tiny", "model:kiosk/2"])
        assert suspect.startswith("principal:plenty/")
        assert len(suspect.rpartition("/")[2]) == 32
        assert (entry["detail"], entry["request"]) == ({"ticket": "42"}, "e" * 32)


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"action": "begun"}, "action"),
        ({"action": "closed"}, "incident"),
        ({"action": "noted", "incident": "x" * 65}, "incident"),
        ({"action": "opened", "detail": {"kind": "served"}}, "detail"),
        ({"action": "opened", "detail": {"é": "x"}}, "detail"),
        ({"action": "opened", "detail": {"x": "y" * 501}}, "detail"),
        ({"action": "opened", "detail": {str(number): "" for number in range(33)}}, "detail"),
        ({"action": "opened", "models": [""]}, "models"),
        ({"action": "opened", "models": ["m"] * 65}, "suspects"),
        ({"action": "opened", "suspects": [tenant("nobody")]}, "subjects[0].tenant"),
    ],
)
async def test_incidents_that_cannot_be(made_site, tmp_path, fields, field):
    async with operated(made_site, tmp_path) as (rig, _, ask):
        with pytest.raises(ArgumentInvalid) as refused:
            await ask("NoteIncident", pb.NoteIncidentRequest(**fields, **WHY), pb.NoteIncidentResponse)
        assert refused.value.field == field
        assert not rig.sink.entries


def waiting(entry: int) -> Finding:
    return Finding(entry, "a" * 32, 5, "plenty", "b" * 32, "tiny", "1", "flag", ("evidence flag",), payload=False)


async def test_what_is_decided_is_in_the_log_first_and_once(made_site, tmp_path):
    async with operated(made_site, tmp_path) as (rig, control, ask):
        control.quarantine.take(map(waiting, range(3)), {})
        both = pb.DecideQuarantinedRequest(entries=[0, 1, 0], decision="reject", **WHY)
        rig.sink.unavailable = "recorder_gone"
        with pytest.raises(AuditUnavailable):
            await ask("DecideQuarantined", both, pb.DecideQuarantinedResponse)
        assert control.quarantine.waiting() == 3
        rig.sink.unavailable = None
        assert (await ask("DecideQuarantined", both, pb.DecideQuarantinedResponse)).accepted
        again = pb.DecideQuarantinedRequest(entries=[2, 1], decision="release", **WHY)
        reply = await ask("DecideQuarantined", again, pb.DecideQuarantinedResponse)
        assert reply.problem == "entry 1 was rejected by spiffe://o"
        assert control.quarantine.waiting() == 1
        assert [(each["action"], each["entry"]) for each in rig.sink.records(kind="quarantine")] == [
            ("rejected", 0),
            ("rejected", 1),
        ]
        shown = await ask("ShowQuarantined", pb.ShowQuarantinedRequest(entry=1), pb.ShowQuarantinedResponse)
        assert (shown.item.state, shown.problem[:16]) == ("rejected", "it was not kept:")


@pytest.mark.parametrize(
    ("name", "request_", "field"),
    [
        ("DecideQuarantined", pb.DecideQuarantinedRequest(entries=[1], decision="keep", **WHY), "decision"),
        ("DecideQuarantined", pb.DecideQuarantinedRequest(decision="reject", **WHY), "entries"),
        ("DecideQuarantined", pb.DecideQuarantinedRequest(entries=range(257), decision="reject", **WHY), "entries"),
        ("ShowQuarantined", pb.ShowQuarantinedRequest(entry=9), "entry"),
        ("ListQuarantine", pb.ListQuarantineRequest(state="lost"), "state"),
        ("ShowTenant", pb.ShowTenantRequest(tenant="nobody"), "tenant"),
        ("LiftIsolation", pb.LiftIsolationRequest(**WHY), "ids"),
    ],
)
async def test_what_else_cannot_be(made_site, tmp_path, name, request_, field):
    async with operated(made_site, tmp_path) as (_, __, ask):
        with pytest.raises(ArgumentInvalid) as refused:
            await ask(name, request_, pb.IsolateResponse)
        assert refused.value.field == field


async def test_who_is_forgiven_is_recorded_and_every_worker_is_told(made_site, tmp_path, monkeypatch):
    async with operated(made_site, tmp_path) as (rig, control, ask):
        told = []
        monkeypatch.setattr(Child, "tell", lambda self, **command: told.append((self.name, command)))
        monkeypatch.setattr("gateway.control.tenants.segments.FORGIVEN_AT_ONCE", 3)
        one = pb.ForgiveAccountsRequest(subjects=[pb.Subject(principal="rival")], incident="inc-1", **WHY)
        assert (await ask("ForgiveAccounts", one, pb.ForgiveAccountsResponse)).principals == 1
        assert told == [("worker-0", {"do": "forgive", "principals": ["rival"]})]
        (entry,) = rig.sink.records(kind="admin")
        assert (entry["action"], entry["administrator"], entry["outcome"]) == ("account-forgiven", "spiffe://o", "done")
        assert set(entry["detail"]) == {"tenant", "principal", "reason", "request", "incident"}
        told.clear()
        many = pb.ForgiveAccountsRequest(subjects=[tenant("plenty")], **WHY)
        count = (await ask("ForgiveAccounts", many, pb.ForgiveAccountsResponse)).principals
        names = [name for name, each in control.host.policy.principals.items() if each.tenant == "plenty"]
        assert (count, [name for _, command in told for name in command["principals"]]) == (len(names), names)
        assert max(len(command["principals"]) for _, command in told) == 3
        rig.sink.unavailable = "recorder_gone"
        told.clear()
        with pytest.raises(AuditUnavailable):
            await ask("ForgiveAccounts", one, pb.ForgiveAccountsResponse)
        assert told == []
