"""Cosignatures of both kinds: what is signed, that every change of it is found, and what is no key or signature."""

import struct

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.mldsa import MLDSA44PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from ops.audit.errors import CheckpointError, NoteError, SignatureInvalid, SignatureMissing, VerifierKeyError
from ops.audit.log.checkpoint import Checkpoint, SignerKey, open_checkpoint, open_note, sign_note
from ops.audit.log.cosignature import (
    COSIGN_ED25519,
    COSIGN_ML_DSA_44,
    Cosigner,
    parse_cosigner,
    parse_cosigner_secret,
    time_of,
)

LOG = SignerKey("log.test/one", bytes(range(32)))
HEAD = Checkpoint(LOG.name, 20852163, bytes(range(32)))
NOTE = sign_note(HEAD.text(), [LOG])
NOW_S = 1_679_315_147
KINDS = [COSIGN_ED25519, COSIGN_ML_DSA_44]
kinds = pytest.mark.parametrize("kind", KINDS, ids=["ed25519", "ml-dsa-44"])


def cosigner(kind: int, name: str = "witness.test/w1", seed: int = 7) -> Cosigner:
    return Cosigner(name, kind, bytes([seed]) * 32)


def cosigned(kind: int) -> bytes:
    return NOTE + cosigner(kind).cosign(HEAD.text().encode(), NOW_S).encode()


@kinds
def test_a_cosigned_checkpoint_opens_under_both_keys(kind):
    note = open_note(cosigned(kind), [LOG.verifier, cosigner(kind).key])
    assert note.verified == (LOG.name, "witness.test/w1")
    assert time_of(note.signatures[1][1]) == NOW_S
    assert open_checkpoint(cosigned(kind), [LOG.verifier]) == HEAD


def test_the_ed25519_message_is_the_specifications():
    """c2sp.org/tlog-cosignature: two lines, then the text of the note."""
    [_, (_, signature)] = open_note(cosigned(COSIGN_ED25519), [LOG.verifier, cosigner(COSIGN_ED25519).key]).signatures
    message = b"cosignature/v1\ntime 1679315147\n" + HEAD.text().encode()
    assert signature[:8] == struct.pack(">Q", NOW_S)
    Ed25519PrivateKey.from_private_bytes(bytes([7]) * 32).public_key().verify(signature[8:], message)


def test_the_ml_dsa_message_is_the_specifications():
    """c2sp.org/tlog-cosignature: `cosigned_message`, its vectors length-prefixed, start 0, end the tree's size."""
    [_, (_, signature)] = open_note(
        cosigned(COSIGN_ML_DSA_44), [LOG.verifier, cosigner(COSIGN_ML_DSA_44).key]
    ).signatures
    name, origin = b"witness.test/w1", b"log.test/one"
    message = b"subtree/v1\n\0" + bytes([len(name)]) + name + struct.pack(">Q", NOW_S)
    message += bytes([len(origin)]) + origin + struct.pack(">QQ", 0, HEAD.size) + HEAD.root
    MLDSA44PrivateKey.from_seed_bytes(bytes([7]) * 32).public_key().verify(signature[8:], message)
    assert len(signature) == 8 + 2420


@kinds
@pytest.mark.parametrize(
    "other",
    [
        Checkpoint("log.test/two", HEAD.size, HEAD.root),
        Checkpoint(LOG.name, HEAD.size + 1, HEAD.root),
        Checkpoint(LOG.name, HEAD.size, bytes(32)),
    ],
    ids=["origin", "size", "root"],
)
def test_a_cosignature_of_another_checkpoint_is_refused(kind, other):
    line = cosigner(kind).cosign(HEAD.text().encode(), NOW_S).encode()
    with pytest.raises(SignatureInvalid):
        open_note(sign_note(other.text(), [LOG]) + line, [LOG.verifier, cosigner(kind).key])


@kinds
def test_every_changed_byte_of_a_cosignature_is_refused(kind):
    key = cosigner(kind).key
    [_, (_, signature)] = open_note(cosigned(kind), [LOG.verifier, key]).signatures
    text = HEAD.text().encode()
    assert key.verify(text, signature)
    for at in [*range(16), *range(16, len(signature), max(1, len(signature) // 40))]:
        assert not key.verify(text, signature[:at] + bytes([signature[at] ^ 1]) + signature[at + 1 :])
        assert not key.verify(text, signature[:at])


def test_a_cosigner_does_not_stand_in_for_the_log():
    """A witness of the log's own name is no signature of the log."""
    impostor = cosigner(COSIGN_ED25519, LOG.name)
    note = f"{HEAD.text()}\n{impostor.cosign(HEAD.text().encode(), NOW_S)}".encode()
    with pytest.raises(SignatureMissing):
        open_checkpoint(note, [LOG.verifier, impostor.key])


@kinds
def test_keys_round_trip_and_foreign_ones_are_refused(kind):
    one = cosigner(kind)
    assert parse_cosigner(str(one.key)) == one.key
    assert parse_cosigner_secret(one.secret()) == one
    with pytest.raises(VerifierKeyError):
        parse_cosigner(str(one.key).replace("+", "+0", 1))
    with pytest.raises(VerifierKeyError):
        parse_cosigner(str(one.key).replace("w1", "w2", 1))
    with pytest.raises(VerifierKeyError):
        parse_cosigner(one.secret())
    with pytest.raises(VerifierKeyError):
        parse_cosigner(str(LOG.verifier))
    assert one.secret() not in repr(one)


@given(st.text(max_size=90))
def test_any_text_is_a_key_or_refused(text):
    for parse in (parse_cosigner, parse_cosigner_secret):
        with pytest.raises(VerifierKeyError):
            parse(text)


def test_what_is_no_checkpoint_and_no_time_is_not_cosigned():
    one = cosigner(COSIGN_ML_DSA_44)
    with pytest.raises(CheckpointError):
        one.cosign(b"no checkpoint\n", NOW_S)
    with pytest.raises(CheckpointError):
        one.cosign(Checkpoint("o" * 256, 1, bytes(32)).text().encode(), NOW_S)
    for time_s in (0, -1, 2**63):
        with pytest.raises(ValueError, match="no time"):
            one.cosign(HEAD.text().encode(), time_s)


def test_a_note_has_room_for_sixteen_post_quantum_witnesses():
    many = [cosigner(COSIGN_ML_DSA_44, f"witness.test/{number}", number + 1) for number in range(16)]
    note = NOTE + "".join(each.cosign(HEAD.text().encode(), NOW_S) for each in many).encode()
    assert len(open_note(note, [LOG.verifier, *(each.key for each in many)]).verified) == 17


@given(st.binary(max_size=200))
def test_any_bytes_are_a_cosigned_note_or_refused(data):
    with pytest.raises(NoteError):
        open_note(data, [LOG.verifier, cosigner(COSIGN_ED25519).key])
