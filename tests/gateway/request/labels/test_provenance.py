"""What is signed: every field counts, nothing else does, and there is one reading of the bytes."""

from dataclasses import fields, replace

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from gateway.request.labels.provenance import DOMAIN, Statement, signed_item, verifies

KEY = Ed25519PrivateKey.from_private_bytes(b"k" * 32)
PUBLIC = KEY.public_key().public_bytes_raw()
SAID = Statement(b"r" * 16, 3, "kiosk", "2", "Sandal", 900_000, 1_800_000_000_000_000_000, 1_800_000_000_000_000_001)

texts = st.text(max_size=20)
numbers = st.integers(0, 2**63 - 1)
statements = st.builds(
    Statement, st.binary(min_size=16, max_size=16), numbers, texts, texts, texts, numbers, numbers, numbers
)


def read(data: bytes) -> list[bytes]:
    """The parts of what is signed, as anybody would read them."""
    parts = []
    while data:
        size = int.from_bytes(data[:8], "big")
        parts.append(data[8 : 8 + size])
        data = data[8 + size :]
    return parts


@given(statements, texts)
def test_what_is_signed_has_one_reading(statement, principal):
    domain, *parts, who = read(statement.signed_bytes(principal))
    assert (domain, who.decode()) == (DOMAIN, principal)
    kinds = (bytes, int, str, str, str, int, int, int)
    values = [part if kind is bytes else kind(part.decode()) for kind, part in zip(kinds, parts, strict=True)]
    assert Statement(*values) == statement


@given(statements, statements, texts, texts)
def test_two_statements_are_never_the_same_bytes(one, other, who, another):
    assert (one.signed_bytes(who) == other.signed_bytes(another)) == ((one, who) == (other, another))


def test_the_frozen_bytes():
    """Clients in other languages sign these bytes; docs/how-to/feedback.md shows them."""
    assert SAID.signed_bytes("kiosk-7").hex() == (
        "0000000000000013" + b"stockade feedback 1".hex()
        + "0000000000000010" + "72" * 16
        + "0000000000000001" + "33"
        + "0000000000000005" + b"kiosk".hex()
        + "0000000000000001" + "32"
        + "0000000000000006" + b"Sandal".hex()
        + "0000000000000006" + b"900000".hex()
        + "0000000000000013" + b"1800000000000000000".hex()
        + "0000000000000013" + b"1800000000000000001".hex()
        + "0000000000000007" + b"kiosk-7".hex()
    )  # fmt: skip


def test_a_signature_counts_for_its_statement_its_principal_and_its_key_alone():
    item = signed_item(SAID, "kiosk-7", KEY)
    assert verifies(SAID, "kiosk-7", item.key, item.signature)
    assert not verifies(SAID, "kiosk-8", item.key, item.signature)
    other = Ed25519PrivateKey.from_private_bytes(b"o" * 32).public_key().public_bytes_raw()
    assert not verifies(SAID, "kiosk-7", other, item.signature)


@pytest.mark.parametrize("name", [field.name for field in fields(Statement)])
def test_no_field_can_be_changed(name):
    item = signed_item(SAID, "kiosk-7", KEY)
    value = getattr(SAID, name)
    changed = value + 1 if isinstance(value, int) else value[:-1] + (b"x" if isinstance(value, bytes) else "x")
    assert not verifies(replace(SAID, **{name: changed}), "kiosk-7", item.key, item.signature)


def test_a_signature_without_the_domain_counts_for_nothing():
    bare = KEY.sign(SAID.signed_bytes("kiosk-7")[8 + len(DOMAIN) :])
    assert not verifies(SAID, "kiosk-7", PUBLIC, bare)


@given(st.binary(max_size=80), st.binary(max_size=80))
def test_any_key_and_signature_are_a_no(key, signature):
    assert not verifies(SAID, "kiosk-7", key, signature)


def test_the_item_says_what_was_signed():
    item = signed_item(SAID, "kiosk-7", KEY)
    assert (item.request_id, item.row, item.model, item.version) == ((b"r" * 16).hex(), 3, "kiosk", "2")
    assert (item.label, item.confidence_micro) == ("Sandal", 900_000)
    assert (item.outcome_unix_ns, item.signed_unix_ns) == (SAID.outcome_ns, SAID.signed_ns)
