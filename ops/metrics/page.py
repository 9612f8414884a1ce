"""The metrics page over HTTP: /metrics for Prometheus, /healthz and /readyz for whoever starts and restarts us.

Rules: a thread of its own, so that a busy event loop still shows its numbers; connections, their number and their time
are bounded; one scrape is worked out at a time. It has no credentials, so nothing on it is about a person or a payload.
"""

from collections.abc import Callable
from http import HTTPStatus
from pathlib import Path
from threading import Lock, Thread
from typing import Any

from ops.metrics.scrape import expose
from ops.process.bounded_http import BoundedHandler, BoundedServer

CONNECTIONS_MAX = 16
SILENCE_S = 10
CONNECTION_S_MAX = 30.0
PAGE = "text/plain; version=0.0.4; charset=utf-8"


class MetricsPage(BoundedServer):
    """The running page. `close` stops it; what it says about health comes from the two callables."""

    def __init__(
        self, host: str, port: int, directory: Path, health: Callable[[], bool], ready: Callable[[], bool]
    ) -> None:
        self._directory = directory
        self._answers = {"/healthz": health, "/readyz": ready}
        self._one_scrape = Lock()
        super().__init__(host, port, _Handler, connections_max=CONNECTIONS_MAX, connection_s_max=CONNECTION_S_MAX)
        self._thread = Thread(target=self.serve_forever, name="metrics-page", daemon=True)
        self._thread.start()

    def answer(self, path: str) -> tuple[HTTPStatus, str, bytes]:
        """(status, content type, body) for a path."""
        if path == "/metrics":
            with self._one_scrape:
                return HTTPStatus.OK, PAGE, expose(self._directory)
        asked = self._answers.get(path)
        if asked is None:
            return HTTPStatus.NOT_FOUND, PAGE, b"/metrics, /healthz or /readyz\n"
        return (HTTPStatus.OK, PAGE, b"ok\n") if asked() else (HTTPStatus.SERVICE_UNAVAILABLE, PAGE, b"no\n")

    def close(self) -> None:
        """Stop listening. Connections in progress end by themselves."""
        self.shutdown()
        self.server_close()
        self._thread.join()


class _Handler(BoundedHandler):
    server: MetricsPage
    server_version = "stockade"
    sys_version = ""
    timeout = SILENCE_S

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
