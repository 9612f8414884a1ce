"""Notes and checkpoints: vectors of others, round trips, and everything that must be refused."""

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ops.audit.errors import CheckpointError, NoteError, SignatureInvalid, SignatureMissing, VerifierKeyError
from ops.audit.log.checkpoint import (
    NOTE_BYTES_MAX,
    SIGNATURES_MAX,
    Checkpoint,
    SignerKey,
    open_checkpoint,
    open_note,
    parse_checkpoint,
    parse_skey,
    parse_vkey,
    sign_note,
)
from tests.ops.audit.vectors import vector

ONE = SignerKey("one.test/log", bytes(range(32)))
TWO = SignerKey("two.test/witness", bytes(range(1, 33)))
TEXT = Checkpoint(ONE.name, 42, bytes(32)).text()
NOTE = sign_note(TEXT, [ONE])
names = st.text(st.characters(categories=["L", "N"], include_characters="./-"), min_size=1, max_size=30)


def test_the_note_of_the_reference_implementation():
    known = vector("note")
    key = parse_skey(known["skey"])
    assert str(key.verifier) == known["vkey"]
    assert key.secret() == known["skey"]
    note = sign_note(known["text"], [key])
    assert note.decode() == f"{known['text']}\n{known['signature_line']}\n"
    opened = open_note(note, [parse_vkey(known["vkey"])])
    assert (opened.text, opened.verified) == (known["text"], ("PeterNeumann",))


@given(names, st.binary(min_size=32, max_size=32), st.integers(0, 2**63 - 1), st.binary(min_size=32, max_size=32))
def test_checkpoints_and_keys_round_trip(name, seed, size, root):
    key = SignerKey(name, seed)
    assert parse_skey(key.secret()) == key
    assert parse_vkey(str(key.verifier)) == key.verifier
    checkpoint = Checkpoint(name, size, root)
    assert open_checkpoint(sign_note(checkpoint.text(), [key]), [key.verifier]) == checkpoint


@given(st.binary(max_size=300))
def test_any_bytes_are_a_note_or_refused(data):
    with pytest.raises(NoteError):
        open_note(data, [ONE.verifier])


@given(st.text(max_size=120))
def test_any_text_is_a_checkpoint_or_refused(text):
    try:
        checkpoint = parse_checkpoint(text)
    except CheckpointError:
        return
    assert checkpoint.text() == text


@given(st.text(max_size=80))
def test_any_text_is_a_key_or_refused(text):
    for parse in (parse_vkey, parse_skey):
        with pytest.raises(VerifierKeyError):
            parse(text)


def test_every_changed_byte_of_a_note_is_refused():
    for at in range(len(NOTE)):
        for flip in (1, 0x20, 0x80):
            with pytest.raises(NoteError):
                open_checkpoint(NOTE[:at] + bytes([NOTE[at] ^ flip]) + NOTE[at + 1 :], [ONE.verifier])


@pytest.mark.parametrize("vkey", [str(ONE.verifier)])
def test_every_changed_character_of_a_key_is_refused_or_another_name(vkey):
    for at, char in enumerate(vkey):
        changed = vkey[:at] + ("A" if char != "A" else "B") + vkey[at + 1 :]
        with pytest.raises(VerifierKeyError):
            parse_vkey(changed)


def test_unknown_keys_are_ignored_and_known_ones_must_be_right():
    both = sign_note(TEXT, [TWO, ONE])
    assert open_note(both, [ONE.verifier]).verified == (ONE.name,)
    assert open_note(both, [ONE.verifier, TWO.verifier]).verified == (TWO.name, ONE.name)
    forged = both.replace(b"\xe2\x80\x94 " + TWO.name.encode(), b"\xe2\x80\x94 " + TWO.name.encode(), 1)
    assert forged == both
    other = sign_note(TEXT + "x\n", [TWO]).split(b"\n\n")[1]
    with pytest.raises(SignatureInvalid):
        open_note(NOTE + other, [ONE.verifier, TWO.verifier])
    assert open_note(NOTE + other, [ONE.verifier]).verified == (ONE.name,)


def test_a_note_without_a_known_signature_is_refused():
    with pytest.raises(SignatureMissing):
        open_note(NOTE, [TWO.verifier])
    with pytest.raises(SignatureMissing):
        open_note(NOTE, [])


def test_a_checkpoint_must_be_signed_by_its_own_log():
    with pytest.raises(SignatureMissing):
        open_checkpoint(sign_note(TEXT, [TWO]), [ONE.verifier, TWO.verifier])


def test_a_key_that_signed_twice_counts_once_and_each_signature_has_to_be_right():
    assert open_note(sign_note(TEXT, [ONE, ONE]), [ONE.verifier]).verified == (ONE.name,)
    of_another_text = sign_note("x\n", [ONE]).split(b"\n\n")[1]
    with pytest.raises(SignatureInvalid):
        open_note(NOTE + of_another_text, [ONE.verifier])


def test_signatures_at_the_limit_and_one_past_it():
    line = sign_note(TEXT, [TWO]).split(b"\n\n")[1]
    assert open_note(NOTE + line * (SIGNATURES_MAX - 1), [ONE.verifier])
    with pytest.raises(NoteError):
        open_note(NOTE + line * SIGNATURES_MAX, [ONE.verifier])


def test_length_at_the_limit_and_one_past_it():
    room = NOTE_BYTES_MAX - len(sign_note("\n", [ONE]))
    assert open_note(sign_note("x" * room + "\n", [ONE]), [ONE.verifier])
    with pytest.raises(NoteError):
        open_note(sign_note("x" * (room + 1) + "\n", [ONE]), [ONE.verifier])


@pytest.mark.parametrize(
    "text",
    [
        TEXT + "extension\n",
        TEXT.replace("\n42\n", "\n042\n"),
        TEXT.replace("\n42\n", "\n+42\n"),
        TEXT.replace("\n42\n", "\n٤٢\n"),
        TEXT.replace("\n42\n", f"\n{2**63}\n"),
        TEXT.replace("AAAA=", "AAAB="),
        TEXT[:-1],
        "\n" + TEXT.split("\n", 1)[1],
    ],
    ids=["extension", "leading zero", "sign", "other digits", "too large", "loose base64", "no newline", "no origin"],
)
def test_checkpoints_that_are_almost_right_are_refused(text):
    with pytest.raises(CheckpointError):
        parse_checkpoint(text)


def test_the_size_at_its_limit():
    text = TEXT.replace("\n42\n", f"\n{2**63 - 1}\n")
    assert parse_checkpoint(text).size == 2**63 - 1


def test_control_characters_and_bad_text_are_refused():
    with pytest.raises(NoteError):
        open_note(sign_note("a\tb\n", [ONE]), [ONE.verifier])
    with pytest.raises(NoteError):
        sign_note("no newline", [ONE])


def test_only_ed25519_keys_are_known():
    name, _, material = str(ONE.verifier).split("+", 2)
    key = bytes([4]) + base64.b64decode(material)[1:]
    with pytest.raises(VerifierKeyError):
        parse_vkey(f"{name}+00000000+{base64.b64encode(key).decode()}")


def test_a_signer_key_does_not_show_its_seed():
    assert ONE.seed.hex() not in repr(ONE)
    assert repr(ONE.seed) not in repr(ONE)
    with pytest.raises(VerifierKeyError):
        SignerKey("a+b", bytes(32))
    with pytest.raises(VerifierKeyError):
        SignerKey("a", bytes(31))
