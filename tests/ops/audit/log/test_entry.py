"""Canonical JSON and the schema of the leaf."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ops.audit.errors import EntryError
from ops.audit.log import entry
from ops.audit.log.entry import ENTRY_BYTES_MAX, canonical, check, parse
from ops.audit.log.merkle import leaf_hash
from ops.audit.log.schemas.requests import INTEGER_MAX
from tests.ops.audit.samples import captured, request, sized, small
from tests.ops.audit.vectors import vector

OWN = {"build": "0", "id": "ab" * 16, "time_ns": "1800000000000000000", "v": 1}
KINDS = {
    "genesis": {"origin": "example.test/log", "vkey": "k"},
    "heartbeat": {"interval_ms": 5000, "sequence": 1, "size": 9},
    "config": {"digest": "d" * 64, "outcome": "loaded"},
    "policy": {"digest": "d" * 64, "outcome": "rolled-back", "reason": "SIGNATURE"},
    "model": {"action": "loaded", "digest": "d" * 64, "name": "kiosk", "version": "1"},
    "key": {"action": "added", "key": "kiosk-7-a", "purpose": "api"},
    "erasure": {
        "administrators": ["a", "b"],
        "erasure": "ab" * 16,
        "keys": ["00ff"],
        "months": ["2026-11"],
        "reason": "DSR-1",
        "request": "cd" * 16,
        "subject": "ef" * 16,
        "tenant": "store-7",
    },
    "hold": {
        "action": "lifted",
        "administrator": "a",
        "hold": "ab" * 16,
        "matter": "case 7",
        "reason": "closed",
        "request": "cd" * 16,
        "subject": "ef" * 16,
        "tenant": "store-7",
    },
    "gap": {"dropped": 3, "reason": "disk-full", "state": "open"},
    "recover": {"cause": "crash", "cut_bytes": 0, "root": "e" * 64, "size": 4},
    "epoch-close": {"next_origin": "example.test/log-2", "size": 4},
    "replay-result": {"checked": 1, "differing": 0, "first": 0, "level": "R1"},
    "admin": {"action": "policy-reload", "administrator": "a", "detail": {"who": "x"}, "outcome": "done"},
    "release": {
        "action": "rolled-back",
        "counts": {"compared": 7, "errors": 3, "requests": 9},
        "name": "kiosk",
        "policy": "e" * 64,
        "reason": "error rate 0.333 (3 of 9) is above 0.02",
        "version": "2",
        "weights_micro": {"1": 1_000_000, "2": 0},
    },
    "feedback": {
        "auth": request()["auth"],
        "call": "cd" * 16,
        "disposition": "quarantined",
        "key": "aa7c1f0e6bb0a0b1",
        "label": "Sandal",
        "name": "kiosk",
        "outcome_ns": "1800000000000000001",
        "p_micro": 4_100,
        "reason": "INCONSISTENT",
        "request": "ab" * 16,
        "row": 3,
        "version": "2",
    },
    "evaluation": {
        "calibration_error_micro": 12_345,
        "labels": 200,
        "name": "kiosk",
        "right": 181,
        "since_ns": "1800000000000000000",
        "source": "trusted",
        "version": "2",
    },
    "isolation": {
        "action": "isolated",
        "administrator": "spiffe://example.org/operator",
        "incident": "i-1",
        "isolation": "ab" * 16,
        "principal": "cd" * 16,
        "reason": "asks like an attacker",
        "tenant": "store-7",
        "until_ns": "1800000000000000009",
    },
    "incident": {
        "action": "opened",
        "administrator": "a",
        "detail": {"policy": "d" * 64},
        "from_ns": "1800000000000000000",
        "incident": "i-1",
        "suspects": ["tenant:store-7", "model:kiosk/2"],
        "until_ns": "1800000000000000009",
    },
    "quarantine": {"action": "rejected", "administrator": "a", "entry": 7, "subject": "ab" * 16},
    "outcome-unknown": {"decision": "error", "gateway": "h/0", "reason": "OUTCOME_UNKNOWN"},
    "served": {key: value for key, value in request().items() if key not in OWN},
    "failed": {key: value for key, value in request().items() if key not in OWN},
    "refused": {
        "config": "c" * 64,
        "count": 3,
        "gateway": "h/0",
        "policy": "e" * 64,
        "reasons": {"CREDENTIAL_MISSING": 3},
    },
}
restricted = st.recursive(
    st.booleans() | st.integers(-INTEGER_MAX, INTEGER_MAX) | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text(st.characters(max_codepoint=126), max_size=6), inner, max_size=4)
    ),
    max_leaves=20,
)


def test_frozen_entries():
    for each in vector("entry"):
        data = each["entry"].encode()
        assert canonical(parse(data)) == data
        assert leaf_hash(data).hex() == each["leaf"]


def test_every_kind_of_the_specification_has_a_schema():
    assert set(KINDS) == entry.KINDS


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_a_kind_takes_its_fields_and_no_other(kind):
    value = {**OWN, **KINDS[kind], "kind": kind}
    assert parse(canonical(value)) == value
    with pytest.raises(EntryError):
        check(canonical({**value, "surplus": 1}))
    with pytest.raises(EntryError):
        check(canonical({key: each for key, each in value.items() if key != "time_ns"}))
    with pytest.raises(EntryError):
        check(canonical({**value, "v": 2}))


@given(restricted)
def test_canonical_is_json_with_sorted_keys_and_nothing_between(value):
    data = canonical(value)
    assert json.loads(data) == value
    assert data.decode() == json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


@given(st.binary(max_size=400) | restricted.map(canonical))
def test_any_bytes_are_an_entry_or_refused(data):
    with pytest.raises(EntryError):
        check(data)


@given(st.integers(0, len(small()) - 1), st.binary(max_size=3))
def test_a_changed_entry_is_refused_or_canonical_all_the_same(at, patch):
    data = small()[:at] + patch + small()[at + len(patch) :]
    try:
        value = parse(data)
    except EntryError:
        return
    assert canonical(value) == data


@pytest.mark.parametrize(
    "value",
    [
        1.0,
        None,
        {"a": 1.5},
        [None],
        INTEGER_MAX + 1,
        -INTEGER_MAX - 1,
        {"é": 1},
        {1: 2},
        "\ud800",
        b"x",
        pytest.param({"a": object()}, id="an object"),
    ],
    ids=repr,
)
def test_what_canonical_json_does_not_have(value):
    with pytest.raises(EntryError):
        canonical(value)


def test_integers_and_depth_at_their_limits():
    assert canonical([INTEGER_MAX, -INTEGER_MAX]) == b"[9007199254740991,-9007199254740991]"
    deep: object = 1
    for _ in range(entry.DEPTH_MAX):
        deep = [deep]
    assert canonical(deep)
    with pytest.raises(EntryError):
        canonical([deep])


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b'"rows":1,', b'"rows":1.0,'),
        (b'"rows":1,', b'"rows":1e0,'),
        (b'"rows":1,', b'"rows":-0,'),
        (b'"rows":1,', b'"rows":null,'),
        (b'"rows":1,', b'"rows":1,"rows":1,'),
        (b'"rows":1,', b'"rows": 1,'),
        (b'"rows":1,', b'"rows":9007199254740992,'),
        (b'"rows":1,', b'"rows":-1,'),
        (b'"reason":"OK"', b'"reason":"\\u004fK"'),
        (b'"reason":"OK"', b'"reason":"O\xffK"'),
        (b'"reason":"OK"', b'"reason":"\\ud800"'),
        (b'"admit":12', b'"\\u0061dmit":12'),
        (b'"admit":12', '"ädmit":12'.encode()),
        (b'{"auth"', b' {"auth"'),
        (b'"v":1}', b'"v":1}\n'),
        (b'"time_ns":"18', b'"time_ns":"x8'),
        (b'"time_ns":"18', b'"time_ns":"08'),
        (b'"kind":"served"', b'"kind":"refused","count":1'),
    ],
)
def test_an_entry_that_is_not_canonical_or_not_typed_is_refused(old, new):
    data = canonical(request())
    assert old in data
    changed = data.replace(old, new)
    assert changed != data
    with pytest.raises(EntryError):
        check(changed)


def test_text_that_is_not_ascii_is_fine_in_values():
    assert check(small(reason="é\u2028\x7f😀\x01"))


def test_length_at_its_limit_and_one_past_it():
    assert check(sized(ENTRY_BYTES_MAX))
    with pytest.raises(EntryError):
        check(sized(ENTRY_BYTES_MAX + 1))


def test_a_string_cannot_pass_for_the_kind():
    data = small(peer='","kind":"heartbeat')
    assert check(data).kind == "refused"


def test_payload_hashes_are_those_of_request_and_response_in_order():
    import hashlib

    hashes = entry.payload_hashes(check(captured(1, b"a", b"b")))
    assert hashes == (hashlib.sha256(b"a").digest(), hashlib.sha256(b"b").digest())
    assert entry.payload_hashes(check(small())) == ()
    broken = captured(1, b"a").replace(hashlib.sha256(b"a").hexdigest().encode(), b"z" * 64)
    with pytest.raises(EntryError):
        entry.payload_hashes(check(broken))


def test_pseudonyms_are_stable_and_separate_by_tenant():
    one = entry.pseudonym(b"k" * 32, "alice")
    assert one == entry.pseudonym(b"k" * 32, "alice")
    assert len(one) == 32
    assert one not in (entry.pseudonym(b"l" * 32, "alice"), entry.pseudonym(b"k" * 32, "bob"))


@pytest.mark.parametrize("kind", ["served", "failed", "refused"])
def test_a_request_has_no_count(kind):
    """`count` marks the sum of anonymous refusals, and stands before `kind`."""
    with pytest.raises(EntryError):
        check(canonical(request(1, kind=kind, count=1)))
