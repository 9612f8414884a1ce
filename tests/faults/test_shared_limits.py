"""Redis is gone, hangs, is slow, forgets, refuses or talks nonsense: every spend has one answer, and is sent once."""

from __future__ import annotations

import asyncio
import io
import json
import socket
import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest

from gateway.admission import shared
from gateway.admission.limiter import Bucket, Rule
from gateway.admission.shared import LedgerFailed, SharedLimiter, share_of
from gateway.errors import LimitsUnavailable
from ops.process.logging import configure
from tests.gateway.admission.stepped import ledger_at, limiter_at
from tests.gateway.rig import until
from tests.redis_server import RedisServer, common_server, needs_redis, redis_server

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    Talk = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]

pytestmark = needs_redis
HOUR_NS = 3_600_000_000_000
IMPATIENT_S = 0.5
BUCKET = Bucket("principal-requests/a", Rule("principal-requests", HOUR_NS, 10))
ONE = ((BUCKET, 1),)


@pytest.fixture(autouse=True)
def _hurried(monkeypatch):
    monkeypatch.setattr(shared, "LOOK_EVERY_S", 0.02)
    monkeypatch.setattr(shared, "BACKOFF_S", (0.01, 0.05))


@pytest.fixture
def server():
    with redis_server() as running:
        yield running


@asynccontextmanager
async def limiter_on(url: str, *, share: float | None = None, **access: Any) -> AsyncIterator[SharedLimiter]:
    """A limiter that has tried to reach its ledger once. Its log is in `written`."""
    written = io.StringIO()
    ledger = ledger_at(url, **access)
    limiter = limiter_at(ledger, clock_ns=time.monotonic_ns, log=configure("info", written, format="json"))
    limiter.written = written
    limiter.ledger = ledger
    limiter.while_away(share)
    await limiter.start()
    try:
        yield limiter
    finally:
        await limiter.close()


class Watched(SharedLimiter):
    """With its log, and its ledger, for whoever tests it."""

    written: io.StringIO
    ledger: Any


def told(limiter: Any, event: str) -> list[str]:
    """The reasons of an event, in the log."""
    lines = [json.loads(line) for line in limiter.written.getvalue().splitlines()]
    return [line.get("reason", "") for line in lines if line["event"] == event]


async def spent(limiter: SharedLimiter, times: int) -> list[str]:
    """What became of as many spends at once."""

    async def one() -> str:
        try:
            decision = await limiter.take(ONE)
        except LimitsUnavailable as refusal:
            return "unavailable" if refusal.retry_after_ms > 0 else "no pushback"
        if decision is None:
            return "share stands"
        return ("admit " if decision.admitted else "refuse ") + decision.rule

    return await asyncio.gather(*[one() for _ in range(times)])


async def left(server: RedisServer) -> int:
    """Units of BUCKET that the server still has."""
    async with limiter_on(server.url) as asking:
        decision = await asking.take(((BUCKET, 0),))
        assert decision is not None
        return decision.remaining


async def test_a_server_that_forgot_the_script_is_given_it_and_charges_once(server):
    async with limiter_on(server.url) as limiter:
        assert await spent(limiter, 2) == ["admit principal-requests"] * 2
        server.ask("SCRIPT", "FLUSH")
        assert await spent(limiter, 3) == ["admit principal-requests"] * 3
        assert limiter.up
        assert limiter.observed().failures == {}
    assert await left(server) == 5


async def test_a_server_that_hangs_answers_nobody_and_charges_at_most_once(server, monkeypatch):
    monkeypatch.setattr(shared, "LOOK_EVERY_S", 60.0)
    async with limiter_on(server.url, timeout_s=IMPATIENT_S) as limiter:
        assert await spent(limiter, 1) == ["admit principal-requests"]
        server.pause()
        on_their_way = asyncio.create_task(spent(limiter, 3))
        for _ in range(10):  # turns of the loop: the three wait, and are sent
            await asyncio.sleep(0)
        assert not limiter._waiting
        behind = asyncio.create_task(spent(limiter, 2))
        async with asyncio.timeout(20):
            assert await on_their_way == ["unavailable"] * 3
            assert await behind == ["unavailable"] * 2
        assert not limiter.up
        assert told(limiter, "shared-limits-lost") == ["timeout"]
        assert await spent(limiter, 2) == ["unavailable"] * 2, "nobody waits for what is known to be away"
        server.resume()
        await until(lambda: limiter.up)
        assert await spent(limiter, 1) == ["admit principal-requests"]
    # The three may have been charged when the server woke up: they were on their way. The others were never sent.
    assert await left(server) in {5, 8}


