"""Erasures and holds in the key database: who may, what goes, what is left of it in the file."""

from __future__ import annotations

import random
import sqlite3
from contextlib import contextmanager
from dataclasses import replace

import pytest

from ops.audit.errors import ErasureRefused, KeyMissing, KeyStoreError
from ops.audit.payloads import erasure as erasing
from ops.audit.payloads import keys as key_database
from ops.audit.payloads.erasure import KEYS_MAX, VALID_NS, Erasures
from ops.audit.payloads.erasure_rows import Erasure, Hold, Owed, Word
from ops.audit.payloads.keys import KeyStore, traces

MASTER = bytes(range(32))
RECORD = bytes(16)
NOW = 1_800_000_000_000_000_000
ANNA, BEN = Word("spiffe://t/anna", "anna", "a" * 32, NOW), Word("spiffe://t/ben", "ben", "b" * 32, NOW + 1)
WANTED = Erasure(
    id="e" * 32,
    tenant="store-7",
    subject="subject-1",
    pseudonym="ab" * 16,
    months=(),
    reason="DSR-1",
    requested_by=ANNA.administrator,
    requester=ANNA.principal,
    requested_ns=NOW,
)
HOLD = Hold("d" * 32, "store-7", "subject-1", "ab" * 16, "case 7", "anna", "a" * 32, NOW)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "keys.sqlite"


@pytest.fixture
def store(path):
    made = KeyStore(path, MASTER, origin="o")
    yield made
    made.close()


@pytest.fixture
def erasures(path):
    made = Erasures(path)
    yield made
    made.close()


def seal(store, subject: str = "subject-1", month: str = "2026-11", tenant: str = "store-7"):
    return store.seal(tenant, subject, month, RECORD, "request", b"plain")


@contextmanager
def in_one(store):
    """Make many keys in one transaction: each by itself would wait for the disk."""
    store._db.execute("BEGIN")
    yield
    store._db.execute("COMMIT")


def opened(store, sealed) -> bytes:
    return store.open(sealed.key_ref, RECORD, "request", sealed.ciphertext, sealed.commitment)


def wrapped_of(path) -> dict[str, bytes]:
    db = sqlite3.connect(path)
    found = {row[0].hex(): row[1] for row in db.execute("SELECT reference, wrapped FROM data_key")}
    db.close()
    return found


def erase(erasures, wanted: Erasure = WANTED) -> Erasure:
    erasures.request(wanted)
    erasures.approve(wanted.id, BEN)
    gone = erasures.destroy(wanted.id)
    erasures.done(wanted.id)
    return gone


def test_what_is_erased_opens_no_more_and_everything_else_does(store, erasures):
    gone = [seal(store), seal(store, month="2026-12")]
    stays = [seal(store, "subject-2"), seal(store, tenant="store-8"), seal(store, "subject-11")]
    done = erase(erasures)
    assert set(done.keys) == {each.key_ref for each in gone}
    for each in gone:
        with pytest.raises(KeyMissing):
            opened(store, each)
    assert [opened(store, each) for each in stays] == [b"plain"] * 3
    assert store.tenant_key("store-7")


def test_only_the_months_that_are_meant(store, erasures):
    before, after = seal(store, month="2026-10"), seal(store, month="2026-11")
    assert erase(erasures, replace(WANTED, months=("2026-10", "2026-09"))).keys == (before.key_ref,)
    assert opened(store, after) == b"plain"


def test_no_byte_of_a_destroyed_key_is_left_in_the_file_nor_of_the_subjects_name(store, erasures, path):
    order = random.Random(5)
    subjects = [f"person-{number:05d}@example.org" for number in range(1500)]
    order.shuffle(subjects)
    with in_one(store):
        references = {subject: seal(store, subject).key_ref for subject in subjects}
    wrapped = wrapped_of(path)
    for number, subject in enumerate(order.sample(subjects, 5)):
        secret = wrapped[references[subject]]
        assert traces(path, [secret]) == 2
        erase(erasures, replace(WANTED, id=f"{number:032x}", subject=subject))
        left = path.read_bytes()
        assert secret not in left
        assert secret[:8] not in left
        assert subject.encode() not in left
    assert not path.with_name(path.name + "-journal").exists()
    assert not path.with_name(path.name + "-wal").exists()


