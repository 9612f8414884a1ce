"""What is found in the log: what an enforcing screen did not let pass, once, from where the last look ended."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from gateway.control.quarantine import collect as collecting
from gateway.control.quarantine.collect import Seen, collect, findings
from gateway.control.quarantine.store import Quarantine
from ops.audit.log.entry import check
from tests.ops.incidents.test_timeline import FLAGGED, asked


@dataclass
class Head:
    size: int
    origin: str = "example.test/log"


@dataclass
class Reader:
    """A log that holds these."""

    held: list[bytes] = field(default_factory=list)
    origin: str = "example.test/log"
    asked: list[tuple[int, int]] = field(default_factory=list)

    @property
    def checkpoint(self) -> Head:
        return Head(len(self.held), self.origin)

    def entries(self, first: int, count: int) -> list[bytes]:
        self.asked.append((first, count))
        return self.held[first : first + count]


@pytest.fixture
def quarantine(tmp_path):
    made = Quarantine(tmp_path / "quarantine.db")
    yield made
    made.close()


def flagged(at: int = 1, **fields) -> bytes:
    return asked(at, screens=[FLAGGED], decision="flag", **fields)


@pytest.mark.parametrize(
    "fields",
    [
        {"screens": [FLAGGED | {"verdict": "pass"}], "decision": "harden"},
        {"screens": [FLAGGED | {"mode": "shadow"}], "decision": "flag"},
        {"screens": [FLAGGED]},
        {},
    ],
    ids=["it passed", "a shadow said so", "nothing came of it", "no screen"],
)
def test_what_nobody_has_to_look_at(fields):
    assert list(findings([asked(1, **fields)], 0)) == []


def test_what_is_kept_of_a_finding():
    data = flagged(5, tenant="lab", principal="c" * 32)
    (found,) = findings([asked(1), data], 40)
    assert (found.entry, found.request, found.tenant, found.principal) == (41, check(data).id, "lab", "c" * 32)
    assert (found.model, found.version, found.decision) == ("kiosk", "1", "flag")
    assert found.found == ("evidence flag p=0.000010 AML.T0015",)
    assert not found.payload


def test_whether_its_payload_was_kept():
    sealed = {"bytes": 1, "ciphertext_sha256": "e" * 64, "commitment": "f" * 64}
    (found,) = findings([flagged(1, payload={"key": "ab", "request": sealed})], 0)
    assert found.payload


def test_a_look_begins_where_the_last_one_ended(quarantine, monkeypatch):
    monkeypatch.setattr(collecting, "PART", 2)
    log = Reader([flagged(), asked(2), flagged(3)])
    assert collect(quarantine, log)
    assert not collect(quarantine, log)
    assert log.asked == [(0, 2), (2, 1)]
    assert not collect(quarantine, log)
    log.held.append(flagged(4))
    assert not collect(quarantine, log)
    assert log.asked[2:] == [(3, 1)]
    assert sorted(finding.entry for finding, _ in quarantine.items()) == [0, 2, 3]


def test_the_first_look_at_a_long_log_is_at_its_newest_entries(quarantine, monkeypatch):
    monkeypatch.setattr(collecting, "FIRST_LOOK", 1)
    assert not collect(quarantine, Reader([flagged(), flagged()]))
    assert [finding.entry for finding, _ in quarantine.items()] == [1]


def test_another_log_begins_anew_and_a_shorter_one_is_waited_for(quarantine):
    log = Reader([flagged(), flagged()])
    collect(quarantine, log)
    log.held.pop()
    assert not collect(quarantine, log)
    assert len(quarantine.items()) == 2
    collect(quarantine, Reader([flagged()], origin="example.test/other"))
    assert [finding.entry for finding, _ in quarantine.items()] == [0]
    assert quarantine.mark("origin") == "example.test/other"


def test_parts_without_findings_are_read_once_and_not_written_down_each_time(quarantine, monkeypatch):
    """A busy log that finds nothing must not cost a sync a second beside the recorder's own."""
    monkeypatch.setattr(collecting, "WRITTEN_EVERY", 3)
    log, seen = Reader([flagged()]), Seen()
    written = []
    for _ in range(5):
        collect(quarantine, log, seen)
        written.append(quarantine.mark("next"))
        log.held.append(asked(9))
    assert log.asked == [(0, 1), (1, 1), (2, 1), (3, 1), (4, 1)]
    assert written == ["1", "1", "1", "4", "4"]
    log.held.append(flagged(3))
    collect(quarantine, log, seen)
    assert quarantine.mark("next") == "7", "what was found is written down at once"
    again = Reader(log.held)
    collect(quarantine, again, Seen())
    assert again.asked == [], "and a restart goes on there"
