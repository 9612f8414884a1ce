"""A witness: cosigns a log's checkpoint when it extends all that it has cosigned of that log (c2sp.org/tlog-witness).

So that whoever holds a log's key and its machine cannot show one history to one and another to others. Rules:

1. For each origin there is one row: the largest checkpoint that was cosigned. It is read, compared and replaced in one
   transaction, and durable before the cosignature leaves (SQLite, synchronous=FULL).
2. What the log signed is not trusted for more than its signature: size and root must follow from the row by a
   consistency proof (RFC 6962, section 2.1.2).
3. Every request ends in one of the statuses of the protocol; nothing of it is kept unless it is cosigned.

It has its own key and its own database, and belongs on another organisation's machine.

Over HTTP it has `POST /add-checkpoint` and `GET /<origin hash>/checkpoint`, without credentials: a checkpoint carries
the signature of its log. Heads, bodies, connections and their time are bounded. TLS is a reverse proxy's.
"""

import re
import sqlite3
from base64 import b64encode
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass
from hashlib import sha256
from http import HTTPStatus
from pathlib import Path

from ops.audit.errors import NoteError, ProofError, SignatureInvalid, SignatureMissing
from ops.audit.log.checkpoint import (
    NOTE_BYTES_MAX,
    SIZE_MAX,
    Checkpoint,
    Note,
    VerifierKey,
    decode64,
    open_note,
    parse_checkpoint,
    signature_line,
)
from ops.audit.log.cosignature import Cosigner
from ops.audit.log.epochs import keys_for
from ops.audit.log.merkle import EMPTY_ROOT, HASH_BYTES, verify_consistency
from ops.process.bounded_http import BoundedHandler, BoundedServer
from ops.process.sqlite import transaction

PROOF_LINES_MAX = 63
REQUEST_BYTES_MAX = NOTE_BYTES_MAX + (PROOF_LINES_MAX + 2) * 64
BUSY_TIMEOUT_S = 10.0
TEXT = "text/plain; charset=utf-8"
SIZE = "text/x.tlog.size"


@dataclass(frozen=True, slots=True)
class Reply:
    """What goes back over HTTP."""

    status: HTTPStatus
    body: bytes
    content_type: str = TEXT


class _Refused(Exception):
    """The request ends here, with this status."""

    def __init__(self, status: HTTPStatus, problem: str, content_type: str = TEXT) -> None:
        super().__init__(problem)
        self.reply = Reply(status, f"{problem}\n".encode(), content_type)


@dataclass(frozen=True, slots=True)
class AddCheckpoint:
    """The body of `add-checkpoint`: the size that the witness has cosigned before, a proof from there, a checkpoint."""

    old: int
    proof: tuple[bytes, ...]
    note: bytes

    def body(self) -> bytes:
        """What is posted."""
        lines = [f"old {self.old}", *(b64encode(each).decode() for each in self.proof), "", ""]
        return "\n".join(lines).encode() + self.note


def parse_add_checkpoint(data: bytes) -> AddCheckpoint:
    """Read the body of `add-checkpoint`.

    Raises:
        ProofError: it is malformed.
    """
    head, gap, note = data.partition(b"\n\n")
    try:
        lines = head.decode("ascii").split("\n")
    except UnicodeDecodeError as error:
        raise ProofError("the lines before the checkpoint are not text") from error
    old = lines.pop(0)
    decimal = old.removeprefix("old ")
    if not gap or not old.startswith("old ") or not (decimal.isascii() and decimal.isdigit()) or len(decimal) > 19:
        raise ProofError("a request begins with `old <size>`, and an empty line goes before the checkpoint")
    if str(int(decimal)) != decimal or int(decimal) > SIZE_MAX:
        raise ProofError("the old size is not a decimal number of a tree's size")
    if len(lines) > PROOF_LINES_MAX:
        raise ProofError(f"a proof has at most {PROOF_LINES_MAX} lines")
    hashes = [decode64(line) for line in lines]
    if any(each is None or len(each) != HASH_BYTES for each in hashes):
        raise ProofError("a line of the proof is not a hash in base64")
    return AddCheckpoint(int(decimal), tuple(each for each in hashes if each is not None), note)


