"""Receipts: c2sp.org/tlog-proof."""

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ops.audit.errors import AuditError, ProofError, QuorumMissing
from ops.audit.log.checkpoint import Checkpoint, SignerKey, sign_note
from ops.audit.log.cosignature import COSIGN_ML_DSA_44, Cosigner
from ops.audit.log.merkle import fold, inclusion_proof, leaf_hash, range_root, tree_root
from ops.audit.log.tlog_proof import TlogProof, parse_proof
from ops.audit.log.trust_policy import TrustPolicy, parse_trust_policy

LOG = SignerKey("log.test/one", bytes(range(32)))
WITNESS = Cosigner("witness.test", COSIGN_ML_DSA_44, bytes(32))
POLICY = parse_trust_policy(f"log {LOG.verifier}\nquorum none\n".encode())
STRICT = parse_trust_policy(f"log {LOG.verifier}\nwitness w {WITNESS.key}\nquorum w\n".encode())


def entries(size: int) -> list[bytes]:
    return [b'{"n":%d}' % number for number in range(size)]


def proof_of(index: int, size: int, *, cosigned: bool = False) -> TlogProof:
    leaves = [leaf_hash(entry) for entry in entries(size)]
    hashes = inclusion_proof(index, size, lambda height, at: fold(leaves[at << height : (at + 1) << height]))
    text = Checkpoint(LOG.name, size, tree_root(leaves)).text()
    note = sign_note(text, [LOG]) + (WITNESS.cosign(text.encode(), 1).encode() if cosigned else b"")
    return TlogProof(index, tuple(hashes), note, entries(size)[index])


@given(st.integers(1, 70), st.data())
def test_every_entry_of_every_tree_has_a_receipt(size, data):
    index = data.draw(st.integers(0, size - 1))
    proof = parse_proof(proof_of(index, size).text())
    assert proof == proof_of(index, size)
    assert proof.verify(POLICY).checkpoint.size == size


def test_the_form_is_the_specifications():
    proof = proof_of(1, 3)
    lines = proof.text().decode().split("\n")
    assert lines[0] == "c2sp.org/tlog-proof@v1"
    assert lines[1] == "extra " + base64.b64encode(b'{"n":1}').decode()
    assert lines[2] == "index 1"
    assert lines[3] == base64.b64encode(leaf_hash(b'{"n":0}')).decode()
    assert lines[5] == ""
    assert lines[6:8] == [LOG.name, "3"]


def test_without_extra_data_the_entry_is_brought():
    proof = proof_of(2, 5)
    bare = parse_proof(TlogProof(proof.index, proof.hashes, proof.checkpoint).text())
    assert b"extra" not in bare.text()
    assert bare.verify(POLICY, proof.extra).checkpoint.size == 5
    with pytest.raises(ProofError, match="holds no entry"):
        bare.verify(POLICY)


def test_another_entry_index_or_hash_proves_nothing():
    proof = proof_of(2, 5)
    with pytest.raises(ProofError):
        proof.verify(POLICY, b'{"n":3}')
    for index in (0, 1, 3, 4, 5, 99):
        with pytest.raises(ProofError):
            TlogProof(index, proof.hashes, proof.checkpoint, proof.extra).verify(POLICY)
    with pytest.raises(ProofError):
        TlogProof(2, proof.hashes[::-1], proof.checkpoint, proof.extra).verify(POLICY)


def test_a_quorum_is_asked_for():
    assert proof_of(2, 5, cosigned=True).verify(STRICT).witnesses == ("w",)
    with pytest.raises(QuorumMissing):
        proof_of(2, 5).verify(STRICT)
    with pytest.raises(AuditError):
        proof_of(2, 5).verify(TrustPolicy())


def test_every_changed_byte_is_refused():
    data = proof_of(2, 5).text()
    for at in range(len(data)):
        changed = data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]
        with pytest.raises(AuditError):
            parse_proof(changed).verify(POLICY)


BUSTED = {
    "empty": b"",
    "another header": b"c2sp.org/tlog-proof@v2\nindex 1\n\nx",
    "no checkpoint": b"c2sp.org/tlog-proof@v1\nindex 1\n",
    "no index": b"c2sp.org/tlog-proof@v1\n\nx",
    "a leading zero": b"c2sp.org/tlog-proof@v1\nindex 01\n\nx",
    "a negative index": b"c2sp.org/tlog-proof@v1\nindex -1\n\nx",
    "a hash that is short": b"c2sp.org/tlog-proof@v1\nindex 1\nAAAA\n\nx",
    "a hash that is none": b"c2sp.org/tlog-proof@v1\nindex 1\n!\n\nx",
    "extra data behind the index": b"c2sp.org/tlog-proof@v1\nindex 1\nextra AAAA\n\nx",
    "too many hashes": b"c2sp.org/tlog-proof@v1\nindex 1\n"
    + b"A" * 43
    + b"=\n" * 1
    + (b"A" * 43 + b"=\n") * 63
    + b"\nx",
    "too long": b"c2sp.org/tlog-proof@v1\n" + b"x" * 1_000_000,
}


@pytest.mark.parametrize("data", BUSTED.values(), ids=BUSTED)
def test_what_is_no_receipt_is_refused(data):
    with pytest.raises(ProofError):
        parse_proof(data)


@given(st.binary(max_size=300))
def test_any_bytes_are_a_receipt_or_refused(data):
    with pytest.raises(ProofError):
        parse_proof(data)


def test_a_range_root_is_a_fold():
    leaves = [leaf_hash(entry) for entry in entries(4)]
    assert range_root(0, 4, lambda height, at: fold(leaves[at << height : (at + 1) << height])) == tree_root(leaves)
