"""The client against a recorder that misbehaves: it answers each append exactly once, in bounded memory."""

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from ops.audit.errors import AuditUnavailable
from ops.audit.store import client as client_module
from ops.audit.store import protocol
from ops.audit.store.client import AuditClient, Receipt
from tests.ops.audit.samples import small

Peer = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
HELLO = protocol.hello("peer.test/log", 1, 0, 1 << 16)


@asynccontextmanager
async def peer(path: Path, behave: Peer) -> AsyncIterator[None]:
    """A recorder that says hello and then does this."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await behave(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_unix_server(serve, path)
    yield
    server.close()


def answering(*answers: bytes | asyncio.Event, hello: bytes = HELLO) -> Peer:
    """A recorder that waits for the first append, then gives these answers; an event is waited for between two."""

    async def behave(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(hello)
        await reader.read(1 if answers else -1)
        for each in answers:
            if isinstance(each, bytes):
                writer.write(each)
            else:
                await each.wait()
                each.clear()
        await reader.read(-1)

    return behave


@asynccontextmanager
async def connected(path: Path, behave: Peer, **changes: Any) -> AsyncIterator[AuditClient]:
    """A client of such a recorder. At the end it waits for no answer any more."""
    async with peer(path / "s", behave):
        client = client_at(path / "s", **changes)
        await client.connect()
        yield client
        client._timeout_s = 0.01
        await client.close()


def refused(reason: int, count: int = 1) -> bytes:
    return protocol.reply(protocol.REFUSED, count, reason)


def ack(index: int, count: int = 1) -> bytes:
    return protocol.reply(protocol.ACK, count, index)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110 (it shows only so)
            await asyncio.sleep(0.005)


def client_at(path: Path, **changes: Any) -> AuditClient:
    return AuditClient(path, **{"backlog_bytes_max": 4096, "append_timeout_ms": 20_000, **changes})


def append(client: AuditClient, entries: list[bytes]) -> asyncio.Future[Receipt | AuditUnavailable]:
    future: asyncio.Future[Receipt | AuditUnavailable] = asyncio.get_running_loop().create_future()
    client.append(entries, future.set_result)  # a second call would raise
    return future


async def reason(future: asyncio.Future[Receipt | AuditUnavailable]) -> str:
    async with asyncio.timeout(20):
        answer = await future
    assert isinstance(answer, AuditUnavailable)
    return answer.reason


async def test_nobody_there_is_said_after_the_timeout(tmp_path):
    with pytest.raises(AuditUnavailable) as caught:
        await client_at(tmp_path / "s", append_timeout_ms=100).connect()
    assert caught.value.reason == "recorder_gone"


async def test_an_append_without_an_answer_times_out_and_a_late_answer_is_not_mistaken_for_the_next(tmp_path):
    release = asyncio.Event()
    async with connected(tmp_path, answering(release, ack(7) + ack(8)), append_timeout_ms=1_000) as client:
        assert await reason(append(client, [small(1)])) == "append_timeout"
        assert client.backlog_records == 1
        client._timeout_s = 20
        second = append(client, [small(2)])
        release.set()
        assert await second == Receipt("peer.test/log", 8, 1)
        assert client.backlog_records == 0


async def test_the_backlog_is_bounded_in_bytes(tmp_path):
    message = len(protocol.append_message([small(1)], []))
    async with connected(tmp_path, answering(), backlog_bytes_max=3 * message) as client:
        waiting = [append(client, [small(n)]) for n in range(1, 4)]
        assert await reason(append(client, [small(4)])) == "backlog_full"
        assert client.backlog_records == 3
        assert not any(each.done() for each in waiting)
        client._timeout_s = 0.01
        await client.close()
        assert [await reason(each) for each in waiting] == ["recorder_gone"] * 3
        assert await reason(append(client, [small(5)])) == "closed"


async def test_a_recorder_that_goes_fails_what_waits_and_is_found_again(tmp_path):
    async def die(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(HELLO)
        await reader.read(1)

    async with peer(tmp_path / "s", die):
        client = client_at(tmp_path / "s")
        await client.connect()
        assert client.available
        assert await reason(append(client, [small(1)])) == "recorder_gone"
    (tmp_path / "s").unlink(missing_ok=True)
    async with peer(tmp_path / "s", answering(ack(5))):
        async with asyncio.timeout(20):
            while isinstance(await append(client, [small(2)]), AuditUnavailable):  # noqa: ASYNC110 (it shows only so)
                await asyncio.sleep(0.01)
        await client.close()


@pytest.mark.parametrize("rubbish", [b"\xff" * 16, protocol.reply(9, 1, 1), ack(1, count=0)])
async def test_a_peer_that_breaks_the_protocol_is_left(tmp_path, rubbish):
    async with connected(tmp_path, answering(rubbish)) as client:
        assert await reason(append(client, [small(1)])) == "recorder_gone"


@pytest.mark.parametrize("with_hello", [True, False], ids=["with its hello", "later"])
async def test_a_recorder_without_room_is_not_available_until_it_says_so(tmp_path, with_hello):
    """What was refused before the room came back may be answered after it: only the recorder's own word counts."""
    full, free = (protocol.reply(protocol.STATE, 1, why) for why in (protocol.DISK_FULL, 0))
    step, no_room = asyncio.Event(), refused(protocol.DISK_FULL)
    first, hello = (no_room, HELLO + full) if with_hello else (full + no_room, HELLO)
    async with connected(tmp_path, answering(first, step, free + no_room, hello=hello)) as client:
        assert client.available is not with_hello
        assert await reason(append(client, [small(1)])) == "log_refused"
        assert not client.available
        second = append(client, [small(2)])
        step.set()
        assert await reason(second) == "log_refused"
        assert client.available
        await client.close()
        assert not client.available