@pytest.mark.parametrize("crashed", [False, True])
def test_copies_that_somebody_elses_edit_has_left_in_the_file_go_as_well(store, erasures, path, crashed):
    sealed = seal(store)
    secret = wrapped_of(path)[sealed.key_ref]
    db = sqlite3.connect(path, isolation_level=None)
    db.execute("PRAGMA secure_delete=OFF")
    db.execute("INSERT INTO data_key SELECT zeroblob(16), tenant, 'a copy', month, wrapped FROM data_key")
    db.execute("DELETE FROM data_key WHERE subject = 'a copy'")
    db.close()
    assert path.read_bytes().count(secret) == 2
    erasures.request(WANTED)
    erasures.approve(WANTED.id, BEN)
    if crashed:  # between the deletion and the search
        erasures._reached = end_at("deleted")
        with pytest.raises(InterruptedError):
            erasures.destroy(WANTED.id)
        assert secret in path.read_bytes()
        erasures._reached = end_at("never")
    assert erasures.destroy(WANTED.id).state == "destroyed"
    assert secret not in path.read_bytes()


def end_at(named: str):
    def reached(point: str) -> None:
        if point == named:
            raise InterruptedError

    return reached


def test_a_file_that_still_holds_a_key_is_no_destruction(store, erasures, path, monkeypatch):
    seal(store)
    erasures.request(WANTED)
    erasures.approve(WANTED.id, BEN)
    monkeypatch.setattr(erasing, "traces", lambda *_: 1)
    with pytest.raises(KeyStoreError, match="still holds"):
        erasures.destroy(WANTED.id)
    assert [one.state for one in erasures.unfinished()] == ["deleting"]
    monkeypatch.undo()
    assert erasures.destroy(WANTED.id).state == "destroyed"


def test_traces_finds_either_end_of_a_key_wherever_it_stands(tmp_path, monkeypatch):
    monkeypatch.setattr(key_database, "CHUNK_BYTES", 64)
    secret = bytes(range(100, 140))
    for at in range(0, 130, 7):
        (tmp_path / "f").write_bytes(bytes(at) + secret + bytes(9))
        assert traces(tmp_path / "f", [secret]) == 2
        (tmp_path / "f").write_bytes(bytes(at) + secret[:16] + bytes(9))
        assert traces(tmp_path / "f", [secret]) == 1
    assert traces(tmp_path / "f", [bytes(range(40))]) == 0


def test_it_takes_two_and_nobody_is_two(store, erasures):
    sealed = seal(store)
    erasures.request(WANTED)
    for same in (replace(BEN, principal="anna"), replace(BEN, administrator=ANNA.administrator)):
        with pytest.raises(ErasureRefused, match="two administrators"):
            erasures.approve(WANTED.id, same)
    assert opened(store, sealed) == b"plain"
    assert erasures.unfinished() == []
    agreed = erasures.approve(WANTED.id, BEN)
    assert (agreed.state, agreed.requested_by, agreed.approved_by) == ("approved", "spiffe://t/anna", "spiffe://t/ben")
    with pytest.raises(ErasureRefused, match="approved already"):
        erasures.approve(WANTED.id, BEN)


