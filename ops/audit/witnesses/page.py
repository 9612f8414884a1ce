"""A witness over HTTP: `POST /add-checkpoint`, `GET /<origin hash>/checkpoint` (c2sp.org/tlog-witness).

The protocol has no credentials: a checkpoint carries the signature of its log. Heads, bodies, connections and
their time are bounded. TLS is a reverse proxy's, which a witness in public has anyway.
"""

import re
import sqlite3
from http import HTTPStatus

from ops.audit.witnesses.witness import REQUEST_BYTES_MAX, Reply, Witness
from ops.process.bounded_http import BoundedHandler, BoundedServer

CONNECTIONS_MAX = 64
SILENCE_S = 15
CONNECTION_S_MAX = 60.0
_CHECKPOINT = re.compile(r"/([0-9a-f]{64})/checkpoint", re.ASCII)


class WitnessPage(BoundedServer):
    """`serve_forever` answers until `shutdown`. OSError: the address cannot be had."""

    def __init__(self, host: str, port: int, witness: Witness) -> None:
        self.witness = witness
        super().__init__(host, port, _Handler, connections_max=CONNECTIONS_MAX, connection_s_max=CONNECTION_S_MAX)


class _Handler(BoundedHandler):
    server: WitnessPage
    protocol_version = "HTTP/1.1"
    server_version = "stockade-witness"
    sys_version = ""
    timeout = SILENCE_S

    def do_POST(self) -> None:
        length = self.headers.get("Content-Length", "")
        if self.path != "/add-checkpoint":
            self._say(Reply(HTTPStatus.NOT_FOUND, b"POST /add-checkpoint\n"), close=True)
        elif not (length.isascii() and length.isdigit()):
            self._say(Reply(HTTPStatus.LENGTH_REQUIRED, b"say how long the body is\n"), close=True)
        elif len(length) > 9 or int(length) > REQUEST_BYTES_MAX:
            self._say(Reply(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, b"the body is too long\n"), close=True)
        else:
            self._say(self._asked(self.rfile.read(int(length))))

    def do_GET(self) -> None:
        found = _CHECKPOINT.fullmatch(self.path)
        if found is None:
            self._say(Reply(HTTPStatus.NOT_FOUND, b"GET /<SHA-256 of the origin, hex>/checkpoint\n"))
        else:
            self._say(self.server.witness.checkpoint(found[1]))

    def _asked(self, body: bytes) -> Reply:
        try:
            return self.server.witness.add_checkpoint(body)
        except sqlite3.Error:  # nothing was cosigned
            return Reply(HTTPStatus.SERVICE_UNAVAILABLE, b"the witness cannot keep what it cosigns\n")

    def _say(self, reply: Reply, *, close: bool = False) -> None:
        self.send_response(reply.status)
        self.send_header("Content-Type", reply.content_type)
        self.send_header("Content-Length", str(len(reply.body)))
        if close:
            self.send_header("Connection", "close")
            self.close_connection = True
        self.end_headers()
        self.wfile.write(reply.body)

    def log_message(self, *_: object) -> None:
        """Nothing: what was cosigned is in the database, what was not is in the reply."""
