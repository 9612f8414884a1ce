"""Chunks and manifests: what goes in comes out under the same key, and nothing else comes out of anything else."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ops.backup.errors import BackupDamaged, BackupKeyRefused
from ops.backup.sealing import BackupKey

KEY = BackupKey(bytes(range(32)))
OTHER = BackupKey(bytes(32))


@given(st.binary(max_size=2000), st.binary(max_size=20))
def test_a_chunk_comes_back_and_gives_the_same_bytes_each_time(plaintext, salt):
    name = KEY.name(plaintext, salt)
    sealed = KEY.seal(name, plaintext)
    assert KEY.open(name, sealed, salt) == plaintext
    assert KEY.seal(KEY.name(plaintext, salt), plaintext) == sealed
    assert plaintext not in sealed or len(plaintext) < 4


@given(st.binary(min_size=1, max_size=200), st.data())
def test_any_other_byte_is_found(plaintext, data):
    name = KEY.name(plaintext)
    sealed = bytearray(KEY.seal(name, plaintext))
    at = data.draw(st.integers(0, len(sealed) - 1))
    sealed[at] ^= data.draw(st.integers(1, 255))
    with pytest.raises(BackupDamaged, match="does not open"):
        KEY.open(name, bytes(sealed))


@given(st.binary(max_size=200))
def test_any_bytes_are_a_value_or_damage(sealed):
    with pytest.raises(BackupDamaged):
        KEY.open("ab" * 32, sealed)
    with pytest.raises(BackupDamaged):
        KEY.open_manifest(bytes(16), sealed)


def test_a_chunk_in_anothers_place_is_found():
    """Even when both are of the same key: the name is a MAC of the content, and of the salt."""
    one, two = KEY.name(b"one"), KEY.name(b"two")
    with pytest.raises(BackupDamaged):
        KEY.open(one, KEY.seal(two, b"two"))
    with pytest.raises(BackupDamaged, match="another one"):
        KEY.open(one, KEY.seal(one, b"two"))
    salted = KEY.name(b"one", b"salt")
    assert salted != one
    with pytest.raises(BackupDamaged, match="another one"):
        KEY.open(salted, KEY.seal(salted, b"one"))


def test_another_key_opens_nothing_and_knows_no_names():
    assert OTHER.name(b"one") != KEY.name(b"one")
    assert OTHER.mark != KEY.mark
    with pytest.raises(BackupDamaged):
        OTHER.open(KEY.name(b"one"), KEY.seal(KEY.name(b"one"), b"one"))
    with pytest.raises(BackupDamaged):
        OTHER.open_manifest(bytes(16), KEY.seal_manifest(bytes(16), b"manifest"))


def test_a_manifest_opens_under_its_own_id_only():
    sealed = KEY.seal_manifest(bytes(16), b"manifest")
    assert KEY.open_manifest(bytes(16), sealed) == b"manifest"
    with pytest.raises(BackupDamaged):
        KEY.open_manifest(bytes([1] * 16), sealed)


@pytest.mark.parametrize("length", [0, 31, 33])
def test_a_key_has_32_bytes(length):
    with pytest.raises(BackupKeyRefused, match="32 bytes"):
        BackupKey(bytes(length))