@pytest.mark.parametrize(
    ("subject", "pseudonym", "covers"),
    [("subject-1", WANTED.pseudonym, True), ("", "", True), ("subject-2", "cd" * 16, False)],
)
def test_a_hold_refuses_it_when_it_is_asked_for_and_when_it_is_approved(store, erasures, subject, pseudonym, covers):
    sealed = seal(store)
    erasures.request(WANTED)
    erasures.place(replace(HOLD, subject=subject, pseudonym=pseudonym))
    erasures.place(replace(HOLD, id="f" * 32, tenant="store-8", subject=""))
    if not covers:
        assert erasures.approve(WANTED.id, BEN).state == "approved"
        return
    for ask in (lambda: erasures.approve(WANTED.id, BEN), lambda: erasures.request(replace(WANTED, id="9" * 32))):
        with pytest.raises(ErasureRefused, match=r"legal hold covers it: d+, case 7"):
            ask()
    assert opened(store, sealed) == b"plain"
    erasures.lift(HOLD.id)
    assert erasures.approve(WANTED.id, BEN).state == "approved"


def test_a_hold_comes_too_late_for_what_is_agreed_and_stays_off_the_list(store, erasures):
    seal(store)
    erasures.request(WANTED)
    erasures.approve(WANTED.id, BEN)
    with pytest.raises(ErasureRefused, match="too late"):
        erasures.place(HOLD)
    assert erasures.holds() == []
    erasures.place(replace(HOLD, subject="subject-2", pseudonym="02" * 16))
    assert [one.subject for one in erasures.holds(unrecorded=True)] == ["subject-2"]
    erasures.placed(HOLD.id)
    assert (erasures.holds(unrecorded=True), len(erasures.holds())) == ([], 1)


def test_what_cannot_be_asked_for(store, erasures, monkeypatch):
    with pytest.raises(ErasureRefused, match="nothing to erase"):
        erasures.request(WANTED)
    with in_one(store):
        for number in range(KEYS_MAX):
            seal(store, month=f"{2000 + number // 12}-{1 + number % 12:02d}")
    erasures.request(WANTED)
    with pytest.raises(ErasureRefused, match=f"asked for already, as {WANTED.id}"):
        erasures.request(replace(WANTED, id="9" * 32))
    seal(store, month="2099-01")
    with pytest.raises(ErasureRefused, match="129 keys"):
        erasures.approve(WANTED.id, BEN)
    monkeypatch.setattr(erasing, "WAITING_MAX", 1)
    with pytest.raises(ErasureRefused, match="wait already"):
        erasures.request(replace(WANTED, id="9" * 32, months=("2099-01",)))
    with pytest.raises(ErasureRefused, match="there is no erasure"):
        erasures.approve("7" * 32, BEN)
    monkeypatch.setattr(erasing, "HOLDS_MAX", 1)
    erasures.place(HOLD)
    with pytest.raises(ErasureRefused, match="1 holds"):
        erasures.place(replace(HOLD, id="f" * 32))


def test_a_request_is_good_for_thirty_days_and_then_forgotten_with_the_name_in_it(store, erasures):
    seal(store)
    seal(store, "subject-2")
    erasures.request(WANTED)
    with pytest.raises(ErasureRefused, match="30 days"):
        erasures.approve(WANTED.id, replace(BEN, time_ns=NOW + VALID_NS + 1))
    erasures.request(replace(WANTED, id="9" * 32, subject="subject-2", requested_ns=NOW + VALID_NS))
    assert len(erasures.listed()) == 2
    later = replace(WANTED, id="8" * 32, requested_ns=NOW + VALID_NS + 1)
    erasures.request(later)
    assert {one.id for one in erasures.listed()} == {"9" * 32, "8" * 32}
    assert erasures.approve(later.id, replace(BEN, time_ns=NOW + 2 * VALID_NS)).state == "approved"
    erasures.withdraw(later.id)
    erasures.withdraw("9" * 32)
    assert [one.id for one in erasures.listed()] == [later.id]


def test_what_is_shown_of_one(store, erasures):
    sealed = seal(store)
    asked = erasures.request(WANTED)
    assert asked.keys == erasures.erasure(WANTED.id).keys == (sealed.key_ref,)
    erasures.approve(WANTED.id, BEN)
    erasures.destroy(WANTED.id)
    shown = erasures.erasure(WANTED.id)
    assert (shown.state, shown.subject, shown.pseudonym, shown.keys) == ("destroyed", "", "ab" * 16, (sealed.key_ref,))
    erasures.done(WANTED.id)
    assert [one.state for one in erasures.listed()] == ["done"]


