"""The worker's end: entries in, receipts out, without ever blocking the caller.

Appends come from the event loop and from worker threads (one per batch). A thread sends what waits in one non-blocking
system call. So does the loop while the recorder has nothing to do; otherwise what a turn brings is gathered into one
send. Acknowledgements wake the loop once for many. The recorder answers in order, so the oldest append is always the
next one answered.

`done` is called exactly once for each append, on the loop. An append that failed may still be in the log: it was not
*known* to be durable. Nothing is sent twice, so nothing is recorded twice.
"""

import asyncio
import contextlib
import os
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from ops.audit.errors import AuditUnavailable, ProtocolError, Unavailability
from ops.audit.log.entry import ENTRY_BYTES_MAX
from ops.audit.log.epochs import origin_of
from ops.audit.store import protocol
from ops.process.logging import Log

RECEIVE_BYTES = 65_536
BACKOFF_FIRST_S = 0.02
BACKOFF_MAX_S = 1.0
SEND_PARTS_MAX = 512


@dataclass(frozen=True, slots=True)
class Receipt:
    """Entries first_index .. first_index + count - 1 of the log `origin`, its `epoch`, are durable."""

    origin: str
    first_index: int
    count: int
    epoch: int = 1


Done = Callable[[Receipt | AuditUnavailable], None]


class AuditSink(Protocol):
    """Where records go."""

    def append(self, entries: Sequence[bytes], done: Done, *, blobs: Sequence[bytes] = ()) -> None:
        """Take entries (in order) and the payload ciphertexts they name. Thread-safe, never blocks.

        `done` is called exactly once, on the event loop: with a `Receipt` after fdatasync returned for all of them,
        or with `AuditUnavailable` (recorder gone, backlog full, append timeout or too large, log refused, closed).
        """


@dataclass(slots=True)
class _Pending:
    count: int
    nbytes: int
    deadline_s: float
    done: Done | None  # None once it was told of a timeout


