"""The order of erasures and holds when the log is away, when whoever asked is gone, and when a backup came back."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from gateway.control.custody import procedure
from gateway.control.custody.procedure import Custody, names
from gateway.control.orders import Order
from gateway.errors import AuditUnavailable
from ops.audit.errors import ErasureRefused, KeyMissing, ReadError
from ops.audit.log.entry import canonical, check
from ops.audit.payloads import erasure_log
from ops.audit.payloads.erasure import Erasures
from ops.audit.payloads.keys import KeyStore
from ops.metrics import Metrics, expose
from tests.faults.erasing import BEN, hold, wanted
from tests.gateway.rig import until

OWN = {"build": "0", "id": "ab" * 16, "time_ns": "1", "v": 1}
ORDER = Order("spiffe://t/carl", "carl", "operations", "c" * 32, "settled")
RECORD = bytes(16)


@dataclass
class Log:
    """A log that takes entries, checks that they are some, and can be away."""

    entries: list[dict[str, Any]] = field(default_factory=list)
    away: bool = False
    go: asyncio.Event | None = None

    async def record(self, kind: str, entries) -> None:
        if self.go is not None:
            await self.go.wait()
        if self.away:
            raise AuditUnavailable
        for each in entries:
            check(canonical({**OWN, "kind": kind, **each}))
            self.entries.append({"kind": kind, **each})

    def kinds(self) -> list[str]:
        return [entry["kind"] for entry in self.entries]


@dataclass
class Reader:
    """The published log."""

    held: list[bytes] = field(default_factory=list)
    origin: str = "example.test/log"
    asked: list[tuple[int, int]] = field(default_factory=list)

    @property
    def checkpoint(self):
        return self

    @property
    def size(self) -> int:
        return len(self.held)

    def entries(self, first: int, count: int) -> list[bytes]:
        self.asked.append((first, count))
        return self.held[first : first + count]


@pytest.fixture
def store(tmp_path):
    made = KeyStore(tmp_path / "keys.sqlite", bytes(32), origin="o")
    yield made
    made.close()


@pytest.fixture
def log():
    return Log()


@pytest.fixture
def reader():
    return Reader()


@pytest.fixture
def said():
    return []


@pytest.fixture
def custody(tmp_path, store, log, reader, said):
    erasures = Erasures(tmp_path / "keys.sqlite")

    def tell(event, **facts):
        said.append((event, facts))

    yield Custody(erasures, log.record, lambda _origin, _index: reader, tell, caught_up=True)
    erasures.close()


def seal(store, number: int = 0):
    return store.seal("store-7", wanted(number).subject, "2026-11", RECORD, "request", b"plain")


def opened(store, sealed) -> bytes:
    return store.open(sealed.key_ref, RECORD, "request", sealed.ciphertext, sealed.commitment)


async def test_what_is_said_of_an_erasure_names_nobody(store, log, custody):
    sealed = seal(store)
    await custody.request(wanted(0))
    done = await custody.approve(wanted(0).id, BEN)
    assert (done.state, done.subject) == ("done", "")
    assert log.kinds() == ["admin", "erasure"]
    assert not any(wanted(0).subject in str(entry) for entry in log.entries)
    assert log.entries[1] == {
        "kind": "erasure",
        "administrators": ["spiffe://t/anna", "spiffe://t/ben"],
        "erasure": wanted(0).id,
        "keys": [sealed.key_ref],
        "reason": "DSR-1",
        "request": BEN.request,
        "subject": wanted(0).pseudonym,
        "tenant": "store-7",
    }


async def test_without_the_log_nothing_is_asked_for_and_nothing_is_held(store, log, custody):
    seal(store)
    log.away = True
    with pytest.raises(AuditUnavailable):
        await custody.request(wanted(0))
    with pytest.raises(AuditUnavailable):
        await custody.place(hold(0))
    assert (custody.erasures.listed(), custody.erasures.holds()) == ([], [])


async def test_what_was_agreed_is_recorded_when_the_log_is_back(store, log, custody, said):
    sealed = seal(store)
    await custody.request(wanted(0))
    log.away = True
    with pytest.raises(AuditUnavailable):
        await custody.approve(wanted(0).id, BEN)
    with pytest.raises(KeyMissing):
        opened(store, sealed)
    await custody.finish()
    assert said[-1][0] == "erasure-not-finished"
    log.away = False
    await custody.finish()
    await custody.finish()
    assert log.kinds() == ["admin", "erasure"]
    assert custody.erasures.unfinished() == []


async def test_a_hold_that_cannot_be_lifted_on_the_record_stays(store, log, custody):
    seal(store)
    await custody.place(hold(0))
    log.away = True
    with pytest.raises(AuditUnavailable):
        await custody.lift(hold(0), ORDER)
    assert len(custody.erasures.holds()) == 1
    log.away = False
    await custody.lift(hold(0), ORDER)
    assert custody.erasures.holds() == []
    lifted = log.entries[-1]
    assert (lifted["action"], lifted["administrator"], lifted["reason"]) == ("lifted", "spiffe://t/carl", "settled")


async def test_who_tries_what_may_not_be_is_recorded_and_told(store, log, custody):
    seal(store)
    await custody.request(wanted(0))
    await custody.place(hold(0))
    with pytest.raises(ErasureRefused, match="case 7"):
        await custody.approve(wanted(0).id, BEN)
    tried = log.entries[-1]
    assert (tried["action"], tried["outcome"], tried["administrator"]) == (
        "erasure-approved",
        "refused",
        "spiffe://t/ben",
    )


async def test_an_erasure_goes_on_when_whoever_asked_has_gone(store, log, custody):
    sealed = seal(store)
    await custody.request(wanted(0))
    log.go = asyncio.Event()
    asking = asyncio.create_task(custody.approve(wanted(0).id, BEN))
    await until(lambda: custody.erasures.erasure(wanted(0).id).state == "destroyed")
    asking.cancel()
    await asyncio.gather(asking, return_exceptions=True)
    log.go.set()
    await until(lambda: not custody.tasks)
    assert custody.erasures.erasure(wanted(0).id).state == "done"
    with pytest.raises(KeyMissing):
        opened(store, sealed)


async def test_two_who_approve_at_once_destroy_and_record_it_once(store, log, custody):
    seal(store)
    await custody.request(wanted(0))
    both = [custody.approve(wanted(0).id, BEN), custody.approve(wanted(0).id, replace(BEN, principal="carl"))]
    done = await asyncio.gather(*both, return_exceptions=True)
    assert [type(each).__name__ for each in done] == ["Erasure", "ErasureRefused"]
    assert log.kinds() == ["admin", "erasure", "admin"]


def erased(*keys: str) -> bytes:
    return canonical({**OWN, "kind": "erasure", "administrators": ["a", "b"], "keys": list(keys)})


async def test_the_log_is_followed_in_parts_and_what_a_backup_brought_back_goes(
    store, reader, custody, said, monkeypatch
):
    monkeypatch.setattr(erasure_log, "PART", 2)
    back, stays = seal(store), seal(store, 1)
    reader.held = [b"{}", erased(back.key_ref), b"{}"]
    assert await asyncio.to_thread(custody.follow)
    assert not await asyncio.to_thread(custody.follow)
    assert not await asyncio.to_thread(custody.follow)
    assert reader.asked == [(0, 2), (2, 1)]
    assert said == [("erased-keys-had-come-back", {"level": "warning", "count": 1})]
    with pytest.raises(KeyMissing):
        opened(store, back)
    assert opened(store, stays) == b"plain"
    reader.held.append(erased(stays.key_ref))
    await asyncio.to_thread(custody.follow)
    assert reader.asked[2:] == [(3, 1)]
    with pytest.raises(KeyMissing):
        opened(store, stays)


async def test_another_log_is_read_from_its_beginning_and_a_shorter_one_is_waited_for(store, reader, custody):
    reader.held = [b"{}", b"{}"]
    await asyncio.to_thread(custody.follow)
    reader.held.pop()
    assert not await asyncio.to_thread(custody.follow)
    reader.origin = "example.test/another log"
    again = seal(store)
    reader.held = [erased(again.key_ref)]
    assert not await asyncio.to_thread(custody.follow)
    with pytest.raises(KeyMissing):
        opened(store, again)
    assert custody.erasures.mark() == "example.test/another log 1"


async def test_nothing_is_agreed_before_the_log_was_read_for_holds(store, reader, custody, said):
    seal(store)
    await custody.request(wanted(0))
    one = hold(0)
    facts = {"hold": one.id, "tenant": one.tenant, "subject": one.pseudonym, "matter": one.matter}
    reader.held = [canonical({**OWN, "kind": "hold", "action": "placed", "administrator": "anna", **facts})]
    custody.caught_up = False
    with pytest.raises(ErasureRefused, match="still being read"):
        await custody.approve(wanted(0).id, BEN)
    keeping = asyncio.create_task(custody.keep())
    await until(lambda: custody.caught_up)
    keeping.cancel()
    assert ("holds-had-gone", {"level": "warning", "count": 1}) in said
    with pytest.raises(ErasureRefused, match="a legal hold covers it"):
        await custody.approve(wanted(0).id, BEN)


async def test_what_waits_is_measured(tmp_path, store, log, custody):
    seal(store)
    metrics = Metrics(tmp_path / "metrics", "admin", methods={}, reasons=())
    custody.metrics = metrics.erasures()
    await custody.request(wanted(0))
    keeping = asyncio.create_task(custody.keep())
    line = 'stockade_erasures{state="requested"} 1.0'
    await until(lambda: line in expose(tmp_path / "metrics").decode())
    keeping.cancel()
    metrics.close()


async def test_payloads_are_opened_only_once_the_log_was_read(custody, reader, said, monkeypatch):
    monkeypatch.setattr(procedure, "CATCHING_UP_S", 0.0)
    monkeypatch.setattr(erasure_log, "PART", 1)
    custody.caught_up = False
    reader.held = [b"{}", b"{}"]
    ready = []
    problems = [ReadError("nothing is published yet"), OSError("away")]

    def read(_origin, _index):
        if problems:
            raise problems.pop(0)
        ready.append(custody.caught_up)
        return reader

    custody.reader_from = read
    keeping = asyncio.create_task(custody.keep())
    await until(lambda: custody.caught_up)
    keeping.cancel()
    assert ready == [False, False, False], "there was more to read, and then no epoch after it"
    assert [event for event, _ in said] == ["erasures-not-read"]


@pytest.mark.parametrize(
    ("subject", "text", "does"),
    [
        ("kiosk-7", "forget kiosk-7", True),
        ("kiosk-7", "Kiosk-7: gone", True),
        ("kiosk-7", "kiosk-70 is another", False),
        ("a.b@example.org", "mail of a.b@example.org", True),
        ("a.b@example.org", "axb@example.org", False),
        ("anna", "banana", False),
        ("", "anything", False),
    ],
)
def test_whether_a_text_names_a_subject(subject, text, does):
    assert names(subject, text) is does
