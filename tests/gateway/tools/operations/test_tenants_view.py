"""What operators see fits a terminal, says everything, and lets nobody's words colour it."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

import gateway.tools.operations.quarantine
from gateway.tools.incident.read import Story
from gateway.tools.incident.view import as_json, render_incidents, render_steps, render_story
from gateway.tools.operations.tenants_view import render_isolations, render_shown, render_tenants
from ops.incidents.timeline import Register, Scope, Timeline
from stockade.v1 import admin_pb2
from tests.ops.incidents.test_report import HEAD
from tests.ops.incidents.test_timeline import FLAGGED, T, asked, other

WIDTH = 80
HOSTILE = "[red]near[/red] repeats, three accounts that move together"
OPERATOR = "spiffe://stockade.local/operator"


@pytest.fixture
def console(monkeypatch):
    made = Console(file=io.StringIO(), width=WIDTH, highlight=False)
    monkeypatch.setattr(gateway.tools.operations.quarantine, "terminal", made)
    return made


def seen(console) -> str:
    text = console.file.getvalue()
    assert max(map(len, text.splitlines())) <= WIDTH
    assert "…" not in text
    return text


def isolation(**more) -> admin_pb2.Isolation:
    return admin_pb2.Isolation(
        id="ab" * 16,
        tenant="store-7",
        administrator=OPERATOR,
        reason=HOSTILE,
        since_unix_ns=T,
        incident="inc-1",
        **more,
    )


def test_who_is_kept_out(console):
    reply = admin_pb2.ListTenantsResponse(isolations=[isolation(principal="kiosk-7"), isolation(until_unix_ns=T)])
    reply.tenants.add(name="store-7", priority_class="standard", principals=3, isolated=1)
    render_tenants(reply, console)
    text = seen(console)
    for word in ("kiosk-7", "(all)", "until it is lifted", "ab" * 16, OPERATOR, "[red]near[/red]", "(inc-1)"):
        assert word in text, word
    render_isolations([], console)
    assert "nobody is kept out" in seen(console)


def test_a_tenant(console):
    reply = admin_pb2.ShowTenantResponse(first_entry=1000, entries=20_000, newest=[20_999, 7], isolations=[isolation()])
    reply.tenant.name = reply.limits.name = "store-7"
    principal = reply.principals.add(name="kiosk-7", pseudonym="cd" * 16, roles=["predictor"], isolated=True)
    principal.limits.name = "shared"
    reply.asked.add(
        model="kiosk",
        version="2",
        rows=1234,
        outcomes={"served": 1200},
        reasons={"OK": 1200, "INPUT_REJECTED": 34},
        verdicts={"AML.T0015 evidence refuse": 34},
        steps={"top1": 30},
        evidence_milli=9123,
    )
    render_shown(reply, console)
    text = seen(console)
    for word in ("cd" * 16, "1,234 rows", "34 INPUT_REJECTED", "30 top1", "e^9.1", "newest entries: 20999, 7"):
        assert word in text, word


def test_what_waits_for_review(console):
    item = admin_pb2.Quarantined(entry=48_211, unix_ns=T, tenant="store-7", model="kiosk", version="2", payload=True)
    item.decision, item.state, item.administrator, item.reason = "refuse", "rejected", OPERATOR, HOSTILE
    item.found.append("evidence refuse p=0.000100 AML.T0015")
    gateway.tools.operations.quarantine.render([item])
    text = seen(console)
    for word in ("48211", "payload kept", "p=0.000100", "rejected", "[red]near[/red]"):
        assert word in text, word


def test_what_happened(console):
    timeline, register = Timeline(Scope()), Register()
    entries = [
        other("incident", 1, reason=HOSTILE, suspects=["principal:store-7/" + "a" * 32]),
        asked(2, screens=[FLAGGED], decision="flag"),
        other("isolation", 3, reason=HOSTILE),
    ]
    for index, entry in enumerate(entries):
        timeline.add(index, entry)
        register.add(index, entry)
    story = Story(HEAD, timeline, register.incidents["i-1"])
    render_incidents(register, console)
    render_story(story, console)
    text = seen(console)
    for word in (
        "i-1",
        "open, 1 acts",
        "principal:store-7/",
        "isolation: isolated",
        "entries 1 to 1",
        "[red]near[/red]",
    ):
        assert word in text, word
    told = as_json(story)
    assert [one["index"] for one in told["happenings"]] == [0, 2]
    assert told["requests"][0]["verdicts"] == {"AML.T0015 evidence flag": 1}


def test_nothing(console):
    render_steps([], console)
    render_incidents(Register(), console)
    render_story(Story(HEAD, Timeline(Scope()), None), console)
    text = seen(console)
    for word in ("nothing is to be taken back", "knows no incident", "nothing happened but requests", "no requests"):
        assert word in text, word
