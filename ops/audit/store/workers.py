"""The recorder's ends of its workers' connections: what arrives is cut into appends, answers are kept until sent.

Used from the committing thread alone. A worker that breaks the protocol, or never reads, is hung up on; one that hung
up with appends in its queue stays until they are committed.
"""

import selectors
import socket
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress

from ops.audit.errors import ProtocolError
from ops.audit.store import protocol
from ops.audit.store.appender import Append

RECEIVE_BYTES = 1 << 20
OUTBOX_BYTES_MAX = 1 << 20
CONNECTIONS_MAX = 256  # workers of a host, its control process, and whoever looks whether we are there


class Worker:
    """One connection. `queue` holds checked appends and reasons of refusal, in order of arrival."""

    __slots__ = ("inbox", "needed", "outbox", "queue", "queued_bytes", "sock")

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.inbox = bytearray()
        self.needed = 0
        self.outbox = b""
        self.queue: deque[Append | int] = deque()
        self.queued_bytes = 0


class Workers:
    """All connections, in the order in which their appends are committed."""

    def __init__(
        self,
        selector: selectors.BaseSelector,
        append_bytes_max: int,
        admit: Callable[[Worker, bytes, bytes], None],
    ) -> None:
        self._selector = selector
        self._append_bytes_max = append_bytes_max
        self._admit = admit
        self._connected: dict[int, Worker] = {}
        self._buffer = bytearray(RECEIVE_BYTES)  # one for all: a fresh one of this size costs three system calls
        self.lost = True  # somebody may have gone since the owner last looked, and set this to False

    def __iter__(self) -> Iterator[Worker]:
        """Over a copy: any of them may be dropped meanwhile."""
        return iter([*self._connected.values()])

    @property
    def waiting(self) -> bool:
        """Whether anything is to be committed or answered."""
        return any(worker.queue for worker in self._connected.values())

    def accept(self, listener: socket.socket, greeting: bytes) -> None:
        """Take the next connection and greet it; with too many of them, hang up."""
        try:
            sock, _ = listener.accept()
        except OSError:  # it has gone again
            return
        if len(self._connected) >= CONNECTIONS_MAX:
            sock.close()
            return
        sock.setblocking(False)
        worker = Worker(sock)
        self._connected[sock.fileno()] = worker
        self._selector.register(sock, selectors.EVENT_READ)
        self.send(worker, greeting)

    def rotate(self) -> None:
        """Another worker goes first next time."""
        if len(self._connected) > 1:
            first = next(iter(self._connected))
            self._connected[first] = self._connected.pop(first)

    def drop(self, worker: Worker) -> None:
        """Hang up; what it still had in its queue is forgotten."""
        self._connected.pop(worker.sock.fileno(), None)
        self._selector.unregister(worker.sock)
        worker.sock.close()
        worker.queue.clear()
        self.lost = True

    def send(self, worker: Worker, data: bytes) -> None:
        """Send, keeping what the socket does not take; a worker that never reads is dropped.

        One that cannot be answered any more has gone: what it sent before is read to its end all the same.
        """
        worker.outbox += data
        try:
            sent = worker.sock.send(worker.outbox)
        except BlockingIOError:
            sent = 0
        except OSError:
            sent = len(worker.outbox)
            with suppress(OSError):  # one that lives must not take the next answer for this one
                worker.sock.shutdown(socket.SHUT_WR)
        worker.outbox = worker.outbox[sent:]
        if len(worker.outbox) > OUTBOX_BYTES_MAX:
            self.drop(worker)
            return
        wanted = selectors.EVENT_READ | (selectors.EVENT_WRITE if worker.outbox else 0)
        if self._selector.get_key(worker.sock).events != wanted:
            self._selector.modify(worker.sock, wanted)

    def ready(self, descriptor: int, mask: int) -> None:
        """Something can be read from or written to a connection, unless it was dropped in this very turn."""
        worker = self._connected.get(descriptor)
        if worker is not None:
            self.serve(worker, mask)

    def serve(self, worker: Worker, mask: int) -> None:
        """Send what is kept, receive what has come; no more than one append beyond what waits to be committed."""
        if mask & selectors.EVENT_WRITE:
            self.send(worker, b"")
        if mask & selectors.EVENT_READ:
            self.take(worker)

    def take(self, worker: Worker) -> bool:
        """Receive what has come, unless enough waits to be committed. Returns whether there may be more."""
        if worker.sock.fileno() < 0:  # dropped meanwhile
            return False
        return worker.queued_bytes >= self._append_bytes_max or self._receive(worker)

    def _receive(self, worker: Worker) -> bool:
        """Take what the socket holds; check and queue the complete appends. Returns whether it may hold more."""
        try:
            received = worker.sock.recv_into(self._buffer)
        except BlockingIOError:
            return False
        except OSError:
            received = 0
        if not received:
            if not worker.queue:  # else its records are committed first
                self.drop(worker)
            return False
        more = received == RECEIVE_BYTES
        data = bytes(memoryview(self._buffer)[:received])
        if worker.inbox:
            worker.inbox += data
            if len(worker.inbox) < worker.needed:
                return more
            data = bytes(worker.inbox)
            worker.inbox.clear()
        try:
            appends, taken = protocol.split_messages(data, self._append_bytes_max + protocol.HEAD_BYTES)
        except ProtocolError:
            self.drop(worker)
            return False
        for records, pack in appends:
            self._admit(worker, records, pack)
        if taken < len(data):
            worker.inbox += memoryview(data)[taken:]
            worker.needed = needed_of(worker.inbox)
        return more


def needed_of(inbox: bytearray) -> int:
    """How many bytes the append at the front takes; before its length could be looked at, as many as that takes."""
    if len(inbox) < protocol.LENGTHS_BYTES:
        return protocol.LENGTHS_BYTES
    return protocol.HEAD_BYTES + int.from_bytes(inbox[: protocol.HEAD_BYTES], "big")
