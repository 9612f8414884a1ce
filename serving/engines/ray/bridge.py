"""The Ray driver of a gateway worker, in a process of its own: `python -m serving.engines.ray.bridge FD SETTINGS`.

Why a process: see `serving.engines.ray.cluster`. The worker speaks with it in the frames of
`serving.engines.ray.frames` and never imports Ray.

Rules:
- One call of a replica for each INFER frame, many at once. A call is repeated once, and only when its replica died or
  could not be reached: a model is a pure function, so what the dead one may have done does no harm.
- A model's failure, and a call that is late, are not repeated.
- Serve's controller is one process for all gateways, so it is asked seldom while nothing changes: after 0.5 s, then
  1, 2, 4 and at last 5. It is asked again within a second when a call is lost, late or takes long, and often while a
  replica is missing.
- When the worker is gone (its end of the socket closes), or the cluster is (Serve does not answer three times), this
  process ends at once. The worker starts it again.
"""

from __future__ import annotations

import asyncio
import socket
import sys
from collections.abc import Mapping
from contextlib import suppress
from typing import NoReturn

import msgspec
import uvloop

from serving.engines.ray.cluster import Cluster, connect, leave
from serving.engines.ray.frames import (
    BODY_BYTES_MAX,
    HEADER_BYTES,
    ApplicationStatus,
    BadFrame,
    Kind,
    Status,
    pack_frame,
    parse_header,
)
from serving.engines.ray.settings import RaySettings

LOOK_MIN_S = 0.5
LOOK_MAX_S = 5.0
BEAT_S = 1.0
SLOW_CALL_S = 1.0
SEND_TIMEOUT_S = 5.0
LOOKS_FAILED_MAX = 3
DIGEST_EVERY_LOOKS = 10
EX_LOST = 75


class Bridge:
    """Takes requests from the worker and brings back what replicas answer."""

    def __init__(self, cluster: Cluster, writer: asyncio.StreamWriter) -> None:
        self._cluster = cluster
        self._writer = writer
        self._running: dict[asyncio.Task[None], float] = {}  # when each call began, the oldest first
        self._trouble = asyncio.Event()  # a call was lost or late since Serve was asked

    async def run(self, reader: asyncio.StreamReader) -> NoReturn:
        """Serve until the worker or the cluster is gone."""
        watch = asyncio.create_task(self._watch())
        try:
            while True:
                header = parse_header(await reader.readexactly(HEADER_BYTES))
                target = (await reader.readexactly(header.target_bytes)).decode()
                body = await reader.readexactly(header.body_bytes)
                task = asyncio.create_task(self._answer(header.call, target, body))
                self._running[task] = asyncio.get_running_loop().time()
                task.add_done_callback(self._running.pop)
        except (asyncio.IncompleteReadError, ConnectionError, BadFrame, UnicodeDecodeError):
            watch.cancel()
            leave(0)

    async def _answer(self, call: int, target: str, body: bytes) -> None:
        application, _, model = target.partition("|")
        kind, reply = await self._cluster.ask(application, model, body)
        if kind in {Kind.LOST, Kind.LATE}:
            self._trouble.set()
        if len(reply) > BODY_BYTES_MAX:
            kind, reply = Kind.FAULT, f"the reply has {len(reply)} bytes, {BODY_BYTES_MAX} are allowed".encode()
        self._send(kind, call, reply)

    def _send(self, kind: Kind, call: int, body: bytes) -> None:
        if not self._writer.is_closing():
            self._writer.write(pack_frame(kind, call, body))

    async def _watch(self) -> None:
        """Tell the worker what Serve says, and leave when it says nothing any more."""
        failed, looks, pause_s, said = 0, 0, LOOK_MIN_S, b""
        while True:
            try:
                look = asyncio.create_task(self._cluster.look(with_digests=looks % DIGEST_EVERY_LOOKS == 0))
                while not (await asyncio.wait({look}, timeout=BEAT_S))[0]:
                    if said:  # the cluster is slow, this process is not: a silent one is ended
                        self._send(Kind.STATUS, 0, said)
                seen = look.result()
            except Exception as error:  # noqa: BLE001  whatever it is: the cluster does not answer
                failed, pause_s = failed + 1, LOOK_MIN_S
                if failed >= LOOKS_FAILED_MAX:
                    self._send(Kind.STATUS, 0, msgspec.json.encode(Status(f"the cluster does not answer: {error}")))
                    with suppress(TimeoutError, ConnectionError):
                        await asyncio.wait_for(self._writer.drain(), SEND_TIMEOUT_S)
                    leave(EX_LOST)
            else:
                failed = 0
                before, said = said, msgspec.json.encode(Status(applications=seen))
                self._send(Kind.STATUS, 0, said)
                pause_s = min(2 * pause_s, LOOK_MAX_S) if said == before and is_whole(seen) else LOOK_MIN_S
            looks += 1
            await self._rest(pause_s, said)

    async def _rest(self, pause_s: float, said: bytes) -> None:
        """Wait for the next look, which calls that are lost, late or slow bring nearer. The worker hears the last."""
        loop = asyncio.get_running_loop()
        ends_s = loop.time() + pause_s
        await asyncio.sleep(min(pause_s, LOOK_MIN_S))
        while loop.time() < ends_s and not self._trouble.is_set() and not self._is_slow(loop.time()):
            with suppress(TimeoutError):
                await asyncio.wait_for(self._trouble.wait(), min(BEAT_S, ends_s - loop.time()))
            if said:
                self._send(Kind.STATUS, 0, said)
        self._trouble.clear()

    def _is_slow(self, now_s: float) -> bool:
        """Say whether a call is taking long."""
        return now_s - next(iter(self._running.values()), now_s) > SLOW_CALL_S


def is_whole(seen: Mapping[str, ApplicationStatus]) -> bool:
    """Say whether there is something, and no replica is missing: then little is about to change."""
    return bool(seen) and all(each.running >= max(each.wanted, 1) for each in seen.values())


async def serve_worker(settings: RaySettings, sock: socket.socket) -> NoReturn:
    """Serve the worker at the other end of the socket."""
    reader, writer = await asyncio.open_connection(sock=sock)
    await Bridge(Cluster(settings), writer).run(reader)


def main(descriptor: int, settings: RaySettings) -> NoReturn:
    """Connect, then answer; what stands in the way goes to the worker as its status."""
    sock = socket.socket(fileno=descriptor)
    try:
        connect(settings.address)
    except Exception as error:  # noqa: BLE001  also that Ray is not installed
        status = Status(f"cannot connect to Ray at {settings.address}: {type(error).__name__}: {error}")
        sock.sendall(pack_frame(Kind.STATUS, 0, msgspec.json.encode(status)))
        leave(EX_LOST)
    try:
        uvloop.run(serve_worker(settings, sock))
    finally:
        leave(EX_LOST)


if __name__ == "__main__":
    main(int(sys.argv[1]), msgspec.json.decode(sys.argv[2], type=RaySettings))
