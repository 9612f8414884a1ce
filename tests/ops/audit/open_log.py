"""The recorder's parts put together without its process: appending and publishing under the test's hand."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from ops.audit.log.shapes import Shapes
from ops.audit.log.tiles import frame_entry, join_pack
from ops.audit.store.appender import check_append, own_append
from ops.audit.store.lock import LockDatabase
from ops.audit.store.own_entries import OwnEntries
from ops.audit.store.publisher import Publisher
from ops.audit.store.segment_store import SegmentStore
from ops.audit.store.settings import RecorderSettings
from ops.audit.store.signer import Signer
from ops.audit.store.writing import find, go_on, prepare_directories
from tests.faults.recorder_process import KEY, ORIGIN, settings_in

VKEY = str(KEY.verifier)


class OpenLog:
    """An appender and a publisher on one directory, as the recorder builds them."""

    def __init__(self, settings: RecorderSettings, *, lock: LockDatabase | None = None) -> None:
        self.settings = settings
        self.directory = settings.directory
        prepare_directories(settings)
        state = settings.state_directory
        self.lock = lock or LockDatabase(state / "lock.sqlite", ORIGIN)
        self.store = SegmentStore(state / "segments", settings.segment_bytes)
        self.found = find(settings, KEY, self.lock, self.store)
        self.found_size, _ = self.found.edge.head()
        self.edge = self.found.edge
        self.signer = Signer(KEY, settings.signing_key.with_suffix(".signed"))
        self.publisher = Publisher(
            settings.directory,
            state / "staging",
            edge=self.edge,
            signer=self.signer,
            lock=self.lock,
            vkey=KEY.verifier,
        )
        self.publisher.check_signed()
        ids = iter(range(1, 1 << 30))
        self.clock_ns = 1_800_000_000_000_000_000
        self.own = OwnEntries("test", self._tick, lambda: next(ids).to_bytes(16, "big"), 5000)
        self.appender = go_on(settings, KEY, self.store, self.found, self.own)

    def _tick(self) -> int:
        self.clock_ns += 5_000_000_000
        return self.clock_ns

    def append(self, entries: Sequence[bytes], blobs: Sequence[bytes] = ()) -> int:
        """Commit; returns the index of the first."""
        first = self.appender.size
        self.appender.commit([check_append(b"".join(map(frame_entry, entries)), join_pack(blobs), Shapes())])
        return first

    def beat(self) -> None:
        entry = self.own.heartbeat(self.appender.heartbeats + 1, self.appender.size)
        self.appender.commit([own_append([entry])], heartbeats=1)

    def publish(self) -> None:
        while self.publisher.publish():
            self.store.retire(self.edge.published_size)

    def say(self, entries: Sequence[bytes], blobs: Sequence[bytes] = ()) -> int:
        """`append` and `publish`."""
        first = self.append(entries, blobs)
        self.publish()
        return first

    def close(self) -> None:
        self.publisher.close()
        self.appender.close()
        self.lock.close()


@contextmanager
def open_log(home: Path, **changes: object) -> Iterator[OpenLog]:
    log = OpenLog(settings_in(home, **changes))
    try:
        yield log
    finally:
        log.close()
