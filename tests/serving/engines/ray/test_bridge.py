"""What the bridge says of the cluster, without one."""

from __future__ import annotations

import asyncio
from itertools import repeat

import pytest

from serving.engines.ray import bridge as ray_bridge
from serving.engines.ray.bridge import Bridge
from serving.engines.ray.frames import HEADER_BYTES, ApplicationStatus, Kind, parse_header, parse_status

WHOLE = {"stockade-tiny-1": ApplicationStatus("RUNNING", 2, wanted=2)}
SHORT = {"stockade-tiny-1": ApplicationStatus("RUNNING", 1, wanted=2)}
OTHER = {"stockade-tiny-1": ApplicationStatus("RUNNING", 3, wanted=3)}


class Heard:
    """The worker's end: keeps what is said, and has `enough` of it."""

    def __init__(self, enough=0):
        self.frames = []
        self._wanted = enough
        self.enough = asyncio.Event()

    def is_closing(self):
        return False

    def write(self, frame):
        self.frames.append(frame)
        if len(self.frames) >= self._wanted:
            self.enough.set()

    async def drain(self):
        """Take all that was written."""


class Stuck(Heard):
    """A worker that reads no more."""

    async def drain(self):
        await asyncio.Event().wait()


class Answering:
    """A cluster that is seen as one of these after the other, and is then slow; a request is its own answer."""

    def __init__(self, looks=(), kind=Kind.ANSWER):
        self._looks = iter(looks)
        self._kind = kind

    async def look(self, *, with_digests):
        for seen in self._looks:
            if isinstance(seen, Exception):
                raise seen
            return seen
        return await asyncio.Event().wait()

    async def ask(self, application, model, body):
        return self._kind, body


async def test_what_was_seen_last_is_said_again_while_the_cluster_is_slow(monkeypatch):
    monkeypatch.setattr(ray_bridge, "LOOK_MIN_S", 0)
    monkeypatch.setattr(ray_bridge, "BEAT_S", 0.001)
    heard = Heard(enough=3)
    watch = asyncio.create_task(Bridge(Answering([WHOLE]), heard)._watch())
    await asyncio.wait_for(heard.enough.wait(), 60)
    watch.cancel()
    for frame in heard.frames:
        assert parse_header(frame[:HEADER_BYTES]).kind is Kind.STATUS
        assert parse_status(frame[HEADER_BYTES:]).applications == WHOLE


@pytest.mark.parametrize("worker", [Heard, Stuck])
async def test_a_bridge_whose_cluster_is_gone_says_so_and_ends_even_where_nobody_reads(worker, monkeypatch):
    ended = []

    def leave(code):
        ended.append(code)
        raise asyncio.CancelledError

    monkeypatch.setattr(ray_bridge, "LOOK_MIN_S", 0)
    monkeypatch.setattr(ray_bridge, "SEND_TIMEOUT_S", 0.001)
    monkeypatch.setattr(ray_bridge, "leave", leave)
    heard = worker()
    with pytest.raises(asyncio.CancelledError):
        await Bridge(Answering([OSError("gone")] * ray_bridge.LOOKS_FAILED_MAX), heard)._watch()
    assert ended == [ray_bridge.EX_LOST]
    assert parse_status(heard.frames[-1][HEADER_BYTES:]).problem == "the cluster does not answer: gone"


async def test_a_reply_that_no_frame_takes_is_a_fault_and_not_silence(monkeypatch):
    monkeypatch.setattr(ray_bridge, "BODY_BYTES_MAX", 4)
    heard = Heard()
    bridge = Bridge(Answering(), heard)
    await bridge._answer(7, "stockade-tiny-1|", b"four")
    await bridge._answer(8, "stockade-tiny-1|", b"fives")
    headers = [parse_header(frame[:HEADER_BYTES]) for frame in heard.frames]
    assert [(each.kind, each.call) for each in headers] == [(Kind.ANSWER, 7), (Kind.FAULT, 8)]


async def pauses(monkeypatch, looks, count):
    """The first pauses between looks that see these."""
    found, enough = [], asyncio.Event()

    async def rest(_bridge, pause_s, _said):
        found.append(pause_s)
        if len(found) == count:
            enough.set()
            await asyncio.Event().wait()

    monkeypatch.setattr(Bridge, "_rest", rest)
    watch = asyncio.create_task(Bridge(Answering(looks), Heard())._watch())
    await asyncio.wait_for(enough.wait(), 60)
    watch.cancel()
    return found


async def test_serve_is_asked_more_and_more_seldom_while_nothing_changes(monkeypatch):
    assert await pauses(monkeypatch, repeat(WHOLE), 7) == [0.5, 1, 2, 4, 5, 5, 5]


@pytest.mark.parametrize("seen", [SHORT, {}, {"stockade-tiny-1": ApplicationStatus("DEPLOYING")}])
async def test_serve_is_asked_often_while_a_replica_is_missing(monkeypatch, seen):
    assert await pauses(monkeypatch, repeat(seen), 4) == [0.5] * 4


async def test_serve_is_asked_often_again_when_something_changes_or_it_does_not_answer(monkeypatch):
    looks = [WHOLE, WHOLE, WHOLE, OTHER, OTHER, OSError("gone"), OTHER]
    assert await pauses(monkeypatch, looks, 7) == [0.5, 1, 2, 0.5, 1, 0.5, 1]


@pytest.fixture
def resting(monkeypatch):
    """A bridge that says what it knows without a pause and loses every call, and what it said."""
    monkeypatch.setattr(ray_bridge, "LOOK_MIN_S", 0)
    monkeypatch.setattr(ray_bridge, "BEAT_S", 0.001)
    heard = Heard(enough=3)
    return Bridge(Answering(kind=Kind.LOST), heard), heard


async def test_a_bridge_that_rests_says_what_it_knows_and_a_lost_call_ends_the_rest(resting):
    bridge, heard = resting
    rest = asyncio.create_task(bridge._rest(3600, b"{}"))
    await asyncio.wait_for(heard.enough.wait(), 60)
    assert not rest.done()
    await bridge._answer(1, "stockade-tiny-1|", b"gone")
    await asyncio.wait_for(rest, 60)
    assert not bridge._trouble.is_set()


async def test_a_call_that_takes_long_ends_the_rest(resting):
    bridge, heard = resting
    rest = asyncio.create_task(bridge._rest(3600, b"{}"))
    bridge._running[rest] = asyncio.get_running_loop().time()
    await asyncio.wait_for(heard.enough.wait(), 60)
    bridge._running[rest] -= 2 * ray_bridge.SLOW_CALL_S
    await asyncio.wait_for(rest, 60)
