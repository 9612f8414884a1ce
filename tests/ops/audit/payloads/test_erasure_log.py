"""What the log says of erasures and holds wins over a key database that a backup brought back."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from ops.audit.errors import ErasureRefused, KeyMissing
from ops.audit.log.entry import canonical
from ops.audit.payloads import erasure_log
from ops.audit.payloads.erasure import Erasures
from ops.audit.payloads.erasure_log import Followed, said_in
from ops.audit.payloads.keys import KeyStore
from ops.audit.reader.read import LogReader
from tests.faults.erasing import BEN, hold, wanted
from tests.faults.recorder_process import KEY
from tests.ops.audit.open_log import OpenLog, open_log
from tests.ops.audit.samples import small

OWN = {"build": "0", "id": "ab" * 16, "time_ns": "7", "v": 1}
HOLD = {"kind": "hold", "action": "placed", "matter": "case 7", "administrator": "anna"}
RECORD = bytes(16)


def held(number: int, action: str = "placed") -> bytes:
    one = hold(number)
    facts = {"hold": one.id, "tenant": one.tenant, "subject": one.pseudonym}
    return canonical({**OWN, **HOLD, "action": action, **facts})


def erased(*keys: str) -> bytes:
    return canonical({**OWN, "kind": "erasure", "administrators": ["a", "b"], "keys": list(keys)})


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "keys.sqlite"


@pytest.fixture
def store(path):
    made = KeyStore(path, bytes(32), origin="o")
    yield made
    made.close()


@pytest.fixture
def log(tmp_path):
    with open_log(tmp_path / "home") as opened:
        opened.say([small(1)])
        yield opened


def seal(store, number: int = 0):
    return store.seal("store-7", wanted(number).subject, "2026-11", RECORD, "request", b"plain")


def says(log: OpenLog, *entries: bytes) -> LogReader:
    log.say(entries)
    return LogReader.open(log.directory, KEY.verifier)


def follow(erasures: Erasures, reader: LogReader) -> Followed:
    return erasure_log.follow(erasures, lambda _origin, _index: reader)


def test_a_hold_that_was_set_after_a_backup_survives_its_restoration(store, path, log, tmp_path):
    sealed = seal(store)
    erasures = Erasures(path)
    follow(erasures, says(log, small(2)))
    erasures.request(wanted(0))
    shutil.copy(path, tmp_path / "backup")
    reader = says(log, held(0), held(1), held(1, "lifted"))
    erasures.close()
    store.close()
    shutil.copy(tmp_path / "backup", path)

    restored = Erasures(path)
    assert follow(restored, reader) == Followed(keys=0, holds=1, more=False)
    with pytest.raises(ErasureRefused, match="a legal hold covers it"):
        restored.approve(wanted(0).id, BEN)
    assert [(one.id, one.subject, one.pseudonym) for one in restored.holds()] == [(hold(0).id, "", hold(0).pseudonym)]
    assert restored.holds(unrecorded=True) == []
    again = KeyStore(path, bytes(32), origin="o")
    assert again.open(sealed.key_ref, RECORD, "request", sealed.ciphertext, sealed.commitment) == b"plain"
    again.close()
    assert follow(restored, says(log, held(0, "lifted"))).holds == 1
    assert restored.approve(wanted(0).id, BEN).state == "approved"
    restored.close()


def test_a_hold_that_was_lifted_after_a_backup_does_not_come_back(path, log):
    erasures = Erasures(path)
    erasures.place(hold(0))
    erasures.place(replace(hold(1), subject="", pseudonym=""))
    assert follow(erasures, says(log, held(0), held(0, "lifted"))).holds == 1
    assert [one.id for one in erasures.holds()] == [hold(1).id]
    erasures.close()


def test_a_hold_that_the_database_has_keeps_its_name(path, log):
    erasures = Erasures(path)
    erasures.place(hold(0))
    assert follow(erasures, says(log, held(0))) == Followed(0, 0, more=False)
    assert erasures.holds() == [hold(0)]
    erasures.close()


def test_the_log_is_read_in_parts_and_once(store, path, log, monkeypatch):
    monkeypatch.setattr(erasure_log, "PART", 2)
    erasures, sealed = Erasures(path), seal(store)
    reader = says(log, erased(sealed.key_ref))  # genesis, one more, and this
    assert follow(erasures, reader) == Followed(0, 0, more=True)
    assert follow(erasures, reader) == Followed(1, 0, more=False)
    assert (follow(erasures, reader), erasures.mark()) == (Followed(0, 0, more=False), f"{KEY.name} 3")
    with pytest.raises(KeyMissing):
        store.open(sealed.key_ref, RECORD, "request", sealed.ciphertext, sealed.commitment)
    erasures.close()


def test_what_is_no_reference_and_names_no_hold_is_passed_over():
    nonsense = erased("abc", "zz" * 16, "AB" * 16, "ab" * 17)
    said = said_in([nonsense, canonical({**OWN, **HOLD}), b'{"kind":"hold"}', erased("00" * 16)])
    assert (said.keys, said.placed, said.lifted) == (["00" * 16], {}, [])


def test_a_tenant_is_held_as_a_whole():
    whole = canonical({**OWN, **HOLD, "hold": "cd" * 16, "tenant": "store-7"})
    (placed,) = said_in([whole]).placed.values()
    assert placed.covers("store-7", "ab" * 16)
    assert not placed.covers("store-8", "ab" * 16)
