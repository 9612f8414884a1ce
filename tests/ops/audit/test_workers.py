"""The recorder's connections: a worker that goes at a bad moment takes nobody with it."""

import selectors
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from ops.audit import protocol
from ops.audit.workers import OUTBOX_BYTES_MAX, Worker, Workers
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
