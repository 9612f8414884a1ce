"""The files of evidence: what is written is read again, any bytes give a value or the named error, and nothing else."""

from __future__ import annotations

import base64
import hashlib
import json

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, NoEncryption, PrivateFormat
from hypothesis import given
from hypothesis import strategies as st

from serving.registry.approval import parse_approval, read_key, signed_by
from serving.registry.errors import EvidenceRejected, KeyRejected
from serving.registry.evaluation import digest_of, encode, parse_evaluation
from serving.registry.evidence import read_evidence, write_file
from tests.serving.registry.made import approval, evaluation, key_of, public, statement


def test_an_evaluation_is_read_as_it_was_written():
    data = encode(evaluation())
    assert parse_evaluation(data) == evaluation()
    assert digest_of(data) == hashlib.sha256(data).hexdigest()
    assert data == json.dumps(json.loads(data), sort_keys=True, separators=(",", ":")).encode() + b"\n"


def test_an_approval_can_be_checked_without_us():
    """What docs/how-to/promotion.md promises: the domain, a zero byte, and the statement as canonical JSON."""
    found = json.loads(approval("alice", evaluation()))
    text = json.dumps(found["statement"], sort_keys=True, separators=(",", ":"))
    key = Ed25519PublicKey.from_public_bytes(bytes.fromhex(public("alice")))
    key.verify(base64.b64decode(found["signature"]), b"stockade.approval/1\0" + text.encode())


def test_a_signature_belongs_to_a_key_and_a_statement():
    found = parse_approval(approval("alice", evaluation()))
    assert found.statement == statement("alice", evaluation())
    assert signed_by(found, public("alice"))
    assert not signed_by(found, public("bob"))
    assert not signed_by(found, "")


@given(st.binary(max_size=200))
def test_any_bytes_are_evidence_or_refused(data):
    for parse in (parse_evaluation, parse_approval):
        with pytest.raises(EvidenceRejected):
            parse(data)


@given(st.integers(0, len(encode(evaluation())) - 1), st.binary(min_size=1, max_size=1))
def test_no_byte_of_an_evaluation_can_be_changed_unseen(at, byte):
    data = encode(evaluation())
    changed = data[:at] + byte + data[at + 1 :]
    try:
        parse_evaluation(changed)
    except EvidenceRejected:
        return
    assert (digest_of(changed) == digest_of(data)) is (changed == data)


def pem(key, encryption=None) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption or NoEncryption())


def test_keys_that_can_sign():
    assert read_key(pem(key_of("alice")), "k").private_bytes_raw() == key_of("alice").private_bytes_raw()
    for wrong in (
        b"",
        b"nothing",
        pem(X25519PrivateKey.generate()),
        pem(key_of("alice"), BestAvailableEncryption(b"secret")),
    ):
        with pytest.raises(KeyRejected, match="k: is not an unencrypted Ed25519 private key in PEM"):
            read_key(wrong, "k")


def test_too_many_files_are_nobodys_evidence(tmp_path):
    for number in range(65):
        write_file(tmp_path / "v" / f"a{number}.json", b"")
    with pytest.raises(EvidenceRejected, match="holds more than 64 files"):
        read_evidence(tmp_path / "v")
    (tmp_path / "v/a0.json").unlink()
    assert len(read_evidence(tmp_path / "v").problems) == 64


def test_a_directory_that_is_none(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    (tmp_path / "link").symlink_to(tmp_path)
    for wrong in ("file", "link"):
        with pytest.raises(EvidenceRejected, match="cannot be read"):
            read_evidence(tmp_path / wrong)