async def test_after_a_silence_only_a_new_connection_helps(server):
    ledger = ledger_at(server.url, timeout_s=IMPATIENT_S)
    await ledger.connect()
    server.pause()
    for kind in ("timeout", "unreachable"):
        with pytest.raises(LedgerFailed) as failed:
            await ledger.exchange([ONE])
        assert failed.value.kind == kind
    server.resume()
    await ledger.connect()
    assert (await ledger.exchange([ONE]))[0][0] == 1
    await ledger.close()


async def test_a_killed_server_is_told_what_was_spent(server):
    async with limiter_on(server.url) as one, limiter_on(server.url) as other:
        assert await spent(one, 3) == ["admit principal-requests"] * 3
        assert await spent(other, 4) == ["admit principal-requests"] * 4
        server.stop()
        await until(lambda: not one.up and not other.up)
        assert await spent(one, 1) == ["unavailable"]
        server.start()
        await until(lambda: one.up and other.up)
        assert told(one, "shared-limits-lost") == ["unreachable"]
        await until(lambda: len(told(one, "shared-limits-back")) == 1)
        assert await spent(one, 4) == ["admit principal-requests"] * 3 + ["refuse principal-requests"]


async def test_a_spend_that_comes_while_the_server_is_told_is_not_forgotten(server, monkeypatch):
    coming: list[asyncio.Task[Any]] = []
    async with limiter_on(server.url, share=1.0) as limiter:
        assert await spent(limiter, 1) == ["admit principal-requests"]
        server.stop()
        await until(lambda: not limiter.up)
        exchange = limiter.ledger.exchange

        async def meanwhile(spends: Any, known: Any = ()) -> Any:
            if known and not coming:
                assert limiter.spend(ONE, time.monotonic_ns()).admitted
                coming.append(asyncio.create_task(limiter.take(ONE)))
                await asyncio.sleep(0)
            return await exchange(spends, known)

        monkeypatch.setattr(limiter.ledger, "exchange", meanwhile)
        server.start()
        await until(lambda: limiter.up and coming)
        await coming[0]
    assert await left(server) == 8


@pytest.mark.parametrize(("heard", "once_more"), [(True, 0), (False, 1)])
async def test_shares_admit_no_more_than_the_limit_across_an_outage(server, heard, once_more):
    """But for the share of what the other has spent since one was told last: here half of two."""
    async with limiter_on(server.url, share=0.5) as one, limiter_on(server.url, share=0.5) as other:
        assert await spent(one, 2) == ["admit principal-requests"] * 2
        assert await spent(other, 2) == ["admit principal-requests"] * 2
        if heard:
            assert (await one.take(((BUCKET, 0),))).remaining == 6
        server.stop()
        await until(lambda: not one.up and not other.up)
        admitted = 4
        for limiter in (one, other):
            here = [limiter.spend(ONE, time.monotonic_ns()) for _ in range(10)]
            assert {decision.rule for decision in here} == {"principal-requests/local-share"}
            admitted += sum(decision.admitted for decision in here)
            assert await spent(limiter, 1) == ["share stands"]
        assert admitted == 10 + once_more
        server.start()
        await until(lambda: one.up and other.up)
        outcomes = await spent(one, 10) + await spent(other, 10)
        assert outcomes == ["refuse principal-requests"] * 20


