"""Payload keys: sealing, opening, and what cannot be opened any more."""

import sqlite3
import threading
from contextlib import closing
from hashlib import sha256

import pytest

from ops.audit.errors import KeyMissing, KeyStoreError, SealBroken
from ops.audit.payloads.keys import KeyStore

MASTER = bytes(range(32))
RECORD = bytes(16)
PLACE = ("store-7", "subject-1", "2026-11")


@pytest.fixture
def store(tmp_path):
    store = KeyStore(tmp_path / "keys.sqlite", MASTER, origin="example.test/log")
    yield store
    store.close()


def test_what_was_sealed_opens_here_and_after_a_restart(store, tmp_path):
    sealed = store.seal(*PLACE, RECORD, "request", b"plain")
    assert sealed.sha256 == sha256(sealed.ciphertext).hexdigest()
    again = KeyStore(tmp_path / "keys.sqlite", MASTER, origin="example.test/log")
    for each in (store, again):
        assert each.open(sealed.key_ref, RECORD, "request", sealed.ciphertext, sealed.commitment) == b"plain"
    assert again.tenant_key("store-7") == store.tenant_key("store-7") != store.tenant_key("store-8")
    again.close()


def test_nothing_of_the_plaintext_can_be_guessed_from_what_is_logged(store):
    one, two = (store.seal(*PLACE, RECORD, "request", b"plain") for _ in range(2))
    assert one.ciphertext != two.ciphertext
    assert sha256(b"plain").hexdigest() not in (one.sha256, one.commitment)
    assert store.seal(*PLACE, bytes(15) + b"x", "request", b"plain").commitment != one.commitment
    assert store.seal(*PLACE, RECORD, "response", b"plain").commitment != one.commitment


@pytest.mark.parametrize(
    "changes",
    [
        {"ciphertext": lambda sealed: sealed.ciphertext[:-1] + bytes([sealed.ciphertext[-1] ^ 1])},
        {"ciphertext": lambda _: b"x"},
        {"record_id": lambda _: bytes(15) + b"x"},
        {"field": lambda _: "response"},
        {"commitment": lambda _: "00" * 32},
    ],
    ids=["ciphertext", "short", "record", "field", "commitment"],
)
def test_a_payload_opens_only_as_what_it_was_sealed_as(store, changes):
    sealed = store.seal(*PLACE, RECORD, "request", b"plain")
    with pytest.raises(SealBroken):
        store.open(**facts_of(sealed) | {name: change(sealed) for name, change in changes.items()})


def test_a_payload_of_another_log_does_not_open(store, tmp_path):
    with closing(KeyStore(tmp_path / "keys.sqlite", MASTER, origin="another.test/log")) as opener:
        sealed = store.seal(*PLACE, RECORD, "request", b"plain")
        with pytest.raises(SealBroken):
            opener.open(**facts_of(sealed))


def facts_of(sealed):
    names = {"ciphertext": sealed.ciphertext, "commitment": sealed.commitment, "key_ref": sealed.key_ref}
    return {**names, "record_id": RECORD, "field": "request"}


def test_an_erased_key_opens_nothing(store, tmp_path):
    sealed = store.seal(*PLACE, RECORD, "request", b"plain")
    with sqlite3.connect(tmp_path / "keys.sqlite") as db:
        db.execute("DELETE FROM data_key")
    db.close()
    with pytest.raises(KeyMissing):
        store.open(sealed.key_ref, RECORD, "request", sealed.ciphertext, sealed.commitment)


def test_subjects_months_and_tenants_have_keys_of_their_own(store):
    places = [PLACE, ("store-8", *PLACE[1:]), (PLACE[0], "other", PLACE[2]), (*PLACE[:2], "2026-12")]
    references = [store.seal(*place, RECORD, "request", b"").key_ref for place in places]
    assert len(set(references)) == 4
    assert store.seal(*PLACE, RECORD, "request", b"").key_ref == references[0]


def test_the_cache_is_bounded_and_losing_it_loses_nothing(tmp_path):
    store = KeyStore(tmp_path / "keys.sqlite", MASTER, origin="o", cached_keys_max=2)
    sealed = [store.seal("t", f"subject-{n}", "2026-11", RECORD, "request", b"%d" % n) for n in range(4)]
    assert len(store._data_keys) == 2
    again = [store.seal("t", f"subject-{n}", "2026-11", RECORD, "request", b"").key_ref for n in range(4)]
    assert again == [each.key_ref for each in sealed]
    store.close()


def test_two_processes_agree_on_keys_and_threads_do_too(store, tmp_path):
    other = KeyStore(tmp_path / "keys.sqlite", MASTER, origin="example.test/log")
    found: list[str] = []

    def work(each: KeyStore) -> None:
        found.extend(each.seal(*PLACE, RECORD, "request", b"").key_ref for _ in range(5))

    threads = [threading.Thread(target=work, args=(each,)) for each in (store, other, store, other)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 20
    assert len(set(found)) == 1
    other.close()


def test_keys_of_many_tenants_are_made_at_once_and_stay(store, tmp_path):
    first = store.tenant_key("b")
    store.make_tenant_keys(["a", "b", "a", "c"])
    made = store._db.total_changes
    assert made == 3
    keys = [store.tenant_key(tenant) for tenant in "abc"]
    assert store._db.total_changes == made, "a key was written at its first use"
    assert len(set(keys)) == 3
    assert keys[1] == first
    again = KeyStore(tmp_path / "keys.sqlite", MASTER, origin="example.test/log")
    again.make_tenant_keys("abc")
    assert [again.tenant_key(tenant) for tenant in "abc"] == keys
    again.close()


def test_keys_that_cannot_be_made_at_once_leave_the_database_as_it_was(store, tmp_path):
    other = sqlite3.connect(tmp_path / "keys.sqlite", isolation_level=None)
    store._db.execute("PRAGMA busy_timeout=10")
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(KeyStoreError):
        store.make_tenant_keys(["a"])
    other.execute("ROLLBACK")
    store.make_tenant_keys(["a"])
    assert len(store.tenant_key("a")) == 32
    other.close()


def test_a_wrong_master_key_is_said_plainly(store, tmp_path):
    store.tenant_key("store-7")
    other = KeyStore(tmp_path / "keys.sqlite", bytes(32), origin="example.test/log")
    with pytest.raises(KeyStoreError, match="master key"):
        other.tenant_key("store-7")
    other.close()
    with pytest.raises(KeyStoreError):
        KeyStore(tmp_path / "x", bytes(31), origin="o")
    with pytest.raises(KeyStoreError):
        store.seal(*PLACE, b"short", "request", b"")
    with pytest.raises(KeyStoreError):
        store.open("not hex", RECORD, "request", b"", "")


def test_the_database_is_for_its_owner_alone(store, tmp_path):
    assert (tmp_path / "keys.sqlite").stat().st_mode & 0o077 == 0
