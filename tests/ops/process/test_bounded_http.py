"""What callers can hold of a server: so many connections, each for so long, with a head so large. Over real sockets."""

from __future__ import annotations

import socket
import threading
from contextlib import closing
from http import HTTPStatus

import pytest

from ops.audit.witnesses import witness as witness_page
from ops.metrics import page as metrics_page
from ops.process.bounded_http import HEAD_BYTES_MAX, BoundedHandler, BoundedServer

CONNECTIONS_MAX = 2
CONNECTION_S_MAX = 5.0
LONG_S = 20.0  # how long a test waits for what does not come


class Clock:
    now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


class Handler(BoundedHandler):
    protocol_version = "HTTP/1.1"
    timeout = LONG_S

    def do_GET(self) -> None:
        self.send_response(HTTPStatus.OK)
        self.send_header("Content-Length", "3")
        self.end_headers()
        self.wfile.write(b"ok\n")

    def do_POST(self) -> None:  # reads a body a byte at a time, as slowly as it comes
        self.rfile.read(int(self.headers["Content-Length"]))
        self.do_GET()

    def do_PUT(self) -> None:  # answers more than the sockets hold
        self.wfile.write(bytes(100_000_000))

    def log_message(self, *_: object) -> None:
        pass


class Server(BoundedServer):
    """Says when a connection is being served and when it has ended, so that nobody waits by the clock."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.ended = threading.Semaphore(0)
        limits = {"connections_max": CONNECTIONS_MAX, "connection_s_max": CONNECTION_S_MAX}
        super().__init__("127.0.0.1", 0, Handler, **limits, clock_s=self.clock)

    def process_request_thread(self, request, client_address) -> None:
        super().process_request_thread(request, client_address)
        self.ended.release()

    def later(self, seconds: float) -> None:
        """Let time pass, and what `serve_forever` does twice a second."""
        self.clock.now_s += seconds
        self.service_actions()


@pytest.fixture
def server():
    with Server() as made:
        thread = threading.Thread(target=made.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield made
        made.shutdown()
        thread.join()


def connected(server: Server) -> socket.socket:
    """A connection that is being served: it got an answer."""
    made = socket.create_connection(("127.0.0.1", server.port), timeout=LONG_S)
    assert answer(made, b"GET / HTTP/1.1\r\n\r\n") == 200
    return made


def answer(connection: socket.socket, request: bytes) -> int:
    connection.sendall(request)
    return status(connection)


def status(connection: socket.socket) -> int:
    with connection.makefile("rb") as reply:
        found = int(reply.readline().split()[1])
        length = 0
        while (line := reply.readline()) not in {b"\r\n", b""}:
            if line.lower().startswith(b"content-length:"):
                length = int(line.partition(b":")[2])
        reply.read(length)
        return found


def hung_up(connection: socket.socket) -> bool:
    try:
        return connection.recv(1) == b""
    except ConnectionError:
        return True


DRIPS = {
    "the request line": (b"GET /", b"x"),
    "headers": (b"GET / HTTP/1.1\r\n", b"A"),
    "a body": (b"POST / HTTP/1.1\r\nContent-Length: 1000\r\n\r\n", b"b"),
}


@pytest.mark.parametrize(("begun", "drip"), DRIPS.values(), ids=DRIPS)
def test_who_sends_a_byte_at_a_time_has_no_longer_than_others(server, begun, drip):
    with connected(server) as slow:
        slow.sendall(begun)
        for _ in range(5):  # a byte a second, so it is never silent
            slow.sendall(drip)
            server.later(1.0)
        assert not server.ended.acquire(blocking=False)  # at the limit it is still served
        slow.sendall(drip)
        server.later(0.001)
        assert server.ended.acquire(timeout=LONG_S)
        assert hung_up(slow)
    with connected(server), connected(server):  # its place is free again
        pass


def test_who_takes_an_answer_a_byte_at_a_time_has_no_longer_than_others(server):
    with connected(server) as slow:
        slow.sendall(b"PUT / HTTP/1.1\r\n\r\n")
        assert slow.recv(1)
        server.later(CONNECTION_S_MAX)
        assert slow.recv(1)
        assert not server.ended.acquire(blocking=False)
        server.later(0.001)
        assert server.ended.acquire(timeout=LONG_S)


def test_a_connection_that_began_later_lasts_longer(server):
    with connected(server) as first:
        server.later(3.0)
        with connected(server) as second:
            server.later(2.001)
            assert hung_up(first)
            assert answer(second, b"GET / HTTP/1.1\r\n\r\n") == 200


def test_a_full_house_hangs_up_and_has_room_again(server):
    with connected(server), connected(server) as last:
        with closing(socket.create_connection(("127.0.0.1", server.port), timeout=LONG_S)) as one_more:
            assert hung_up(one_more)
        assert answer(last, b"GET / HTTP/1.1\r\n\r\n") == 200
        last.shutdown(socket.SHUT_WR)
        assert server.ended.acquire(timeout=LONG_S)
        with connected(server):
            pass


def test_a_thread_that_cannot_be_started_costs_no_place(server, monkeypatch):
    def none(_) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", none)
        for _ in range(CONNECTIONS_MAX + 1):
            with closing(socket.create_connection(("127.0.0.1", server.port), timeout=LONG_S)) as refused:
                assert hung_up(refused)
    with connected(server), connected(server):
        pass


def head(size: int, first: bytes = b"GET / HTTP/1.1\r\n", line: int = 1000) -> bytes:
    """A request's head of so many bytes, in headers of `line` each."""
    rest = size - len(first) - len(b"\r\n")
    lines, last = divmod(rest, line)
    sizes = [line] * (lines - 1) + [line + last]
    return first + b"".join(b"A: " + b"a" * (each - 5) + b"\r\n" for each in sizes) + b"\r\n"


@pytest.mark.parametrize("line", [1000, 16_000])
def test_a_head_has_a_size(server, line):
    at_limit = head(HEAD_BYTES_MAX, line=line)
    assert len(at_limit) == HEAD_BYTES_MAX
    with connected(server) as caller:
        assert answer(caller, at_limit) == 200
        assert answer(caller, at_limit) == 200  # the limit is a request's, not a connection's
        body = b"POST / HTTP/1.1\r\nContent-Length: 100000\r\n\r\n" + bytes(100_000)
        assert answer(caller, body) == 200  # a body is not counted
        assert answer(caller, head(HEAD_BYTES_MAX + 1, line=line)) == 431
        assert server.ended.acquire(timeout=LONG_S)


def test_a_request_line_has_a_size(server):
    path = b"/" + b"a" * (HEAD_BYTES_MAX - len(b"GET / HTTP/1.1\r\n\r\n"))
    with connected(server) as caller:
        assert answer(caller, b"GET " + path + b" HTTP/1.1\r\n\r\n") == 200
        assert answer(caller, b"GET " + path + b"a HTTP/1.1\r\n\r\n") == 431
    with connected(server) as caller:
        assert answer(caller, b"GET " + path + b"aaa HTTP/1.1\r\n\r\n") == 414


@pytest.mark.parametrize("page", [metrics_page, witness_page])
def test_both_pages_are_of_this_kind(page):
    assert issubclass(page._Handler, BoundedHandler)
    assert page.SILENCE_S < page.CONNECTION_S_MAX <= 60
    assert page.CONNECTIONS_MAX <= 64