async def test_a_spend_under_way_when_the_server_dies_is_held_to_the_share(server):
    async with limiter_on(server.url, share=0.5, timeout_s=IMPATIENT_S) as limiter:
        server.pause()
        outcomes = await spent(limiter, 8)
        server.resume()
        assert outcomes.count("admit principal-requests/local-share") == 5
        assert outcomes.count("refuse principal-requests/local-share") == 3


async def test_a_wrong_password_is_said_to_be_one(server):
    server.ask("CONFIG", "SET", "requirepass", "open sesame")
    async with limiter_on(server.url) as without, limiter_on(server.url, password="guessed") as wrong:
        assert not without.up
        assert not wrong.up
        assert told(without, "shared-limits-lost") == told(wrong, "shared-limits-lost") == ["credentials"]
        assert "sesame" not in wrong.written.getvalue()
        assert "guessed" not in wrong.written.getvalue()
    async with limiter_on(server.url, password="open sesame") as right:
        assert await spent(right, 1) == ["admit principal-requests"]


async def test_over_tls_only_a_server_that_the_authority_vouches_for_is_believed(made_site):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    tls = made_site.directory / "tls"
    options = ("--tls-port", str(port), "--tls-auth-clients", "no", "--tls-ca-cert-file", str(tls / "ca.crt"))
    pair = ("--tls-cert-file", str(tls / "server.crt"), "--tls-key-file", str(tls / "server.key"))
    with redis_server(*options, *pair):
        async with limiter_on(f"rediss://localhost:{port}", ca=str(tls / "ca.crt")) as limiter:
            assert await spent(limiter, 1) == ["admit principal-requests"]
        async with limiter_on(f"rediss://localhost:{port}") as limiter:
            assert told(limiter, "shared-limits-lost")[:1] == ["tls"]
        async with limiter_on(f"redis://localhost:{port}", timeout_s=IMPATIENT_S) as limiter:
            assert not limiter.up


async def test_a_user_who_may_not_run_scripts_is_said_to_be_one_and_the_documented_one_may(server):
    server.ask("ACL", "SETUSER", "reader", "on", ">pw", "~*", "+get", "+ping")
    server.ask("ACL", "SETUSER", "gateway", "on", ">pw", "resetkeys", "~stockade:*", *RIGHTS)
    async with limiter_on(server.url, username="reader", password="pw") as limiter:
        assert told(limiter, "shared-limits-lost") == ["credentials"]
    async with limiter_on(server.url, username="gateway", password="pw") as limiter:
        assert await spent(limiter, 1) == ["admit principal-requests"]


RIGHTS = ("-@all", "+evalsha", "+eval", "+time", "+mget", "+set", "+client|setinfo")


async def test_a_replica_and_a_full_server_refuse_and_say_so(server):
    for make, mend in (
        (("REPLICAOF", "127.0.0.1", "1"), ("REPLICAOF", "NO", "ONE")),
        (("CONFIG", "SET", "maxmemory", "1"), ("CONFIG", "SET", "maxmemory", "0")),
    ):
        async with limiter_on(server.url) as limiter:
            server.ask(*make)
            assert await spent(limiter, 1) == ["unavailable"]
            assert told(limiter, "shared-limits-lost") == ["refused"]
            server.ask(*mend)
            await until(lambda limiter=limiter: limiter.up)


