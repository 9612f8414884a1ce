"""What waits for review: its bounds, who pushes out whom, and what a decision leaves."""

from __future__ import annotations

import sqlite3
from dataclasses import replace

import pytest

from gateway.control.quarantine import store
from gateway.control.quarantine.store import Decided, Finding, Quarantine, QuarantineError

ONE = Finding(7, "a" * 32, 10, "store", "b" * 32, "kiosk", "1", "flag", ("evidence flag p=0.001 T", "x"), payload=True)
RELEASED = Decided("released", "anna", "a product of ours", 99)


@pytest.fixture
def quarantine(tmp_path):
    made = Quarantine(tmp_path / "recorder/quarantine.db")
    yield made
    made.close()


def many(first: int, count: int, tenant: str = "store"):
    return [replace(ONE, entry=first + number, tenant=tenant) for number in range(count)]


def entries(quarantine, **wanted) -> list[int]:
    return [finding.entry for finding, _ in quarantine.items(**wanted)]


def test_it_is_read_as_it_was_written_also_after_a_restart(tmp_path, quarantine):
    quarantine.take([ONE], {"next": "8", "origin": "o"})
    again = Quarantine(tmp_path / "recorder/quarantine.db")
    assert again.items() == [(ONE, Decided("waiting", "", "", 0))]
    assert again.item(7) == (ONE, Decided("waiting", "", "", 0))
    assert (again.mark("next"), again.mark("nothing"), again.item(8)) == ("8", "", None)
    again.close()


def test_it_is_listed_by_state_tenant_and_model_the_newest_first(quarantine):
    quarantine.take([*many(1, 3), replace(ONE, entry=9, tenant="lab", model="other")], {})
    quarantine.decide([2], RELEASED)
    assert entries(quarantine) == [9, 3, 2, 1]
    assert entries(quarantine, state="waiting") == [9, 3, 1]
    assert entries(quarantine, state="released") == [2]
    assert entries(quarantine, tenant="lab", model="other") == entries(quarantine, model="other") == [9]
    assert entries(quarantine, count_max=2) == [9, 3]
    assert quarantine.waiting() == 3


def test_a_tenant_has_its_share_and_cannot_push_out_what_was_seen_of_it(quarantine, monkeypatch):
    monkeypatch.setattr(store, "TENANT_MAX", 3)
    quarantine.take(many(1, 3), {})
    assert quarantine.dropped() == 0
    quarantine.take(many(4, 2) + many(6, 1, "lab"), {})
    assert entries(quarantine) == [6, 3, 2, 1]
    assert quarantine.dropped() == 2
    quarantine.decide([1], RELEASED)
    quarantine.take(many(7, 1), {})
    assert entries(quarantine, state="waiting") == [7, 6, 3, 2]


def test_when_all_is_full_the_tenant_with_the_most_gives_up_its_oldest(quarantine, monkeypatch):
    monkeypatch.setattr(store, "WAITING_MAX", 4)
    quarantine.take([*many(1, 3), *many(4, 1, "lab")], {})
    quarantine.take(many(5, 1, "new"), {})
    assert entries(quarantine) == [5, 4, 3, 2]
    assert (quarantine.waiting(), quarantine.dropped()) == (4, 1)


def test_of_what_is_decided_the_newest_are_remembered(quarantine, monkeypatch):
    monkeypatch.setattr(store, "DECIDED_MAX", 2)
    quarantine.take(many(1, 4), {})
    for number in (1, 2, 3):
        quarantine.decide([number], replace(RELEASED, decided_ns=number))
    assert entries(quarantine) == [4, 3, 2]


def test_all_of_a_part_or_nothing(quarantine):
    def breaks():
        yield ONE
        raise sqlite3.OperationalError("disk I/O error")

    with pytest.raises(QuarantineError):
        quarantine.take(breaks(), {"next": "8"})
    assert (quarantine.items(), quarantine.mark("next")) == ([], "")


def test_a_file_that_is_no_database(tmp_path):
    (tmp_path / "q.db").write_bytes(b"not a database, and long enough to be looked at" * 10)
    with pytest.raises(QuarantineError, match=r"q\.db"):
        Quarantine(tmp_path / "q.db")
