"""Small real implementations of our Protocols, for tests of what stands on them. Each passes its contract suite."""

import asyncio
import threading
from collections.abc import Sequence
from hashlib import sha256

from ops.audit.errors import AuditError, AuditUnavailable, Unavailability
from ops.audit.log import entry
from ops.audit.log.shapes import Shapes
from ops.audit.log.tiles import frame_entry, join_pack
from ops.audit.store.appender import check_append
from ops.audit.store.client import Done, Receipt


class FakeAuditSink:
    """An `AuditSink` in memory: as strict about entries as the log, durable for as long as the test.

    Attributes:
        entries: what was recorded, in order.
        blobs: payloads by SHA-256.
        unavailable: set it to a reason and every append is refused with it.
    """

    def __init__(self, origin: str = "fake.test/log") -> None:
        self.origin = origin
        self.entries: list[bytes] = []
        self.blobs: dict[bytes, bytes] = {}
        self.unavailable: Unavailability | None = None
        self._loop = asyncio.get_running_loop()
        self._lock = threading.Lock()
        self._shapes = Shapes()

    def append(self, entries: Sequence[bytes], done: Done, *, blobs: Sequence[bytes] = ()) -> None:
        """See `AuditSink.append`."""
        self._loop.call_soon_threadsafe(done, self._record(entries, blobs))

    def _record(self, entries: Sequence[bytes], blobs: Sequence[bytes]) -> Receipt | AuditUnavailable:
        if self.unavailable is not None:
            return AuditUnavailable(self.unavailable)
        if any(len(each) > entry.ENTRY_BYTES_MAX for each in entries):
            return AuditUnavailable("append_too_large")
        try:
            check_append(b"".join(map(frame_entry, entries)), join_pack(blobs), self._shapes)
        except AuditError:
            return AuditUnavailable("log_refused", "invalid entry")
        with self._lock:
            first = len(self.entries)
            self.entries += entries
            self.blobs |= {sha256(each).digest(): each for each in blobs}
        return Receipt(self.origin, first, len(entries))
