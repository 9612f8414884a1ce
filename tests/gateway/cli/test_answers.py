"""What operators see fits a terminal, says everything, and lets nobody's words colour it."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from gateway.cli import answers, effects
from gateway.cli.answers import TABLES, VIEWS, show_tenant
from gateway.cli.operations import OPERATIONS
from stockade.v1 import admin_pb2, custody_pb2
from tests.ops.incidents.test_timeline import T

WIDTH = 80
HOSTILE = "[red]near[/red] repeats, three accounts that move together"
OPERATOR = "spiffe://stockade.local/operator"


@pytest.fixture
def console(monkeypatch):
    made = Console(file=io.StringIO(), width=WIDTH, highlight=False)
    monkeypatch.setattr(answers, "terminal", made)
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
    TABLES["tenants"].show(reply.tenants)
    TABLES["isolations"].show(reply.isolations)
    text = seen(console)
    for word in ("kiosk-7", "(all)", "until it is lifted", "ab" * 16, OPERATOR, "[red]near[/red]", "(inc-1)"):
        assert word in text, word
    TABLES["isolations"].show([])
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
    show_tenant(reply)
    text = seen(console)
    for word in ("cd" * 16, "1,234 rows", "34 INPUT_REJECTED", "30 top1", "e^9.1", "newest entries: 20999, 7"):
        assert word in text, word


def test_what_waits_for_review(console):
    item = admin_pb2.Quarantined(entry=48_211, unix_ns=T, tenant="store-7", model="kiosk", version="2", payload=True)
    item.decision, item.state, item.administrator, item.reason = "refuse", "rejected", OPERATOR, HOSTILE
    item.found.append("evidence refuse p=0.000100 AML.T0015")
    TABLES["quarantine"].show([item])
    text = seen(console)
    for word in ("48211", "payload kept", "p=0.000100", "rejected", "[red]near[/red]"):
        assert word in text, word


LONG = "spiffe://stockade.example/operations/administrators/" + "anna" * 8


def test_ids_that_people_copy_are_never_folded(console):
    one, subject = "5f0c3b7e9a1d4c2f8e6b0a9d7c5e3f1b", {"tenant": "store" * 8, "subject": "[red]kiosk" * 8}
    erasure = custody_pb2.ErasureState(id=one, state="requested", requested_by=LONG, reason="DSR " * 20, **subject)
    TABLES["erasures"].show([erasure])
    TABLES["holds"].show([custody_pb2.HoldState(id=one, administrator=LONG, matter="case " * 20, **subject)])
    text = seen(console)
    assert text.count(one) == 2
    assert "[red]" in text
    TABLES["erasures"].show([])
    TABLES["holds"].show([])
    assert seen(console).endswith("nothing was erased, and nothing waits\nnothing is held\n")


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda one: one.path)
def test_every_row_asks_a_method_that_exists_and_is_shown(operation):
    service, _, name = operation.call.partition("/")
    method = answers.SERVICES[service].methods_by_name[name]
    fields, answer = ({each.name for each in one.fields} for one in (method.input_type, method.output_type))
    assert operation.fixed.keys() <= fields
    assert operation.effect is not None or {each.name for each in operation.asks} - {"payload"} <= fields
    assert operation.tables or operation.view or operation.says
    assert {table for table, _ in operation.tables} <= TABLES.keys()
    assert {field for _, field in operation.tables} <= answer
    assert operation.view in {"", *VIEWS}
    refuses = "accepted" in answer
    assert not refuses or operation.outcome in {effects.accepted, effects.followed, effects.decided, effects.reloaded}
