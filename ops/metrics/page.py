"""The metrics page over HTTP: /metrics for Prometheus, /healthz and /readyz for whoever starts and restarts us.

Rules: a thread of its own, so that a busy event loop still shows its numbers; connections, their number and their time
are bounded; one scrape is worked out at a time. It has no credentials, so nothing on it is about a person or a payload.
"""

from collections.abc import Callable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from socket import AF_INET, AF_INET6, socket
from threading import BoundedSemaphore, Lock, Thread
from typing import Any

from ops.metrics.scrape import expose

__all__ = ["MetricsPage", "serve_metrics"]

CONNECTIONS_MAX = 16
CONNECTION_TIMEOUT_S = 10
PAGE = "text/plain; version=0.0.4; charset=utf-8"


class MetricsPage(ThreadingHTTPServer):
    """The running page. `close` stops it; what it says about health comes from the two callables."""

    daemon_threads = True
    block_on_close = False

    def __init__(
        self, host: str, port: int, directory: Path, health: Callable[[], bool], ready: Callable[[], bool]
    ) -> None:
        self.address_family = AF_INET6 if ":" in host else AF_INET
        self._directory = directory
        self._answers = {"/healthz": health, "/readyz": ready}
        self._one_scrape = Lock()
        self._room = BoundedSemaphore(CONNECTIONS_MAX)
        super().__init__((host, port), _Handler)
        self._thread = Thread(target=self.serve_forever, name="metrics-page", daemon=True)
        self._thread.start()

    @property
    def port(self) -> int:
        """The port it listens on, also when it was asked for any."""
        return int(self.server_address[1])

    def answer(self, path: str) -> tuple[HTTPStatus, str, bytes]:
        """(status, content type, body) for a path."""
        if path == "/metrics":
            with self._one_scrape:
                return HTTPStatus.OK, PAGE, expose(self._directory)
        asked = self._answers.get(path)
        if asked is None:
            return HTTPStatus.NOT_FOUND, PAGE, b"/metrics, /healthz or /readyz\n"
        return (HTTPStatus.OK, PAGE, b"ok\n") if asked() else (HTTPStatus.SERVICE_UNAVAILABLE, PAGE, b"no\n")

    def process_request(self, request: Any, client_address: Any) -> None:
        if self._room.acquire(blocking=False):
            super().process_request(request, client_address)
        else:
            self.shutdown_request(request)  # a full house hangs up; Prometheus comes again

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._room.release()

    def handle_error(self, request: socket | tuple[bytes, socket], client_address: Any) -> None:
        """A client that hangs up in the middle is no event."""

    def close(self) -> None:
        """Stop listening. Connections in progress end by themselves."""
        self.shutdown()
        self.server_close()
        self._thread.join()


class _Handler(BaseHTTPRequestHandler):
    server: MetricsPage
    server_version = "stockade"
    sys_version = ""
    timeout = CONNECTION_TIMEOUT_S

    def do_GET(self) -> None:
        self._send(body=True)

    def do_HEAD(self) -> None:
        self._send(body=False)

    def _send(self, *, body: bool) -> None:
        status, content_type, content = self.server.answer(self.path.partition("?")[0])
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if body:
            self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  the standard library's name
        """Scrapes are not news."""


def serve_metrics(
    host: str, port: int, directory: Path, health: Callable[[], bool], ready: Callable[[], bool]
) -> MetricsPage:
    """Start the page and return it. Port 0 takes any free port. Raises OSError when the address is taken."""
    return MetricsPage(host, port, directory, health, ready)
