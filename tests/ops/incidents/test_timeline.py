"""From entries to what happened: who is counted, what is listed, and where it ends."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ops.audit.log.entry import canonical, check, parse
from ops.incidents import timeline as incident
from ops.incidents.timeline import FOR_EVER_NS, OTHERS, Register, Scope, Timeline, line_of
from tests.ops.audit.log.test_entry import KINDS, OWN
from tests.ops.audit.samples import request

T = 1_800_000_000_000_000_000
MODEL = {"digest": "d" * 64, "engine": "inprocess", "name": "kiosk", "version": "1"}
FLAGGED = {
    "digest": "f" * 64,
    "mode": "enforce",
    "name": "evidence",
    "p_micro": 10,
    "score_micro": 7,
    "technique": "AML.T0015",
    "threshold_micro": 100,
    "verdict": "flag",
}


def asked(at: int, tenant: str = "store-7", principal: str = "a" * 32, **fields) -> bytes:
    auth = {"credential": "key", "method": "api_key", "principal": principal, "tenant": tenant}
    data = canonical({**request(), "auth": auth, "model": MODEL, "time_ns": str(T + at), **fields})
    check(data)
    return data


def other(kind: str, at: int, **fields) -> bytes:
    data = canonical({**OWN, **KINDS[kind], "kind": kind, "time_ns": str(T + at), **fields})
    check(data)
    return data


def timeline(*entries: bytes, **scope) -> Timeline:
    made = Timeline(Scope(**scope))
    for index, entry in enumerate(entries, 100):
        made.add(index, entry)
    return made


def test_requests_are_counted_by_tenant_and_model_with_the_first_and_last_entry_that_prove_it():
    found = timeline(
        asked(1, rows=3),
        asked(2, tenant="lab", screens=[FLAGGED], decision="flag"),
        asked(3, principal="b" * 32, rows=2, kind="refused", decision="refuse", reason="INPUT_REJECTED", status=7),
        asked(4, model=MODEL | {"version": "2"}),
    )
    assert set(found.affected) == {("store-7", "kiosk", "1"), ("lab", "kiosk", "1"), ("store-7", "kiosk", "2")}
    store, lab = found.affected["store-7", "kiosk", "1"], found.affected["lab", "kiosk", "1"]
    assert (store.requests, store.rows, store.first_index, store.last_index) == (2, 5, 100, 102)
    assert (store.outcomes, store.reasons) == ({"served": 1, "refused": 1}, {"OK": 1, "INPUT_REJECTED": 1})
    assert len(store.principals) == 2
    assert lab.decisions == {"flag": 1}
    assert found.verdicts() == {("AML.T0015", "evidence", "flag"): 1}


def test_what_passes_a_screen_is_no_verdict():
    found = timeline(asked(1, screens=[FLAGGED | {"verdict": "pass"}]))
    assert not found.verdicts()


def test_only_what_is_in_the_range_both_ends_included():
    entries = [asked(at) for at in (9, 10, 20, 21)] + [other("policy", at) for at in (9, 10, 20, 21)]
    found = timeline(*entries, from_ns=T + 10, until_ns=T + 20)
    assert found.affected["store-7", "kiosk", "1"].requests == 2
    assert [each.index for each in found.happenings] == [105, 106]
    assert (found.entries, found.in_range) == (8, 4)


def test_the_policy_and_the_models_of_before_are_known():
    found = timeline(
        other("policy", 1, outcome="loaded", digest="1" * 64),
        other("policy", 2, outcome="loaded", digest="2" * 64),
        other("policy", 3, outcome="rejected", digest="3" * 64),
        other("model", 1, action="loaded", version="1"),
        other("model", 2, action="loaded", version="2"),
        other("model", 3, action="unloaded", version="1"),
        other("policy", 11, outcome="loaded", digest="4" * 64),
        other("model", 12, action="loaded", version="3"),
        from_ns=T + 10,
    )
    assert found.before() == (101, T + 2, "2" * 64)
    assert found.models == {("kiosk", "2"): 104}
    assert [digest[0] for _, _, digest in found.policies] == ["1", "2", "4"]
    assert timeline(other("policy", 11, outcome="loaded"), from_ns=T + 10).before() is None


def test_which_version_of_a_model_answered_last_before_it_began():
    refused = {"kind": "refused", "decision": "refuse", "reason": "INPUT_REJECTED", "status": 7}
    found = timeline(
        asked(1),
        asked(2, model=MODEL | {"version": "2"}),
        asked(3),
        asked(4, model=MODEL | {"version": "3"}, **refused),
        asked(11, model=MODEL | {"version": "4"}),
        from_ns=T + 10,
    )
    assert found.answered == {"kiosk": {"1": 102, "2": 101}}


@pytest.mark.parametrize(
    ("scope", "counted"),
    [
        ({}, {"store-7", "lab"}),
        ({"tenants": frozenset({"lab"})}, {"lab"}),
        ({"principals": frozenset({"b" * 32})}, {"lab"}),
        ({"models": frozenset({"kiosk"})}, {"store-7", "lab"}),
        ({"models": frozenset({"kiosk/2"})}, {"lab"}),
        ({"models": frozenset({"kios"}), "tenants": frozenset({"lab"})}, {"lab"}),
        ({"tenants": frozenset({"nobody"})}, set()),
    ],
)
def test_whoever_is_suspected(scope, counted):
    entries = asked(1), asked(2, "lab", "b" * 32, model=MODEL | {"version": "2"})
    assert {tenant for tenant, _, _ in timeline(*entries, **scope).affected} == counted


def test_a_sum_of_refusals_counts_as_many():
    summed = {**OWN, **KINDS["refused"], "kind": "refused", "time_ns": str(T)}
    found = timeline(canonical(summed))
    assert found.affected["", "", ""].outcomes == {"refused": 3}
    assert found.affected["", "", ""].reasons == {"CREDENTIAL_MISSING": 3}


def test_what_an_account_came_to_is_the_worst_of_it():
    def account(evidence: int, step: str) -> dict:
        return {"evidence_milli": evidence, "mode": "enforce", "repeats": 1, "step": step}

    (found,) = timeline(
        asked(1, account=account(50, "allow")),
        asked(2, account=account(9000, "top1")),
        asked(3, account=account(7, "allow")),
    ).affected.values()
    assert (found.evidence_milli, found.steps) == (9000, {"allow": 2, "top1": 1})


def test_operators_are_listed_where_they_changed_something():
    reload, status = "/stockade.v1.Admin/ReloadPolicy", "/stockade.v1.Admin/Status"
    unload = "/inference.GRPCInferenceService/RepositoryModelUnload"
    found = timeline(
        asked(1, method=reload), asked(2, method=status), asked(3, method=unload), asked(4), tenants=frozenset({"x"})
    )
    assert [each.what for each in found.happenings] == ["ReloadPolicy by key: OK", "RepositoryModelUnload by key: OK"]


def test_more_happenings_groups_and_principals_than_there_is_room_for(monkeypatch):
    for name in ("HAPPENINGS_MAX", "GROUPS_MAX", "PRINCIPALS_MAX"):
        monkeypatch.setattr(incident, name, 2)
    found = timeline(*(other("policy", at) for at in range(3)), *(asked(1, f"t{n}") for n in range(4)))
    assert (len(found.happenings), found.left_out) == (2, 1)
    assert {key[0]: each.requests for key, each in found.affected.items()} == {"t0": 1, "t1": 1, OTHERS: 2}
    (many,) = timeline(*(asked(1, principal=f"{n:032x}") for n in range(3))).affected.values()
    assert len(many.principals) == 2


@pytest.mark.parametrize("kind", sorted(set(KINDS) - {"served", "refused", "failed", "outcome-unknown", "heartbeat"}))
def test_every_kind_has_a_line(kind):
    line = line_of({**OWN, **KINDS[kind], "kind": kind})
    assert line
    assert "\n" not in line
    assert "  " not in line


def test_what_labels_say_of_a_version_is_in_its_line():
    line = line_of({**OWN, **KINDS["evaluation"], "kind": "evaluation"})
    assert line == "kiosk/2 right in 181 of 200, trusted"


@given(st.sampled_from(sorted(KINDS)), st.integers(0, 2**62))
def test_any_entry_is_taken(kind, at):
    value = {**OWN, **KINDS[kind], "kind": kind, "time_ns": str(at)}
    made = Timeline(Scope())
    made.add(0, canonical(value))
    assert made.entries == 1
    assert made.in_range == 1


# Which incidents there were


def register(*entries: bytes) -> Register:
    made = Register()
    for index, entry in enumerate(entries, 100):
        made.add(index, entry)
    return made


def test_an_incident_is_what_opened_it_and_what_names_it_since():
    suspects = ["tenant:lab", f"principal:store-7/{'a' * 32}", "model:kiosk", "model:tiny/2"]
    made = register(
        other("incident", 1, suspects=suspects),
        asked(2),
        other("isolation", 3),
        other("quarantine", 4, incident="i-1"),
        other("quarantine", 5),
        other("admin", 5, detail={"incident": "i-1"}),
        other("incident", 6, action="noted"),
        other("incident", 7, action="closed"),
    )
    (one,) = made.incidents.values()
    assert (one.name, one.index, one.time_ns, one.administrator) == ("i-1", 100, T + 1, "a")
    assert one.acts == [102, 103, 105, 106, 107]
    assert one.closed_index == 107
    scope = one.scope()
    assert (scope.tenants, scope.principals) == (frozenset({"lab"}), frozenset({"a" * 32}))
    assert scope.models == frozenset({"kiosk", "tiny/2"})
    assert (scope.from_ns, scope.until_ns) == (1_800_000_000_000_000_000, 1_800_000_000_000_000_009)


def test_one_that_goes_on_has_no_end_and_one_that_is_opened_again_is_not_over():
    made = register(other("incident", 1), other("incident", 2, action="closed"), other("incident", 3))
    (one,) = made.incidents.values()
    assert (one.index, one.closed_index, one.acts) == (100, None, [101, 102])
    data = other("incident", 1)
    without = canonical({key: value for key, value in parse(data).items() if key not in ("until_ns", "from_ns")})
    (one,) = register(without).incidents.values()
    assert (one.from_ns, one.until_ns) == (0, FOR_EVER_NS)


def test_what_nobody_opened_is_no_incident():
    assert not register(other("isolation", 1), other("incident", 2, action="noted")).incidents


def test_no_more_than_there_is_room_for(monkeypatch):
    monkeypatch.setattr(incident, "INCIDENTS_MAX", 2)
    monkeypatch.setattr(incident, "ACTS_MAX", 2)
    made = register(*(other("incident", at, incident=f"i-{at}") for at in range(3)))
    assert set(made.incidents) == {"i-0", "i-1"}
    (one,) = register(other("incident", 0), *(other("isolation", at) for at in range(3))).incidents.values()
    assert one.acts == [101, 102]
