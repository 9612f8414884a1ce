"""An HTTP server for a few callers: as many connections as it has room for, each for a bounded time."""

from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socket import AF_INET, AF_INET6
from threading import BoundedSemaphore
from typing import Any

__all__ = ["BoundedServer"]


class BoundedServer(ThreadingHTTPServer):
    """A thread for each connection. A full house hangs up: whoever asks comes again.

    How long a connection may last is the handler's `timeout`, in seconds. OSError: the address cannot be had. Port 0
    takes any free port.
    """

    daemon_threads = True
    block_on_close = False

    def __init__(self, host: str, port: int, handler: type[BaseHTTPRequestHandler], *, connections_max: int) -> None:
        self.address_family = AF_INET6 if ":" in host else AF_INET
        self._room = BoundedSemaphore(connections_max)
        super().__init__((host, port), handler)

    @property
    def port(self) -> int:
        """The port it listens on, also when it was asked for any."""
        return int(self.server_address[1])

    def process_request(self, request: Any, client_address: Any) -> None:
        if self._room.acquire(blocking=False):
            super().process_request(request, client_address)
        else:
            self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._room.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that hangs up in the middle is no event."""