class AuditClient:
    """An `AuditSink` over the recorder's socket; one per worker process, made on its event loop."""

    def __init__(
        self, socket_path: Path, *, backlog_bytes_max: int, append_timeout_ms: int, log: Log | None = None
    ) -> None:
        self._path = os.fspath(socket_path)
        self._log = log
        self._backlog_bytes_max = backlog_bytes_max
        self._timeout_s = append_timeout_ms / 1000
        self._lock = threading.Lock()
        self._pending: deque[_Pending] = deque()
        self._backlog_bytes = 0
        self._backlog_records = 0
        self._out: deque[bytes | memoryview] = deque()
        self._writing = False  # the loop has been asked to send
        self._sock: socket.socket | None = None
        self._accepting = True
        self._inbox = b""
        self._first_origin = ""
        self._epoch = 1
        self._append_bytes_max = 0
        self._closed = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._loop_thread = 0
        self._lost = asyncio.Event()
        self._idle = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def origin(self) -> str:
        """Of the epoch that appends go to now."""
        return origin_of(self._first_origin, self._epoch)

    @property
    def available(self) -> bool:
        """Whether an append would be taken now: the recorder is there and answers, and its disk is not full.

        A recorder that stands still is noticed when an append has timed out, and is back with the answer to it.
        """
        with self._lock:
            overdue = bool(self._pending) and self._pending[0].done is None
        return self._sock is not None and self._accepting and not overdue

    @property
    def backlog_records(self) -> int:
        return self._backlog_records

    async def connect(self) -> None:
        """Wait until the recorder says hello; from then on reconnect without help.

        Raises:
            AuditUnavailable: not within the append timeout.
        """
        self._loop = asyncio.get_running_loop()
        self._loop_thread = threading.get_ident()
        try:
            async with asyncio.timeout(self._timeout_s):
                await self._open()
        except TimeoutError as error:
            raise AuditUnavailable("recorder_gone", "no hello") from error
        self._tasks = [asyncio.create_task(self._stay_connected()), asyncio.create_task(self._watch_deadlines())]

    async def _open(self) -> None:
        """Try until a recorder says hello."""
        backoff_s = BACKOFF_FIRST_S
        while True:
            sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            sock.setblocking(False)
            try:
                await self._greet(sock)
            except (OSError, ProtocolError):
                sock.close()
            except BaseException:
                sock.close()
                raise
            else:
                return
            await asyncio.sleep(backoff_s)
            backoff_s = min(backoff_s * 2, BACKOFF_MAX_S)

    async def _greet(self, sock: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        await loop.sock_connect(sock, self._path)
        data = b""
        while (greeting := protocol.split_hello(data)) is None:
            more = await loop.sock_recv(sock, RECEIVE_BYTES)
            if not more:
                raise ProtocolError("the recorder hung up before its hello")
            data += more
        self._first_origin, self._epoch, self._append_bytes_max, taken = greeting
        self._inbox = b""
        self._accepting = True
        self._lost.clear()
        loop.add_reader(sock.fileno(), self._readable)
        with self._lock:
            self._sock = sock
        self._heard(data[taken:])

    async def _stay_connected(self) -> None:
        while True:
            await self._lost.wait()
            await self._open()

    def append(self, entries: Sequence[bytes], done: Done, *, blobs: Sequence[bytes] = ()) -> None:
        """See `AuditSink.append`."""
        if any(len(entry) > ENTRY_BYTES_MAX for entry in entries):
            self._refuse(done, "append_too_large")
            return
        message = protocol.append_message(entries, blobs)
        nbytes = len(message)
        pending = _Pending(len(entries), nbytes, time.monotonic() + self._timeout_s, done)
        reason: Unavailability | None = None
        with self._lock:
            if self._closed:
                reason = "closed"
            elif self._sock is None:
                reason = "recorder_gone"
            elif nbytes > self._append_bytes_max:
                reason = "append_too_large"
            elif self._backlog_bytes + nbytes > self._backlog_bytes_max:
                reason = "backlog_full"
            else:
                self._pending.append(pending)
                self._backlog_bytes += nbytes
                self._backlog_records += pending.count
                self._out.append(message)
                if not self._writing:
                    self._hand_over()
        if reason is not None:
            self._refuse(done, reason)

    def _hand_over(self) -> None:
        """With the lock: send now, or ask the loop to send at the end of its turn."""
        assert self._loop is not None
        on_loop = threading.get_ident() == self._loop_thread
        if on_loop and len(self._pending) > 1:  # the recorder is busy: it will not miss what comes a moment later
            self._writing = True
            self._loop.call_soon(self._send_gathered)
        elif not self._send_waiting():
            self._writing = True
            self._loop.call_soon_threadsafe(self._want_write)

    def _send_gathered(self) -> None:
        with self._lock:
            if self._sock is None or self._send_waiting():
                self._writing = False
            else:
                self._want_write()

    def _want_write(self) -> None:
        sock = self._sock
        if sock is not None:
            assert self._loop is not None
            self._loop.add_writer(sock.fileno(), self._writable)

    def _writable(self) -> None:
        with self._lock:
            sock = self._sock
            if sock is not None and self._send_waiting():
                self._writing = False
                assert self._loop is not None
                self._loop.remove_writer(sock.fileno())

    def _send_waiting(self) -> bool:
        """With the lock: send what the socket takes. True when nothing is left."""
        sock = self._sock
        while self._out and sock is not None:
            parts = (
                list(self._out) if len(self._out) <= SEND_PARTS_MAX else [self._out[i] for i in range(SEND_PARTS_MAX)]
            )
            try:
                sent = sock.sendmsg(parts) if len(parts) > 1 else sock.send(parts[0])
            except BlockingIOError:
                return False
            except OSError:
                return True  # the reader sees the hang-up and fails everything that waits
            for part in parts:
                if sent < len(part):
                    self._out[0] = memoryview(part)[sent:]
                    break
                sent -= len(part)
                self._out.popleft()
        return True

    def _refuse(self, done: Done, reason: Unavailability) -> None:
        error = AuditUnavailable(reason)
        loop = self._loop
        if loop is None:
            raise error
        if threading.get_ident() == self._loop_thread:
            loop.call_soon(done, error)
        else:
            loop.call_soon_threadsafe(done, error)

    def _readable(self) -> None:
        """Acknowledgements: one wake-up for all that came."""
        assert self._sock is not None
        try:
            data = self._sock.recv(RECEIVE_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if data:
            self._heard(data)
        else:
            self._hang_up()

    def _heard(self, data: bytes) -> None:
        try:
            replies, taken = protocol.split_replies(self._inbox + data)
        except ProtocolError:
            self._hang_up()
            return
        self._inbox = (self._inbox + data)[taken:]
        invalid = 0
        for kind, count, value in replies:
            if kind == protocol.STATE:
                self._accepting = value == 0
                continue
            if kind == protocol.EPOCH:
                self._epoch = value
                continue
            answered = self._take(count)
            index = value
            if (kind, value) == (protocol.REFUSED, protocol.INVALID):
                invalid += sum(pending.count for pending in answered)
            for pending in answered:
                if kind == protocol.ACK:
                    self._tell(pending, Receipt(self.origin, index, pending.count, self._epoch))
                else:
                    self._tell(pending, AuditUnavailable("log_refused", protocol.REASONS.get(value, "")))
                index += pending.count
        if invalid and self._log is not None:
            problem = "the recorder says that an entry does not belong in the log, and took none that came with it"
            self._log("append-refused", level="error", count=invalid, problem=problem)

    def _tell(self, pending: _Pending, answer: Receipt | AuditUnavailable) -> None:
        """Call `done`, once. One that raises must not keep the others from their answers, nor shift them."""
        done, pending.done = pending.done, None
        if done is None:
            return
        try:
            done(answer)
        except Exception as error:  # noqa: BLE001  whatever a caller's callback does
            assert self._loop is not None
            self._loop.call_exception_handler({"message": "the callback of an append raised", "exception": error})

    def _take(self, count: int) -> list[_Pending]:
        """The oldest `count` appends, no longer pending."""
        with self._lock:
            taken = [self._pending.popleft() for _ in range(min(count, len(self._pending)))]
            for pending in taken:
                self._backlog_bytes -= pending.nbytes
                self._backlog_records -= pending.count
            if not self._pending:
                self._idle.set()
        return taken

    def _hang_up(self) -> None:
        """The recorder is gone: nothing that waits is known to be durable."""
        with self._lock:
            sock, self._sock = self._sock, None
            self._out.clear()
            self._writing = False
            count = len(self._pending)
        if sock is not None:
            assert self._loop is not None
            self._loop.remove_reader(sock.fileno())
            self._loop.remove_writer(sock.fileno())
            sock.close()
        self._lost.set()
        for pending in self._take(count):
            self._tell(pending, AuditUnavailable("recorder_gone"))

    async def _watch_deadlines(self) -> None:
        """Tell those who have waited too long; their place in the order stays taken."""
        while True:
            await asyncio.sleep(self._timeout_s / 8)
            now = time.monotonic()
            with self._lock:
                late = [each for each in self._pending if each.done is not None and each.deadline_s <= now]
            for pending in late:
                self._tell(pending, AuditUnavailable("append_timeout"))

    async def close(self) -> None:
        """Refuse new appends, wait for outstanding ones up to the append timeout, then hang up."""
        with self._lock:
            self._closed = True
            waiting = bool(self._pending)
            self._idle.clear()
        if waiting:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._timeout_s):
                    await self._idle.wait()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._hang_up()
