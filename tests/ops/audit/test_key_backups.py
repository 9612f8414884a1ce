"""Backups of the key database: whole, without what was deleted, and gone after seven days."""

from __future__ import annotations

import os
import sqlite3
from datetime import UTC, datetime, timedelta

import pytest

from ops.audit import key_backups
from ops.audit.errors import KeyStoreError
from ops.audit.key_backups import DAYS_MAX, backup_keys, expire_backups, made_at, restore_keys
from ops.audit.keys import KeyStore

MASTER = bytes(range(32))
NOW = datetime(2026, 11, 26, 9, 30, tzinfo=UTC)
PLACE = ("store-7", "subject-1", "2026-11")
RECORD = bytes(16)


@pytest.fixture
def database(tmp_path):
    return tmp_path / "keys" / "payload.db"


@pytest.fixture
def store(database):
    database.parent.mkdir()
    made = KeyStore(database, MASTER, origin="o")
    yield made
    made.close()


def test_a_backup_of_a_database_in_use_opens_what_it_opened(store, database, tmp_path):
    sealed = store.seal(*PLACE, RECORD, "request", b"plain")
    made = backup_keys(database, tmp_path / "backups/keys", now=NOW)
    assert (made.name, made_at(made)) == ("payload-keys.20261126T093000Z.sqlite", NOW)
    assert made.stat().st_mode & 0o077 == 0
    restore_keys(made, tmp_path / "restored.db", now=NOW)
    again = KeyStore(tmp_path / "restored.db", MASTER, origin="o")
    assert again.open(sealed.key_ref, RECORD, "request", sealed.ciphertext, sealed.commitment) == b"plain"
    again.close()
    assert sorted(path.name for path in made.parent.iterdir()) == [made.name]


def test_one_of_seven_days_stays_and_one_a_second_older_goes_whatever_its_files_times_say(store, database, tmp_path):
    directory = tmp_path / "backups"
    for age in (timedelta(0), timedelta(days=DAYS_MAX), timedelta(days=DAYS_MAX, seconds=1)):
        made = backup_keys(database, directory, now=NOW - age)
        os.utime(made, (NOW.timestamp(), NOW.timestamp()))
    over = expire_backups(directory, now=NOW)
    assert [path.name for path in over] == ["payload-keys.20261119T092959Z.sqlite"]
    assert sorted(map(made_at, directory.iterdir())) == [NOW - timedelta(days=DAYS_MAX), NOW]


def test_making_one_removes_those_that_are_too_old_and_nothing_else(store, database, tmp_path):
    directory = tmp_path / "backups"
    directory.mkdir()
    others = ["notes", "payload-keys.sqlite", "payload-keys.20269999T000000Z.sqlite", "payload-keys.20200101T000000Z"]
    for name in others:
        (directory / name).write_text("not ours")
    draft = directory / "payload-keys.20261126T092900Z.sqlite.new"
    draft.write_bytes(b"half")
    backup_keys(database, directory, now=NOW - timedelta(days=8))
    made = backup_keys(database, directory, now=NOW)
    assert {path.name for path in directory.iterdir()} == {*others, made.name}


def test_an_old_backup_is_not_restored_nor_over_a_database_nor_is_something_else(store, database, tmp_path):
    made = backup_keys(database, tmp_path / "backups", now=NOW)
    with pytest.raises(KeyStoreError, match="more than 7 days"):
        restore_keys(made, tmp_path / "new.db", now=NOW + timedelta(days=DAYS_MAX, seconds=1))
    with pytest.raises(KeyStoreError, match="move it away"):
        restore_keys(made, database, now=NOW)
    with pytest.raises(KeyStoreError, match="no backup"):
        restore_keys(database, tmp_path / "new.db", now=NOW)
    broken = made.with_name("payload-keys.20261126T080000Z.sqlite")
    broken.write_bytes(b"no database, and long enough to be looked at" * 10)
    with pytest.raises(KeyStoreError):
        restore_keys(broken, tmp_path / "new.db", now=NOW)
    assert not list(tmp_path.glob("new.db*"))
    restore_keys(made, tmp_path / "new.db", now=NOW + timedelta(days=DAYS_MAX))


def test_a_backup_that_cannot_be_made_leaves_nothing(store, database, tmp_path, monkeypatch):
    with pytest.raises(KeyStoreError, match="there is no key database"):
        backup_keys(tmp_path / "nothing.db", tmp_path / "backups", now=NOW)
    assert not (tmp_path / "nothing.db").exists()
    monkeypatch.setattr(key_backups, "BUSY_TIMEOUT_S", 0.01)
    other = sqlite3.connect(database, isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    with pytest.raises(KeyStoreError, match="locked"):
        backup_keys(database, tmp_path / "backups", now=NOW)
    other.close()
    assert list((tmp_path / "backups").iterdir()) == []
    backup_keys(database, tmp_path / "backups", now=NOW)
    with pytest.raises(KeyStoreError, match="already"):
        backup_keys(database, tmp_path / "backups", now=NOW)


def test_a_backup_holds_nothing_of_what_was_deleted_before_it(store, database, tmp_path):
    """Also where the database itself does: written without secure_delete."""
    for number in range(20):
        store.seal("t", f"subject-{number * 7919 % 1000}", "2026-11", RECORD, "request", b"")
    with sqlite3.connect(database) as db:
        db.execute("PRAGMA secure_delete=OFF")
        wrapped = [row[0] for row in db.execute("SELECT wrapped FROM data_key")]
        db.execute("DELETE FROM data_key")
    db.close()
    assert any(key in database.read_bytes() for key in wrapped)
    made = backup_keys(database, tmp_path / "backups", now=NOW)
    assert not any(key in made.read_bytes() for key in wrapped)