class WitnessStore:
    """What a witness has cosigned: one row an origin. A connection a call, so it serves several threads."""

    def __init__(self, path: Path) -> None:
        self._path = path
        with closing(self._connect()) as db:
            db.execute("PRAGMA journal_mode=WAL")
            db.execute(
                "CREATE TABLE IF NOT EXISTS cosigned (origin TEXT PRIMARY KEY, origin_hash TEXT NOT NULL UNIQUE, "
                "size INTEGER NOT NULL, root BLOB NOT NULL, note BLOB NOT NULL) STRICT"
            )

    def _connect(self) -> sqlite3.Connection:
        db = sqlite3.connect(self._path, timeout=BUSY_TIMEOUT_S, isolation_level=None)
        db.execute("PRAGMA synchronous=FULL")
        return db

    def advance(self, origin: str, step: Callable[[Checkpoint], tuple[Checkpoint, bytes]]) -> bytes:
        """Replace what was cosigned of an origin by what `step` makes of it, in one transaction; returns the new note.

        What `step` raises leaves everything as it was.
        """
        with closing(self._connect()) as db, transaction(db):
            row = db.execute("SELECT size, root FROM cosigned WHERE origin = ?", (origin,)).fetchone()
            held = Checkpoint(origin, 0, EMPTY_ROOT) if row is None else Checkpoint(origin, row[0], bytes(row[1]))
            checkpoint, note = step(held)
            db.execute(
                "INSERT INTO cosigned (origin, origin_hash, size, root, note) VALUES (?, ?, ?, ?, ?) "
                "ON CONFLICT (origin) DO UPDATE SET size = excluded.size, root = excluded.root, note = excluded.note",
                (origin, sha256(origin.encode()).hexdigest(), checkpoint.size, checkpoint.root, note),
            )
        return note

    def note(self, origin_hash: str) -> bytes | None:
        """The newest cosigned checkpoint of the origin with this SHA-256 (hex), or None."""
        with closing(self._connect()) as db:
            row = db.execute("SELECT note FROM cosigned WHERE origin_hash = ?", (origin_hash,)).fetchone()
        return None if row is None else bytes(row[0])


class Witness:
    """Answers the requests of the protocol. `clock_s` gives whole seconds since 1970. Safe for several threads."""

    def __init__(
        self,
        cosigners: Sequence[Cosigner],
        logs: Iterable[VerifierKey],
        store: WitnessStore,
        *,
        clock_s: Callable[[], int],
    ) -> None:
        self._cosigners = tuple(cosigners)
        self._logs = tuple(logs)
        self._store = store
        self._clock_s = clock_s

    def add_checkpoint(self, data: bytes) -> Reply:
        """`POST <prefix>/add-checkpoint`: cosign, or say in the protocol's terms why not."""
        try:
            request = parse_add_checkpoint(data)
            note = self._opened(request.note)
            head = parse_checkpoint(note.text, extensions=True)
            lines: list[str] = []

            def step(held: Checkpoint) -> tuple[Checkpoint, bytes]:
                _demand_extension(held, request, head)
                lines.extend(each.cosign(note.text.encode(), self._clock_s()) for each in self._cosigners)
                return head, _kept(note, lines)

            self._store.advance(head.origin, step)
        except ProofError as error:
            return Reply(HTTPStatus.BAD_REQUEST, f"{error}\n".encode())
        except _Refused as refused:
            return refused.reply
        return Reply(HTTPStatus.OK, "".join(lines).encode())

    def checkpoint(self, origin_hash: str) -> Reply:
        """`GET <prefix>/<origin hash>/checkpoint`: the newest that was cosigned."""
        note = self._store.note(origin_hash)
        if note is None:
            return Reply(HTTPStatus.NOT_FOUND, b"nothing of this log has been cosigned\n")
        return Reply(HTTPStatus.OK, note)

    def _opened(self, data: bytes) -> Note:
        """The checkpoint's note, signed by a key that we know of its origin: a log, or one of its epochs."""
        origin = data.partition(b"\n")[0].decode("utf-8", "replace")
        keys = [key for key in keys_for(data, self._logs) if key.name == origin]
        if not keys:
            raise _Refused(HTTPStatus.NOT_FOUND, "this log is not known here")
        try:
            note = open_note(data, keys)
            parse_checkpoint(note.text, extensions=True)
        except (SignatureMissing, SignatureInvalid) as error:
            raise _Refused(HTTPStatus.FORBIDDEN, str(error)) from error
        except NoteError as error:
            raise _Refused(HTTPStatus.BAD_REQUEST, str(error)) from error
        return note


def _demand_extension(held: Checkpoint, request: AddCheckpoint, head: Checkpoint) -> None:
    """See that the checkpoint extends what is held, by the proof of the request."""
    if request.old > head.size:
        raise _Refused(HTTPStatus.BAD_REQUEST, "the old size is larger than the checkpoint's")
    if request.old != held.size:
        raise _Refused(HTTPStatus.CONFLICT, str(held.size), SIZE)
    if head.size == 0 and head.root != EMPTY_ROOT:
        raise _Refused(HTTPStatus.UNPROCESSABLE_ENTITY, "this is not the root of the empty tree")
    try:
        verify_consistency(held.size, head.size, request.proof, held.root, head.root)
    except ProofError as error:
        raise _Refused(HTTPStatus.UNPROCESSABLE_ENTITY, str(error)) from error


def _kept(note: Note, lines: Sequence[str]) -> bytes:
    """The note as it is served: its text, the signatures by keys that we know, our cosignatures."""
    known = [signature_line(key.name, key.id, signature) for key, signature in note.signatures]
    return f"{note.text}\n{''.join([*known, *lines])}".encode()


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
