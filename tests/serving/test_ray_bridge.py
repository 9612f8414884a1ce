"""What the bridge says of the cluster, without one."""

from __future__ import annotations

import asyncio
import time
from enum import Enum
from itertools import repeat

import pytest

from serving import ray_bridge
from serving.ray_bridge import Bridge, state_of
from serving.ray_frames import HEADER_BYTES, ApplicationStatus, Kind, parse_header, parse_status
from serving.ray_settings import RaySettings


class Heard:
    """The worker's end: keeps what is said, and has `enough` of it."""

    def __init__(self, enough):
        self.frames = []
        self._wanted = enough
        self.enough = asyncio.Event()

    def is_closing(self):
        return False

    def write(self, frame):
        self.frames.append(frame)
        if len(self.frames) >= self._wanted:
            self.enough.set()


async def test_what_was_seen_last_is_said_again_while_the_cluster_is_slow(monkeypatch):
    seen = {"stockade-tiny-1": ApplicationStatus("RUNNING", 1)}
    answers = iter([seen])

    async def look(_bridge, *, with_digests):
        for answer in answers:
            return answer
        return await asyncio.Event().wait()

    monkeypatch.setattr(Bridge, "_look", look)
    monkeypatch.setattr(ray_bridge, "LOOK_MIN_S", 0)
    monkeypatch.setattr(ray_bridge, "BEAT_S", 0.001, raising=False)
    heard = Heard(enough=3)
    watch = asyncio.create_task(Bridge(RaySettings(address="127.0.0.1:1"), heard)._watch())
    await asyncio.wait_for(heard.enough.wait(), 60)
    watch.cancel()
    for frame in heard.frames:
        assert parse_header(frame[:HEADER_BYTES]).kind is Kind.STATUS
        assert parse_status(frame[HEADER_BYTES:]).applications == seen


def test_status_waits_as_long_as_it_says_and_names_what_did_not_answer(monkeypatch):
    monkeypatch.setattr(ray_bridge, "connect", lambda _address: None)
    monkeypatch.setattr(ray_bridge, "deployed_applications", lambda: time.sleep(0.5))
    monkeypatch.setattr(ray_bridge, "STATUS_TIMEOUT_S", 0.01)
    with pytest.raises(TimeoutError, match=r"controller said nothing for 0\.01 s"):
        ray_bridge.run_status(RaySettings(address="127.0.0.1:1"))


async def test_a_reply_that_no_frame_takes_is_a_fault_and_not_silence(monkeypatch):
    async def ask(_bridge, application, model, body):
        return Kind.ANSWER, body

    monkeypatch.setattr(Bridge, "_ask", ask)
    monkeypatch.setattr(ray_bridge, "BODY_BYTES_MAX", 4)
    heard = Heard(enough=2)
    bridge = Bridge(RaySettings(address="127.0.0.1:1"), heard)
    await bridge._answer(7, "stockade-tiny-1|", b"four")
    await bridge._answer(8, "stockade-tiny-1|", b"fives")
    headers = [parse_header(frame[:HEADER_BYTES]) for frame in heard.frames]
    assert [(each.kind, each.call) for each in headers] == [(Kind.ANSWER, 7), (Kind.FAULT, 8)]


WHOLE = {"stockade-tiny-1": ApplicationStatus("RUNNING", 2, wanted=2)}
SHORT = {"stockade-tiny-1": ApplicationStatus("RUNNING", 1, wanted=2)}


async def pauses(monkeypatch, answers, count):
    """The first pauses between looks that see these."""
    found, enough = [], asyncio.Event()

    async def look(_bridge, *, with_digests):
        answer = next(answers)
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def rest(_bridge, pause_s, _said):
        found.append(pause_s)
        if len(found) == count:
            enough.set()
            await asyncio.Event().wait()

    monkeypatch.setattr(Bridge, "_look", look)
    monkeypatch.setattr(Bridge, "_rest", rest)
    watch = asyncio.create_task(Bridge(RaySettings(address="127.0.0.1:1"), Heard(0))._watch())
    await asyncio.wait_for(enough.wait(), 60)
    watch.cancel()
    return found


async def test_serve_is_asked_more_and_more_seldom_while_nothing_changes(monkeypatch):
    assert await pauses(monkeypatch, repeat(WHOLE), 7) == [0.5, 1, 2, 4, 5, 5, 5]


@pytest.mark.parametrize("seen", [SHORT, {}, {"stockade-tiny-1": ApplicationStatus("DEPLOYING")}])
async def test_serve_is_asked_often_while_a_replica_is_missing(monkeypatch, seen):
    assert await pauses(monkeypatch, repeat(seen), 4) == [0.5] * 4


async def test_serve_is_asked_often_again_when_something_changes_or_it_does_not_answer(monkeypatch):
    other = {"stockade-tiny-1": ApplicationStatus("RUNNING", 3, wanted=3)}
    answers = iter([WHOLE, WHOLE, WHOLE, other, other, OSError("gone"), other])
    assert await pauses(monkeypatch, answers, 7) == [0.5, 1, 2, 0.5, 1, 0.5, 1]


@pytest.fixture
def resting(monkeypatch):
    """A bridge that says what it knows without a pause, and what it said."""
    monkeypatch.setattr(ray_bridge, "LOOK_MIN_S", 0)
    monkeypatch.setattr(ray_bridge, "BEAT_S", 0.001)
    heard = Heard(enough=3)
    return Bridge(RaySettings(address="127.0.0.1:1"), heard), heard


async def test_a_bridge_that_rests_says_what_it_knows_and_a_lost_call_ends_the_rest(resting):
    bridge, heard = resting
    rest = asyncio.create_task(bridge._rest(3600, b"{}"))
    await asyncio.wait_for(heard.enough.wait(), 60)
    assert not rest.done()

    async def lost(*_):
        return Kind.LOST, b"gone"

    bridge._ask = lost
    await bridge._answer(1, "stockade-tiny-1|", b"")
    await asyncio.wait_for(rest, 60)
    assert not bridge._trouble.is_set()


async def test_a_call_that_takes_long_ends_the_rest(resting):
    bridge, heard = resting
    rest = asyncio.create_task(bridge._rest(3600, b"{}"))
    bridge._running[rest] = asyncio.get_running_loop().time()
    await asyncio.wait_for(heard.enough.wait(), 60)
    bridge._running[rest] -= 2 * ray_bridge.SLOW_CALL_S
    await asyncio.wait_for(rest, 60)


class Said(str, Enum):  # noqa: UP042  as Serve has them: str() of one is not its value
    """What Serve says of an application, and of a replica."""

    DEPLOYING = "DEPLOYING"
    RUNNING = "RUNNING"
    STARTING = "STARTING"
    STOPPING = "STOPPING"


def test_what_serve_says_of_an_application_is_what_it_wants_and_what_runs():
    states = [Said.RUNNING, Said.RUNNING, Said.STARTING, Said.STOPPING]
    deployment = {"message": "", "target_num_replicas": 3, "replicas": [{"state": state} for state in states]}
    application = {"status": Said.DEPLOYING, "message": "starts", "deployments": {"model": deployment}}
    assert state_of(application) == ApplicationStatus("DEPLOYING", 2, "starts", wanted=3)
