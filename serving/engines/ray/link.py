"""The worker's end of its Ray bridge: starts the process, keeps it alive, and matches replies to calls. No Ray here.

Rules:
- One bridge for each `RaySettings` in a process, however many models use it: `borrow` and `give_back`.
- Many threads may `ask`. Each waits for its own reply, and a little longer than the bridge does.
- When the bridge ends, cannot start, or says what it may not, every call that waits fails with `BackendUnavailable`,
  and the bridge is started again, after pauses that grow to BACKOFF_MAX_S.
- A bridge that lives and says nothing for SILENCE_S is ended: what it said last is not true any longer.
- `status` is what the bridge said last, and says that nothing runs while there is no bridge.
"""

from __future__ import annotations

import itertools
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures import TimeoutError as NoReply
from contextlib import suppress
from struct import pack

import msgspec

from serving.engines.ray.frames import HEADER_BYTES, BadFrame, Kind, Status, pack_frame, parse_header, parse_status
from serving.engines.ray.settings import RaySettings
from serving.errors import BackendTimedOut, BackendUnavailable

BACKOFF_MIN_S = 0.2
BACKOFF_MAX_S = 5.0
STEADY_S = 30.0
GRACE_S = 2.0
SEND_TIMEOUT_S = 5
SILENCE_S = 10  # a bridge says its status about once a second, also while the cluster does not answer it
NEXT_WORD_S = 2.0
FIRST_WORD_S = 60  # it imports Ray and connects before that
ABSENT = Status("the bridge is not running")

Reply = tuple[Kind, bytes]


