"""Incidents as the log has them: what opened them, what names them since, and whether they are over."""

from __future__ import annotations

from ops.audit.log.entry import canonical, parse
from ops.incidents import timeline as incident_register
from ops.incidents.timeline import FOR_EVER_NS, Register
from tests.ops.incidents.test_timeline import T, asked, other


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
    monkeypatch.setattr(incident_register, "INCIDENTS_MAX", 2)
    monkeypatch.setattr(incident_register, "ACTS_MAX", 2)
    made = register(*(other("incident", at, incident=f"i-{at}") for at in range(3)))
    assert set(made.incidents) == {"i-0", "i-1"}
    (one,) = register(other("incident", 0), *(other("isolation", at) for at in range(3))).incidents.values()
    assert one.acts == [101, 102]
