"""What every AuditSink promises, over the real recorder in its own process and over the fake in memory."""

import asyncio
import threading
from collections.abc import AsyncIterator, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Protocol

import pytest

from ops.audit.errors import AuditUnavailable
from ops.audit.log.checkpoint import parse_vkey
from ops.audit.log.entry import ENTRY_BYTES_MAX
from ops.audit.reader.read import LogReader
from ops.audit.store.client import AuditSink, Receipt
from tests.fakes import FakeAuditSink
from tests.faults.recorder_process import KEY, client_of, launch, settings_in
from tests.ops.audit.samples import captured, sized, small

Answer = Receipt | AuditUnavailable


class Subject(Protocol):
    """A sink, and what was recorded through it."""

    sink: AuditSink

    async def recorded(self) -> list[bytes]: ...
    async def payload(self, index: int, digest: bytes) -> bytes: ...


class Memory:
    def __init__(self) -> None:
        self.fake = FakeAuditSink()
        self.sink: AuditSink = self.fake

    async def recorded(self) -> list[bytes]:
        return self.fake.entries

    async def payload(self, index: int, digest: bytes) -> bytes:
        return self.fake.blobs[digest]


class Recorded:
    def __init__(self, home: Path) -> None:
        self.settings = settings_in(home)
        self.process = launch(self.settings).wait_ready()
        self.client = client_of(self.settings)
        self.sink: AuditSink = self.client
        self.stopped = False

    async def stop(self) -> None:
        if not self.stopped:
            self.stopped = True
            await self.client.close()
            assert self.process.stop() == 0, self.process.errors

    async def _reader(self) -> LogReader:
        await self.stop()
        return LogReader.open(self.settings.directory, parse_vkey(str(KEY.verifier)))

    async def recorded(self) -> list[bytes]:
        reader = await self._reader()
        return reader.entries(0, reader.checkpoint.size)

    async def payload(self, index: int, digest: bytes) -> bytes:
        return (await self._reader()).blob(index, digest)


@pytest.fixture(params=["memory", "recorder"])
async def subject(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Subject]:
    if request.param == "memory":
        yield Memory()
        return
    recorded = Recorded(tmp_path)
    await recorded.client.connect()
    yield recorded
    await recorded.stop()


def answer(sink: AuditSink, entries: Sequence[bytes], blobs: Sequence[bytes] = ()) -> asyncio.Future[Answer]:
    """Append; the future fails when `done` is called twice or off the loop's thread."""
    loop = asyncio.get_running_loop()
    thread = threading.get_ident()
    future: asyncio.Future[Answer] = loop.create_future()

    def done(result: Answer) -> None:
        assert threading.get_ident() == thread
        future.set_result(result)  # raises when called twice

    sink.append(entries, done, blobs=blobs)
    return future


async def test_entries_are_recorded_in_order_at_the_index_the_receipt_names(subject):
    calls = [[small(n) for n in range(start, start + count)] for start, count in ((0, 1), (1, 5), (6, 300), (306, 2))]
    receipts = await asyncio.gather(*(answer(subject.sink, entries) for entries in calls))
    log = await subject.recorded()
    for entries, receipt in zip(calls, receipts, strict=True):
        assert isinstance(receipt, Receipt)
        assert receipt.count == len(entries)
        assert log[receipt.first_index : receipt.first_index + receipt.count] == entries
    indexes = [receipt.first_index for receipt in receipts]
    assert indexes == sorted(indexes)


async def test_done_is_never_called_before_append_returns(subject):
    future = answer(subject.sink, [small()])
    assert not future.done()
    assert isinstance(await future, Receipt)


async def test_threads_append_at_once_and_nothing_is_lost_or_mixed(subject):
    loop = asyncio.get_running_loop()
    done: list[tuple[int, Answer]] = []
    every = asyncio.Event()

    def finished(first: int, result: Answer) -> None:
        done.append((first, result))
        if len(done) == 8 * 50:
            every.set()

    def work(worker: int) -> None:
        for call in range(50):
            first = worker * 1000 + call * 3
            subject.sink.append([small(n) for n in range(first, first + 3)], lambda r, f=first: finished(f, r))

    await asyncio.gather(*(loop.run_in_executor(None, work, worker) for worker in range(8)))
    async with asyncio.timeout(30):
        await every.wait()
    log = await subject.recorded()
    for first, receipt in done:
        assert isinstance(receipt, Receipt)
        assert log[receipt.first_index : receipt.first_index + 3] == [small(n) for n in range(first, first + 3)]


async def test_payloads_are_there_by_the_hash_their_entry_names(subject):
    payloads = [b"sealed request", b"sealed response" * 100]
    receipt = await answer(subject.sink, [small(1), captured(2, *payloads)], payloads)
    assert isinstance(receipt, Receipt)
    for each in payloads:
        assert await subject.payload(receipt.first_index + 1, sha256(each).digest()) == each


@pytest.mark.parametrize(
    ("entries", "blobs"),
    [
        ([b"{}"], []),
        ([small(1), small(2).replace(b'"v":1', b'"v": 1')], []),
        ([captured(3, b"named")], []),
        ([captured(3, b"named")], [b"another"]),
        ([small(4)], [b"named by nobody"]),
    ],
    ids=["no entry", "not canonical", "payload missing", "payload of another", "payload of nobody"],
)
async def test_what_cannot_be_verified_later_is_refused_and_nothing_of_it_recorded(subject, entries, blobs):
    first = await answer(subject.sink, [small(100)])
    refused = await answer(subject.sink, entries, blobs)
    second = await answer(subject.sink, [small(101)])
    assert isinstance(refused, AuditUnavailable)
    assert refused.reason == "log_refused"
    assert isinstance(first, Receipt)
    assert isinstance(second, Receipt)
    assert not set(entries) & set(await subject.recorded())


async def test_the_largest_entry_is_taken_and_one_byte_more_is_not(subject):
    assert isinstance(await answer(subject.sink, [sized(ENTRY_BYTES_MAX)]), Receipt)
    too_large = await answer(subject.sink, [sized(ENTRY_BYTES_MAX + 1)])
    assert isinstance(too_large, AuditUnavailable)
    assert too_large.reason == "append_too_large"