@asynccontextmanager
async def talking(talk: Talk) -> AsyncIterator[str]:
    """A server that says what `talk` says."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await talk(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    listening = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield f"redis://127.0.0.1:{listening.sockets[0].getsockname()[1]}"
    finally:
        listening.close()


NONSENSE = {
    "HTTP": b"HTTP/1.1 400 Bad Request\r\n\r\n",
    "noise": bytes(range(256)),
    "a number": b":7\r\n" * 50,
    "endless": b"$900000000\r\n" + b"x" * 100_000,
    "no line end": b"+" + b"y" * 200_000,
    "nothing": b"",
}


@pytest.mark.parametrize("said", NONSENSE.values(), ids=NONSENSE)
async def test_what_does_not_speak_redis_admits_nobody(said):
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(said)
        await writer.drain()
        while said and await reader.read(4096):
            pass

    async with talking(talk) as url, limiter_on(url, timeout_s=IMPATIENT_S) as limiter:
        assert not limiter.up
        (reason,) = told(limiter, "shared-limits-lost")[:1]
        assert reason in {"wrong-answer", "unreachable", "timeout"}
        assert await spent(limiter, 2) == ["unavailable"] * 2


LIES = {  # what a server answers to one spend on one bucket: msgpack of [[admitted, debt]]
    "no spend": b"\x90",
    "two spends": b"\x92\x92\x01\x00\x92\x01\x00",
    "no charge": b"\x91\x91\x01",
    "a debt below zero": b"\x91\x92\x01\xff",
    "a debt beyond the bucket": b"\x91\x92\x00\xcf\x7f\xff\xff\xff\xff\xff\xff\xff",
    "a text": b"\x91\x92\x01\xa1x",
    "refused with all the room there is": b"\x91\x92\x00\x00",
    "admitted with none": b"\x91\x92\x01\xcf" + BUCKET.rule.burst_ns.to_bytes(8, "big"),
    "half": b"\x91\x92",
    "a fraction": b"\x91\x92\x01\xcb" + b"\x3f\xf8" + bytes(6),
}


@pytest.mark.parametrize("lie", LIES.values(), ids=LIES)
async def test_an_answer_that_cannot_be_true_admits_nobody(server, lie, monkeypatch):
    """The real server's until the first spend; then an answer that only looks like one."""
    monkeypatch.setattr(shared, "LOOK_EVERY_S", 60.0)
    spoilt = {2: b"$%d\r\n%s\r\n" % (len(lie), lie)}
    async with proxied(server, replace=spoilt) as (url, _), limiter_on(url) as limiter:
        assert limiter.up
        assert await spent(limiter, 1) == ["unavailable"]
        assert told(limiter, "shared-limits-lost")[:1] == ["wrong-answer"]


@asynccontextmanager
async def proxied(
    server: RedisServer, *, replace: dict[int, bytes] | None = None, late: set[int] = frozenset(), cut: int = 0
) -> AsyncIterator[tuple[str, list[int]]]:
    """The server behind a proxy that counts the EVALSHAs of its first connection, and spoils the answers to some.

    `replace`: number of the EVALSHA, from 1 -> the answer instead. `late`: these are answered when nobody waits any
    more. `cut`: hang up when this one was answered, unsaid.
    """
    seen: list[int] = []
    connections = 0

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        first = connections == 1
        theirs, ours = await asyncio.open_unix_connection(str(server.socket))
        try:
            while asked := await reader.read(1 << 20):
                spending = b"EVALSHA" in asked
                if spending:
                    seen.append(connections)
                ours.write(asked)
                answer = await theirs.read(1 << 20)
                if spending and len(seen) in late:
                    await asyncio.sleep(2 * IMPATIENT_S)
                if first and spending and len(seen) == cut:
                    return
                writer.write((replace or {}).get(len(seen), answer) if first and spending else answer)
        finally:
            ours.close()

    async with talking(talk) as url:
        yield url, seen


async def test_a_connection_cut_before_the_answer_loses_and_doubles_nothing(server, monkeypatch):
    """The spend was charged and nobody knows. It is refused, not sent again: once charged, never admitted."""
    monkeypatch.setattr(shared, "LOOK_EVERY_S", 60.0)
    async with proxied(server, cut=2) as (url, seen), limiter_on(url) as limiter:
        assert await spent(limiter, 1) == ["unavailable"]
        assert seen.count(1) == 2, "the look at the start, and the spend"
        await until(lambda: limiter.up)
        assert await spent(limiter, 1) == ["admit principal-requests"]
    assert await left(server) == 8


async def test_an_answer_that_comes_too_late_is_nobodys(server, monkeypatch):
    """The connection goes with it: what is asked next is answered on another, with an answer of its own."""
    monkeypatch.setattr(shared, "LOOK_EVERY_S", 60.0)
    late = {2}
    async with proxied(server, late=late) as (url, seen), limiter_on(url, timeout_s=IMPATIENT_S) as limiter:
        assert await spent(limiter, 1) == ["unavailable"]
        assert told(limiter, "shared-limits-lost") == ["timeout"]
        await until(lambda: limiter.up)
        decision = await limiter.take(((BUCKET, 9),))
        assert (decision.admitted, decision.remaining) == (True, 0), (
            "the late one was charged, and its answer not taken"
        )
        assert set(seen) == {1, 2}