async def test_refusals_carry_their_reason_and_appends_their_limit(tmp_path):
    async with connected(tmp_path, answering(refused(protocol.DISK_FULL)), backlog_bytes_max=1 << 20) as client:
        answer = await append(client, [small(1)])
        assert isinstance(answer, AuditUnavailable)
        assert (answer.reason, answer.detail) == ("log_refused", "disk full")
        many = [small(n) for n in range(1 + (1 << 16) // len(small(1)))]
        assert await reason(append(client, many)) == "append_too_large"


async def test_a_recorder_that_stands_still_is_not_available_until_it_answers_what_timed_out(tmp_path):
    step = asyncio.Event()
    async with connected(tmp_path, answering(step, ack(5), step, ack(5)), append_timeout_ms=200) as client:
        first, second = append(client, [small(1)]), append(client, [small(2)])
        assert client.available
        assert [await reason(first), await reason(second)] == ["append_timeout"] * 2
        assert not client.available
        client._timeout_s = 20
        step.set()
        await until(lambda: client.backlog_records == 1)
        assert not client.available  # it is still behind
        third = append(client, [small(3)])
        assert not client.available  # nor does what comes later count
        step.set()
        await until(lambda: client.available)
        assert not third.done()  # it waits, but has not waited too long


async def test_a_recorder_that_stood_still_and_died_owes_the_next_one_nothing(tmp_path):
    async def freeze(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(HELLO)
        await gone.wait()

    gone = asyncio.Event()
    async with peer(tmp_path / "s", freeze):
        client = client_at(tmp_path / "s", append_timeout_ms=200)
        await client.connect()
        assert await reason(append(client, [small(1)])) == "append_timeout"
        assert not client.available
        gone.set()
        await until(lambda: client.available)
        await client.close()


async def test_entries_that_the_recorder_refuses_as_such_are_logged_with_their_count(tmp_path):
    said: list[tuple[str, str, int]] = []

    def log(event: str, *, level: str, count: int, problem: str) -> None:
        assert problem
        said.append((event, level, count))

    invalid, full = refused(protocol.INVALID), refused(protocol.DISK_FULL)
    async with connected(tmp_path, answering(invalid + full + ack(0) + invalid), log=log) as client:
        answers = [append(client, [small(n) for n in range(count)]) for count in (2, 1, 1, 3)]
        assert [await reason(answers[at]) for at in (0, 1, 3)] == ["log_refused"] * 3
        assert said == [("append-refused", "error", 5)]  # what is full says so itself


async def test_a_callback_that_raises_keeps_nobody_from_an_answer_and_shifts_none():
    client = AuditClient(Path("nowhere"), backlog_bytes_max=1, append_timeout_ms=1000)
    loop = client._loop = asyncio.get_running_loop()
    reported = []
    loop.set_exception_handler(lambda _, context: reported.append(context["exception"]))
    told = []

    def raises(answer):
        raise ValueError("a bug of the caller's")

    for done in (raises, told.append, raises, told.append):
        client._pending.append(client_module._Pending(1, 0, 0.0, done))
    client._heard(protocol.reply(protocol.ACK, 2, 100) + protocol.reply(protocol.ACK, 1, 102))
    assert [answer.first_index for answer in told] == [101]
    client._hang_up()
    assert [type(answer).__name__ for answer in told] == ["Receipt", "AuditUnavailable"]
    assert client._lost.is_set()
    assert len(reported) == 2


async def test_an_idle_recorder_gets_its_entries_at_once_and_a_busy_one_those_of_a_turn_together(tmp_path):
    loop = asyncio.get_running_loop()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "s"))
        listener.listen()
        listener.setblocking(False)
        client = client_at(tmp_path / "s")
        connecting = asyncio.create_task(client.connect())
        recorder, _ = await loop.sock_accept(listener)
        with recorder:
            recorder.setblocking(False)
            recorder.send(HELLO)
            await connecting
            waiting = [append(client, [small(0)])]
            first = recorder.recv(1 << 16)  # in the same turn: nothing else has run
            assert len(protocol.split_messages(first, 1 << 16)[0]) == 1
            waiting += [append(client, [small(number)]) for number in (1, 2)]
            with pytest.raises(BlockingIOError):
                recorder.recv(1 << 16)
            async with asyncio.timeout(20):
                rest = await loop.sock_recv(recorder, 1 << 16)
            assert len(protocol.split_messages(rest, 1 << 16)[0]) == 2
            recorder.send(protocol.reply(protocol.ACK, 3, 0))
            async with asyncio.timeout(20):
                assert [receipt.first_index for receipt in await asyncio.gather(*waiting)] == [0, 1, 2]
            await client.close()
