"""The entries that the recorder writes itself: genesis, heartbeat, recover, gap, epoch-close, outcome-unknown."""

from collections.abc import Callable
from typing import Any

import orjson

from ops.audit.errors import EntryError
from ops.audit.log.checkpoint import VerifierKey, open_note, signature_line
from ops.audit.log.entry import VERSION, canonical, check

TEXT_CHARACTERS_MAX = 512  # of a text in an entry


class OwnEntries:
    """Clock and randomness are given; each method returns the canonical bytes of one entry."""

    def __init__(self, build: str, now_ns: Callable[[], int], new_id: Callable[[], bytes], heartbeat_ms: int) -> None:
        self._build = build
        self.now_ns = now_ns
        self._new_id = new_id
        self._heartbeat_ms = heartbeat_ms

    def _entry(self, kind: str, **fields: object) -> bytes:
        shared = {"build": self._build, "id": self._new_id().hex(), "kind": kind, "v": VERSION}
        return canonical({**shared, "time_ns": str(self.now_ns()), **fields})

    def genesis(self, origin: str, vkey: str, *, previous: str = "") -> bytes:
        """`previous` is the last checkpoint of the log that this one follows."""
        follows = {"previous": previous} if previous else {}
        return self._entry("genesis", origin=origin, vkey=vkey, **follows)

    def heartbeat(self, sequence: int, size: int) -> bytes:
        return self._entry("heartbeat", sequence=sequence, size=size, interval_ms=self._heartbeat_ms)

    def recover(self, size: int, root: bytes, *, torn_bytes: int, unpublished: int) -> bytes:
        """`torn-tail` when bytes were left out, `crash` when something had not been published, else `restart`."""
        cause = "torn-tail" if torn_bytes else "crash" if unpublished else "restart"
        return self._entry("recover", cause=cause, cut_bytes=torn_bytes, root=root.hex(), size=size)

    def lost(self, origin: str, size: int, root: bytes, *, lost_end: int) -> bytes:
        """Of the log `origin` this much was brought back; its entries from `size` to `lost_end` were not."""
        fields = {"lost_end": lost_end, "origin": origin, "root": root.hex(), "size": size}
        return self._entry("recover", cause="restored", cut_bytes=0, **fields)

    def epoch_close(self, next_origin: str, size: int) -> bytes:
        """The last entry of an epoch of `size` entries before it."""
        return self._entry("epoch-close", next_origin=next_origin, size=size)

    def gap(self, state: str, reason: str, dropped: int) -> bytes:
        return self._entry("gap", state=state, reason=reason, dropped=dropped)

    def outcome_unknown(self, request_id: bytes, note: bytes, context: bytes) -> bytes:
        """What the ring knew of a request: `note` and `context` are JSON objects with fields of the entry.

        Fields that do not fit the schema are left out as a whole: the id alone is worth an entry.
        """
        known = {**_fields(context), **_fields(note)}
        fixed: dict[str, Any] = {"id": request_id.hex(), "decision": "error", "reason": "OUTCOME_UNKNOWN"}
        try:
            data = self._entry("outcome-unknown", **{"gateway": "unknown", **known, **fixed})
            check(data)
        except (EntryError, TypeError):
            data = self._entry("outcome-unknown", gateway="unknown", **fixed)
        return data


def previous_of(note: bytes, vkey: VerifierKey) -> str:
    """A checkpoint with the log's signature and no other, or without any where the log's name is too long for that."""
    opened = open_note(note, [vkey])
    lines = "".join(signature_line(key.name, key.id, signature) for key, signature in opened.signatures)
    text = f"{opened.text}\n{lines}"
    return text if len(text) <= TEXT_CHARACTERS_MAX else opened.text


def _fields(data: bytes) -> dict[str, Any]:
    try:
        value = orjson.loads(data)
    except orjson.JSONDecodeError:
        return {}
    return value if isinstance(value, dict) else {}