def test_the_newest_that_are_done_stay_listed_and_none_that_is_not(store, erasures, monkeypatch):
    monkeypatch.setattr(erasing, "REMEMBERED_MAX", 2)
    for number in range(3):
        seal(store, f"s{number}")
        erasures.request(replace(WANTED, id=f"{number:032x}", subject=f"s{number}"))
        erasures.approve(f"{number:032x}", replace(BEN, time_ns=NOW + number))
        erasures.destroy(f"{number:032x}")
        if number:
            erasures.done(f"{number:032x}")
    assert len(erasures.listed()) == 3
    erasures.done(f"{0:032x}")
    assert {one.id for one in erasures.listed()} == {f"{1:032x}", f"{2:032x}"}


def test_a_worker_drops_a_destroyed_key_and_what_it_sealed_meanwhile_is_erased_with_it(store, erasures):
    before = seal(store)
    store.forget_destroyed()
    assert store._data_keys, "nobody has changed anything"
    erase(erasures)
    meanwhile = seal(store)
    assert meanwhile.key_ref == before.key_ref
    store.forget_destroyed()
    assert not store._data_keys
    after = seal(store)
    assert after.key_ref != before.key_ref
    assert opened(store, after) == b"plain"
    with pytest.raises(KeyMissing):
        opened(store, meanwhile)


def test_what_the_log_says_was_erased_goes_again_when_a_backup_has_brought_it_back(store, erasures, path):
    sealed, other = seal(store), seal(store, "subject-2")
    secret = wrapped_of(path)[sealed.key_ref]
    assert erasures.mark() == ""
    assert erasures.destroy_named([sealed.key_ref, "00" * 16], "o 7") == 1
    assert (erasures.mark(), traces(path, [secret])) == ("o 7", 0)
    assert erasures.destroy_named([sealed.key_ref], "o 8") == 0
    with pytest.raises(KeyMissing):
        opened(store, sealed)
    assert opened(store, other) == b"plain"


def test_a_database_that_is_locked_or_none_is_said_so(store, erasures, path, tmp_path):
    other = sqlite3.connect(path, isolation_level=None)
    erasures._db.execute("PRAGMA busy_timeout=10")
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(KeyStoreError, match="locked"):
        erasures.listed()
    other.close()
    assert erasures.listed() == []
    (tmp_path / "x").write_bytes(b"not a database, and long enough to be looked at" * 10)
    with pytest.raises(KeyStoreError):
        Erasures(tmp_path / "x")


def test_a_tenant_is_known_once_it_has_a_key(store):
    assert not store.knows("store-7")
    store.tenant_key("store-7")
    assert (store.knows("store-7"), store.knows("store-8")) == (True, False)


def test_what_waits_is_counted_by_state(store, erasures):
    seal(store)
    seal(store, "subject-2")
    assert erasures.owed(NOW) == {"requested": Owed(), "agreed": Owed()}
    erasures.request(WANTED)
    erasures.request(replace(WANTED, id="9" * 32, subject="subject-2", requested_ns=NOW + 5))
    assert erasures.owed(NOW)["requested"] == Owed(2, NOW)
    assert erasures.owed(NOW + VALID_NS + 5)["requested"] == Owed(1, NOW + 5), "the other is out of date"
    erasures.approve(WANTED.id, BEN)
    assert erasures.owed(NOW) == {"requested": Owed(1, NOW + 5), "agreed": Owed(1, BEN.time_ns)}
    erasures.destroy(WANTED.id)
    assert erasures.owed(NOW)["agreed"] == Owed(1, BEN.time_ns), "the log does not have it"
    erasures.done(WANTED.id)
    assert erasures.owed(NOW)["agreed"] == Owed()
