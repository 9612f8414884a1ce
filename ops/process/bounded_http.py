"""An HTTP server for a few callers: as many connections as it has room for, each for a bounded time, and small heads.

Rules: a connection ends at its deadline, however lively it is: who sends or takes a byte at a time keeps its place no
longer than anybody else. `serve_forever` looks twice a second. Request line and headers together have HEAD_BYTES_MAX.
Bodies are the handler's to bound.
"""

from collections.abc import Callable
from contextlib import suppress
from http import HTTPStatus
from http.client import LineTooLong
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BufferedIOBase
from socket import AF_INET, AF_INET6, SHUT_RDWR, socket
from threading import BoundedSemaphore, Lock
from time import monotonic
from typing import Any

HEAD_BYTES_MAX = 16 * 1024


class BoundedHandler(BaseHTTPRequestHandler):
    """A handler that reads no more of a request than HEAD_BYTES_MAX before its body; its `timeout` is for one wait."""

    raw_requestline: bytes

    def parse_request(self) -> bool:
        """As the standard library has it; a head that is longer gets 414 or 431, and the connection ends."""
        left = HEAD_BYTES_MAX - len(self.raw_requestline)
        if left < 0:
            self.requestline = self.request_version = self.command = ""
            self.send_error(HTTPStatus.REQUEST_URI_TOO_LONG)
            return False
        whole = self.rfile
        self.rfile = _Head(whole, left)  # type: ignore[assignment]  # `readline` is all that is asked of it
        try:
            return super().parse_request()
        finally:
            self.rfile = whole


class _Head:
    """The lines of a head while there is room for them."""

    def __init__(self, stream: BufferedIOBase, bytes_left: int) -> None:
        self._stream = stream
        self._bytes_left = bytes_left

    def readline(self, bytes_max: int) -> bytes:
        line = self._stream.readline(min(bytes_max, self._bytes_left + 1))
        self._bytes_left -= len(line)
        if self._bytes_left < 0:
            raise LineTooLong("head")
        return line


class BoundedServer(ThreadingHTTPServer):
    """A thread for each connection. A full house hangs up: whoever asks comes again.

    No connection lasts longer than `connection_s_max`; how long it may be silent is the handler's `timeout`. Time is
    `clock_s`, in seconds. OSError: the address cannot be had. Port 0 takes any free port.
    """

    daemon_threads = True
    block_on_close = False

    def __init__(
        self,
        host: str,
        port: int,
        handler: type[BoundedHandler],
        *,
        connections_max: int,
        connection_s_max: float,
        clock_s: Callable[[], float] = monotonic,
    ) -> None:
        self.address_family = AF_INET6 if ":" in host else AF_INET
        self._room = BoundedSemaphore(connections_max)
        self._connection_s_max = connection_s_max
        self._clock_s = clock_s
        self._began_s: dict[socket, float] = {}  # the oldest first
        self._open = Lock()  # guards it: a socket that is in it is not closed
        super().__init__((host, port), handler)

    @property
    def port(self) -> int:
        """The port it listens on, also when it was asked for any."""
        return int(self.server_address[1])

    def process_request(self, request: Any, client_address: Any) -> None:
        if self._room.acquire(blocking=False):
            with self._open:
                self._began_s[request] = self._clock_s()
            try:
                super().process_request(request, client_address)
            except BaseException:  # no thread could be started; the caller closes the connection
                self._room.release()
                raise
        else:
            self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._room.release()

    def shutdown_request(self, request: Any) -> None:
        with self._open:
            self._began_s.pop(request, None)
        super().shutdown_request(request)

    def service_actions(self) -> None:
        """Hang up on who is past the deadline. `serve_forever` calls it between connections, and twice a second."""
        with self._open:
            for request, began_s in self._began_s.items():
                if self._clock_s() - began_s <= self._connection_s_max:
                    break
                with suppress(OSError):  # hung up already
                    request.shutdown(SHUT_RDWR)  # wakes the thread that reads or writes; it closes

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that hangs up in the middle is no event."""