class Link:
    """A bridge process and the calls that it has in hand."""

    def __init__(self, settings: RaySettings, clock_s: Callable[[], float] = time.monotonic) -> None:
        self.settings = settings
        self._clock_s = clock_s
        self._began_s = clock_s()
        self.status = ABSENT
        self.users = 0
        self._calls: dict[int, Future[Reply]] = {}
        self._numbers = itertools.count(1)
        self._lock = threading.Lock()  # guards the calls, and the socket while a whole frame is written
        self._socket: socket.socket | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._changed = threading.Condition()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._keep, name="ray-bridge", daemon=True)
        self._thread.start()

    @property
    def pid(self) -> int | None:
        """The bridge's process, for who watches it."""
        process = self._process
        return None if process is None else process.pid

    def ask(self, model: str, target: str, body: bytes) -> Reply:
        """Send a request and return the reply frame's kind and body.

        BackendUnavailable: there is no bridge, or it ended. BackendTimedOut: it does not answer, LATE included.
        """
        reply: Future[Reply] = Future()
        timeout_ms = self.settings.call_timeout_ms
        try:
            frame = pack_frame(Kind.INFER, number := next(self._numbers), body, target)
        except ValueError as error:
            raise BackendUnavailable(model, f"the batch does not fit a frame ({error})") from error
        with self._lock:
            if self._socket is None:
                raise BackendUnavailable(model, self.status.problem)
            self._calls[number] = reply
            try:
                self._socket.sendall(frame)
            except OSError as error:  # the stream may have broken off within a frame: this bridge is of no use any more
                del self._calls[number]
                self._end_process()
                raise BackendUnavailable(model, f"the bridge takes nothing ({error})") from error
        try:
            kind, answer = reply.result(timeout_ms / 1000 + GRACE_S)
        except NoReply:
            raise BackendTimedOut(model, timeout_ms) from None
        finally:
            self._calls.pop(number, None)
        if kind is Kind.LATE:
            raise BackendTimedOut(model, timeout_ms)
        if kind is Kind.LOST:
            remark = "no replica answered, the second one asked included"
            raise BackendUnavailable(model, answer.decode(errors="replace"), remark=remark)
        return kind, answer

    def wait_for(self, application: str, timeout_s: float, *, named: bool = False) -> bool:
        """Wait until an application runs, and if `named` its bundle is known; False when it does not in time.

        `timeout_s` counts from when the bridge was first started, so a process that opens many models waits once for
        all of them. One that is opened later waits for the next word of the bridge.
        """

        def there() -> bool:
            found = self.status.applications.get(application)
            return found is not None and found.running > 0 and (not named or found.digest != "")

        left_s = self._began_s + timeout_s - self._clock_s()
        with self._changed:
            return self._changed.wait_for(there, max(left_s, min(timeout_s, NEXT_WORD_S)))

    def close(self) -> None:
        """End the bridge."""
        self._closing.set()
        with self._lock:
            self._end_process()
        self._thread.join()

    def _keep(self) -> None:
        """Start the bridge, read what it says, and start it again when it has ended."""
        pause_s = BACKOFF_MIN_S
        while not self._closing.is_set():
            began_s = self._clock_s()
            try:
                self._read(self._start())
            except (OSError, BadFrame, EOFError):  # it cannot start, it ended, or it may not be listened to any longer
                pass
            finally:
                self._stopped()
            steady = self._clock_s() - began_s > STEADY_S
            pause_s = BACKOFF_MIN_S if steady else min(pause_s * 2, BACKOFF_MAX_S)
            self._closing.wait(pause_s)

    def _start(self) -> socket.socket:
        ours, theirs = socket.socketpair()
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, pack("ll", SEND_TIMEOUT_S, 0))
        descriptor = theirs.fileno()
        settings = msgspec.json.encode(self.settings).decode()
        try:
            with theirs:
                process = subprocess.Popen(
                    [sys.executable, "-P", "-m", "serving.engines.ray.bridge", str(descriptor), settings],
                    pass_fds=(descriptor,),
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,  # what matters it says in frames; Ray has a log of its own
                    start_new_session=True,  # a Ctrl-C is the gateway's to answer; it closes the socket when it is done
                    env={**os.environ, "OMP_NUM_THREADS": "1"},
                )
        except OSError:
            ours.close()
            raise
        with self._lock:
            self._process = process
            self._socket = ours
            if self._closing.is_set():  # it came too late to be ended by `close`
                self._end_process()
        return ours

    def _read(self, stream: socket.socket) -> None:
        with stream.makefile("rb") as file:

            def exactly(size: int) -> bytes:
                data = file.read(size)
                if data is None or len(data) != size:  # None: silent for as long as it may be
                    raise EOFError
                return data

            stream.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, pack("ll", FIRST_WORD_S, 0))
            while True:
                header = parse_header(exactly(HEADER_BYTES))
                stream.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, pack("ll", SILENCE_S, 0))
                exactly(header.target_bytes)
                body = exactly(header.body_bytes)
                if header.kind is Kind.STATUS:
                    self._tell(parse_status(body))
                elif (call := self._calls.get(header.call)) is not None and not call.done():
                    call.set_result((header.kind, body))

    def _tell(self, status: Status) -> None:
        with self._changed:
            self.status = status
            self._changed.notify_all()

    def _stopped(self) -> None:
        """Let go of a bridge that has ended or never began, and of the calls it had."""
        with self._lock:
            stream, self._socket = self._socket, None
            self._end_process()
            waiting = list(self._calls.values())
        if stream is not None:
            stream.close()
        self._tell(Status(self.status.problem or ABSENT.problem))
        for call in waiting:
            if not call.done():
                call.set_result((Kind.LOST, b"the bridge ended while the call was under way"))

    def _end_process(self) -> None:
        """End the bridge's process. Under the lock."""
        process, self._process = self._process, None
        if self._socket is not None:
            with suppress(OSError):
                self._socket.shutdown(socket.SHUT_RDWR)  # wakes who reads
        if process is not None:
            process.kill()  # it holds nothing that is worth an orderly end
            process.wait()


_links: dict[RaySettings, Link] = {}
_links_lock = threading.Lock()


def borrow(settings: RaySettings) -> Link:
    """Return the link with these settings, opened by its first user."""
    with _links_lock:
        link = _links.get(settings)
        if link is None:
            link = _links[settings] = Link(settings)
        link.users += 1
        return link


def give_back(link: Link) -> None:
    """End one use of a link; the last one closes it."""
    with _links_lock:
        link.users -= 1
        last = link.users == 0
        if last:
            del _links[link.settings]
    if last:
        link.close()