async def test_a_server_that_is_always_too_slow_never_counts_as_there(server):
    async with proxied(server, late=set(range(100))) as (url, _), limiter_on(url, timeout_s=IMPATIENT_S) as limiter:
        assert not limiter.up
        assert told(limiter, "shared-limits-lost") == ["timeout"]


async def test_who_hangs_up_while_waiting_disturbs_nobody(server, monkeypatch):
    monkeypatch.setattr(shared, "LOOK_EVERY_S", 60.0)
    async with limiter_on(server.url) as limiter:
        server.pause()
        given_up = [asyncio.create_task(limiter.take(ONE)) for _ in range(3)]
        await asyncio.sleep(0)
        await until(lambda: not limiter._waiting)
        late = [asyncio.create_task(limiter.take(ONE)) for _ in range(4)]
        await asyncio.sleep(0)
        for task in (*given_up, *late[:2]):
            task.cancel()
        server.resume()
        assert [(await task).admitted for task in late[2:]] == [True, True]
        assert limiter.up
    assert await left(server) == 3, "all seven are charged: leaving early makes nothing free"


async def test_a_fault_of_our_own_ends_no_more_than_the_spends_it_met(server, monkeypatch):
    async with limiter_on(server.url) as limiter:
        exchange = limiter.ledger.exchange
        faults = iter([KeyError("a bug")])

        async def faulty(*arguments: Any) -> Any:
            for fault in faults:
                raise fault
            return await exchange(*arguments)

        monkeypatch.setattr(limiter.ledger, "exchange", faulty)
        await until(lambda: told(limiter, "shared-limits-lost"))
        assert told(limiter, "shared-limits-lost") == ["internal"]
        await until(lambda: limiter.up)
        assert await spent(limiter, 1) == ["admit principal-requests"]


async def test_what_waits_travels_together(server):
    async with limiter_on(server.url) as limiter:
        before = calls(server)
        outcomes = await spent(limiter, 600)
        assert outcomes.count("admit principal-requests") == 10
        assert outcomes.count("refuse principal-requests") == 590
        assert calls(server) - before <= 5, "256 at most in one, and a look or two"


def calls(server: RedisServer) -> int:
    stats = server.ask("INFO", "commandstats")
    return next((int(row["calls"]) for name, row in stats.items() if name == "cmdstat_evalsha"), 0)


async def test_a_limiter_that_closes_answers_those_who_wait(server):
    async with limiter_on(server.url) as limiter:
        server.pause()
        waiting = [asyncio.create_task(limiter.take(ONE)) for _ in range(3)]
        await asyncio.sleep(0)
        await limiter.close()
        server.resume()
        for task in waiting:
            with pytest.raises(LimitsUnavailable):
                await task


async def test_nothing_is_asked_without_a_connection():
    with pytest.raises(LedgerFailed) as failed:
        await ledger_at(common_server().url).exchange([ONE])
    assert failed.value.kind == "unreachable"


@pytest.mark.parametrize(
    ("share", "burst", "interval_ns"),
    [(1.0, 10, HOUR_NS), (0.5, 5, 2 * HOUR_NS), (0.25, 2, 4 * HOUR_NS), (0.05, 1, 20 * HOUR_NS)],
)
def test_a_share_is_never_generous(share, burst, interval_ns):
    rule = share_of(BUCKET, share).rule
    assert (rule.burst, rule.interval_ns) == (burst, interval_ns)
    assert rule.name == "principal-requests/local-share"


def test_a_share_of_the_slowest_rule_is_a_rule():
    slow = Bucket("k", Rule("slow", shared.BURST_NS_MAX, 1))
    assert share_of(slow, 0.001).rule.burst_ns == shared.BURST_NS_MAX
