"""Who is kept out, as it is written down, and what may be done to it."""

from __future__ import annotations

import json
from dataclasses import asdict, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.auth import isolation
from gateway.auth.isolation import NOBODY, Isolation, IsolationRefused, Isolations, read_isolations
from gateway.auth.principal import Principal
from gateway.config.document import PolicyRejected

ONE = Isolation("1" * 32, "store", "kiosk", "spiffe://o", "asks too much", 10, 0, "i-1")
ALL = Isolation("2" * 32, "lab", "", "spiffe://o", "", 20, 100, "")


def caller(name: str, tenant: str) -> Principal:
    return Principal(name, tenant, "standard", 1, frozenset(), "key", "api_key", None)


def test_a_principal_is_kept_out_alone_and_a_tenant_with_all_that_it_has_or_will_have():
    held = Isolations((ONE, ALL))
    assert held.of(caller("kiosk", "store"), 50) is ONE
    assert held.of(caller("other", "store"), 50) is None
    assert held.of(caller("kiosk", "elsewhere"), 50) is None
    assert {held.of(caller(name, "lab"), 50) for name in ("a", "b")} == {ALL}
    assert NOBODY.of(caller("kiosk", "store"), 50) is None


def test_one_that_has_run_out_keeps_nobody_out():
    held = Isolations((ALL,))
    assert held.of(caller("a", "lab"), 99) is ALL
    assert held.of(caller("a", "lab"), 100) is None
    assert (list(held.over(99)), list(held.over(100))) == ([], [ALL])
    assert list(Isolations((ONE,)).over(10**19)) == []


def test_a_tenant_that_has_run_out_does_not_let_in_its_principal():
    gone = replace(ONE, id="3" * 32, principal="", until_ns=5)
    assert Isolations((gone, ONE)).of(caller("kiosk", "store"), 50) is ONE
    assert (
        Isolations((replace(ONE, until_ns=5), replace(gone, until_ns=0))).of(caller("kiosk", "store"), 50) is not None
    )


def test_the_same_subject_again_replaces_what_it_had():
    longer = replace(ONE, id="4" * 32, until_ns=99)
    assert Isolations((ONE, ALL)).with_these([longer]).listed == (longer, ALL)


def test_lifting_what_has_changed_meanwhile_lifts_nothing():
    held = Isolations((ONE, ALL))
    assert held.without([ONE.id]) == (Isolations((ALL,)), [ONE])
    with pytest.raises(IsolationRefused, match="changed or lifted meanwhile"):
        held.without([ONE.id, "5" * 32])


def test_no_more_than_the_bound(monkeypatch):
    monkeypatch.setattr(isolation, "ISOLATIONS_MAX", 2)
    held = Isolations((ONE,)).with_these([ALL])
    assert len(held.with_these([replace(ALL, id="6" * 32)]).listed) == 2
    with pytest.raises(IsolationRefused, match="at most 2"):
        held.with_these([replace(ONE, principal="other")])


def test_it_is_read_as_it_was_written(tmp_path):
    held = Isolations((ONE, ALL))
    (tmp_path / "isolations.json").write_bytes(held.to_json())
    found = read_isolations(tmp_path / "isolations.json")
    assert (found, found.digest) == (held, held.digest)
    assert found.digest != Isolations((ONE,)).digest
    assert read_isolations(tmp_path / "nothing.json") is NOBODY


text = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
one = st.builds(
    Isolation,
    id=st.uuids().map(lambda each: each.hex),
    tenant=st.text("abc", min_size=1, max_size=3),
    principal=text,
    administrator=text,
    reason=text,
    since_ns=st.integers(0, 2**63),
    until_ns=st.integers(0, 2**63),
    incident=text,
)


@given(st.lists(one, max_size=5, unique_by=lambda each: each.subject))
def test_a_round_trip_of_any(tmp_path_factory, listed):
    file = tmp_path_factory.mktemp("isolations") / "isolations.json"
    file.write_bytes(Isolations(tuple(listed)).to_json())
    assert read_isolations(file).listed == tuple(listed)


broken = [
    *("", "[]", "{}", '{"isolations": 1}', "[" * 10_000, '{"isolations": [[]]}'),
    json.dumps({"isolations": [asdict(ONE), asdict(ONE)]}),
    json.dumps({"isolations": [asdict(ONE) | {"more": 1}]}),
    json.dumps({"isolations": [asdict(ONE) | {"until_ns": "7"}]}),
    json.dumps({"isolations": [asdict(ONE) | {"until_ns": -1}]}),
    json.dumps({"isolations": [asdict(ONE) | {"until_ns": True}]}),
    json.dumps({"isolations": [asdict(ONE) | {"tenant": ""}]}),
    json.dumps({"isolations": [asdict(ONE) | {"principal": None}]}),
]


@pytest.mark.parametrize("text", broken)
def test_nobody_guesses_what_a_broken_file_means(tmp_path, text):
    (tmp_path / "isolations.json").write_text(text)
    with pytest.raises(PolicyRejected, match="does not say who is kept out; restore it, or remove it"):
        read_isolations(tmp_path / "isolations.json")


@given(st.binary(max_size=200))
def test_any_bytes_are_a_list_or_refused(tmp_path_factory, data):
    file = tmp_path_factory.mktemp("isolations") / "isolations.json"
    file.write_bytes(data)
    with pytest.raises(PolicyRejected):
        read_isolations(file)
