"""The recorder's connections: a worker that goes at a bad moment takes nobody with it."""

import selectors
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from ops.audit.store import protocol
from ops.audit.store import workers as workers_module
from ops.audit.store.workers import OUTBOX_BYTES_MAX, Worker, Workers
from tests.ops.audit.samples import small


class Connected:
    """One accepted connection, and the appends that came over it."""

    def __init__(self, path: Path) -> None:
        self.selector = selectors.DefaultSelector()
        self.admitted: list[bytes] = []
        self.workers = Workers(self.selector, 1 << 16, lambda _worker, records, _pack: self.admitted.append(records))
        self.peer = socket.socket(socket.AF_UNIX)
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(path))
            listener.listen()
            self.peer.connect(str(path))
            self.workers.accept(listener, b"hello")
        (self.worker,) = self.workers
        self.workers.lost = False

    def fill(self, worker: Worker) -> None:
        """More than the socket takes: the rest waits for it to be writable."""
        while not worker.outbox:
            self.workers.send(worker, bytes(1 << 16))


@pytest.fixture
def connected(tmp_path: Path) -> Iterator[Connected]:
    made = Connected(tmp_path / "s")
    yield made
    for worker in made.workers:
        made.workers.drop(worker)
    made.peer.close()
    made.selector.close()


def test_a_worker_that_dies_with_an_answer_on_its_way_is_dropped_once(connected):
    """Then its socket is writable and readable in the same turn, and the first of both finds out."""
    connected.fill(connected.worker)
    connected.peer.close()
    ((key, mask),) = connected.selector.select(0)
    assert mask == selectors.EVENT_READ | selectors.EVENT_WRITE
    connected.workers.ready(key.fd, mask)
    assert list(connected.workers) == []
    assert connected.workers.lost
    connected.workers.ready(key.fd, mask)  # an event of the same turn that came later


def test_what_a_worker_sent_before_it_died_is_kept_though_it_cannot_be_answered(connected):
    """Its socket takes nothing any more; what it still holds is read."""
    message = protocol.append_message([small(1)], [])
    connected.worker.queue.append(protocol.BACKLOG)  # something that waits for its answer
    connected.peer.sendall(message)
    connected.peer.close()
    connected.workers.send(connected.worker, b"an acknowledgement")
    assert list(connected.workers) == [connected.worker]
    assert connected.worker.queue
    ((key, mask),) = connected.selector.select(0)
    assert mask == selectors.EVENT_READ, "nothing is left to be sent"
    connected.workers.ready(key.fd, mask)
    assert [records[2:] for records in connected.admitted] == [small(1)]
    connected.worker.queue.clear()  # answered
    connected.workers.send(connected.worker, b"again in vain")
    connected.workers.ready(key.fd, mask)
    assert list(connected.workers) == []
    assert connected.workers.lost


def test_a_worker_that_missed_an_answer_learns_that_it_is_hung_up_on(connected):
    """Such as when the kernel had no memory for it: the replies that follow would answer the wrong appends."""

    class Broken:
        def __init__(self, sock: socket.socket) -> None:
            self._sock = sock

        def send(self, _: bytes) -> int:
            raise OSError(105, "No buffer space available")

        def __getattr__(self, name: str) -> object:
            return getattr(self._sock, name)

    connected.peer.recv(5)
    sock = connected.worker.sock
    connected.worker.sock = Broken(sock)
    connected.workers.send(connected.worker, b"an acknowledgement")
    connected.worker.sock = sock
    connected.peer.settimeout(10)
    assert connected.peer.recv(1) == b""


def test_what_a_socket_holds_is_taken_at_once_up_to_what_may_wait(connected):
    message = protocol.append_message([small(1)], [])
    for _ in range(3):
        connected.peer.sendall(message)
    connected.peer.close()
    connected.worker.queued_bytes = 1 << 16
    assert connected.workers.take(connected.worker), "there may be more"
    assert connected.admitted == []
    connected.worker.queued_bytes -= 1
    assert not connected.workers.take(connected.worker)
    assert len(connected.admitted) == 3
    assert list(connected.workers) == [connected.worker]
    assert not connected.workers.take(connected.worker), "it has ended"
    assert list(connected.workers) == []
    assert not connected.workers.take(connected.worker), "it is gone"


def test_a_worker_that_never_reads_is_dropped_at_the_limit(connected):
    connected.fill(connected.worker)
    connected.workers.send(connected.worker, bytes(OUTBOX_BYTES_MAX - len(connected.worker.outbox)))
    assert list(connected.workers) == [connected.worker]
    connected.workers.send(connected.worker, b"!")
    assert list(connected.workers) == []


def test_an_append_that_comes_in_pieces_is_admitted_once_it_is_whole(connected):
    message = protocol.append_message([small(1)], [])
    for piece in (message[:3], message[3:50], message[50:-1]):
        connected.peer.sendall(piece)
        connected.workers.serve(connected.worker, selectors.EVENT_READ)
        assert connected.admitted == []
    connected.peer.sendall(message[-1:] + message)
    connected.workers.serve(connected.worker, selectors.EVENT_READ)
    assert [records[2:] for records in connected.admitted] == [small(1)] * 2


@pytest.mark.parametrize("cut", range(1, protocol.LENGTHS_BYTES))
def test_a_length_out_of_bounds_ends_the_connection_however_it_is_cut(connected, cut):
    """Before its length was looked at, an append may not have anything kept for it."""
    lengths = (0xFFFF_FFFF).to_bytes(4, "big") + bytes(4)
    for piece in (lengths[:cut], lengths[cut:]):
        connected.peer.sendall(piece)
        connected.workers.serve(connected.worker, selectors.EVENT_READ)
    assert list(connected.workers) == []


def test_no_more_connections_are_kept_than_there_may_be(connected, tmp_path, monkeypatch):
    monkeypatch.setattr(workers_module, "CONNECTIONS_MAX", 2)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "many"))
        listener.listen()
        listener.setblocking(False)
        connected.workers.accept(listener, b"hello")  # nobody is there, or not any more
        peers = [socket.socket(socket.AF_UNIX) for _ in range(3)]
        for peer in peers:
            peer.connect(str(tmp_path / "many"))
            connected.workers.accept(listener, b"hello")
        assert [peer.recv(5) for peer in peers] == [b"hello", b"", b""]
        assert len(list(connected.workers)) == 2
        for peer in peers:
            peer.close()
