"""What the bridge says of the cluster, without one."""

from __future__ import annotations

import asyncio

from serving import ray_bridge
from serving.ray_bridge import Bridge
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
    monkeypatch.setattr(ray_bridge, "LOOK_S", 0)
    monkeypatch.setattr(ray_bridge, "BEAT_S", 0.001, raising=False)
    heard = Heard(enough=3)
    watch = asyncio.create_task(Bridge(RaySettings(address="127.0.0.1:1"), heard)._watch())
    await asyncio.wait_for(heard.enough.wait(), 60)
    watch.cancel()
    for frame in heard.frames:
        assert parse_header(frame[:HEADER_BYTES]).kind is Kind.STATUS
        assert parse_status(frame[HEADER_BYTES:]).applications == seen
