"""Where segments live: created durably, written by one committer, retired once everything in them is public.

`<number>.seg` in one directory. A new segment gets its header, its bytes and then its name, and the name is durable
before anything is acknowledged from it. One spare is kept written out with zeros (so that a commit's fdatasync changes
no metadata); a retired segment becomes the spare. The segment before the current one stays,
as the recent tail of the log.
"""

import errno
import os
import threading
from pathlib import Path

from ops.audit.errors import LogFull, Poisoned
from ops.audit.store.segments import HEADER_BYTES, Header
from ops.process.durable import remove_files, sync_directory, write_at

_ZEROS = bytes(1 << 20)
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT)


class OpenSegment:
    """The segment being written. `commit` returns once its bytes are durable."""

    def __init__(self, descriptor: int, number: int, capacity: int) -> None:
        self._descriptor = descriptor
        self._capacity = capacity
        self.number = number
        self.offset = HEADER_BYTES

    @property
    def room(self) -> int:
        return self._capacity - self.offset

    def commit(self, parts: list[bytes]) -> None:
        """Write at the offset and sync.

        Raises:
            Poisoned: on any I/O error; nothing may be acknowledged from this process any more.
        """
        try:
            end = write_at(self._descriptor, parts, self.offset)
            os.fdatasync(self._descriptor)
        except OSError as error:
            raise Poisoned(f"segment {self.number}: {error.strerror}") from error
        self.offset = end

    def close(self) -> None:
        os.close(self._descriptor)


class SegmentStore:
    """`begin` is the committer's, `prepare_spare` and `retire` are the publisher's; a lock keeps them apart."""

    def __init__(self, directory: Path, segment_bytes: int) -> None:
        self._directory = directory
        self._bytes = segment_bytes
        self._spare = directory / "spare"
        self._lock = threading.Lock()
        self._ends: dict[int, int] = {}  # closed segments: number -> tree size at their end
        remove_files(directory.glob("*.new"))

    def paths(self) -> list[Path]:
        """Segments in order."""
        return sorted(self._directory.glob("*.seg"))

    def closed(self, number: int, size: int) -> None:
        """Segment `number` ended at this tree size."""
        with self._lock:
            self._ends[number] = size

    def begin(self, header: Header) -> OpenSegment:
        """Open the segment that `header` begins; its name and header are durable.

        Raises:
            LogFull: no room for it; nothing has changed.
            Poisoned: any other I/O error, also no room to make its name durable.
        """
        path = self._directory / f"{header.number:012d}.seg"
        with self._lock:
            try:
                self._fill_spare()
                descriptor = os.open(self._spare, os.O_RDWR | os.O_CLOEXEC)
                try:
                    write_at(descriptor, [header.pack()], 0)
                    os.fsync(descriptor)
                    self._spare.rename(path)
                    sync_directory(self._directory)
                except BaseException:
                    os.close(descriptor)
                    raise
            except OSError as error:
                # Once it has its name it is the successor of the one before, which therefore ends where it ended: going
                # on there would lose what is acknowledged from it at the next start.
                if error.errno in _NO_ROOM and not path.exists():
                    raise LogFull(f"no room for {path}") from error
                raise Poisoned(f"{path}: {error.strerror}") from error
        return OpenSegment(descriptor, header.number, self._bytes)

    def prepare_spare(self) -> None:
        """Have the next segment's file ready before it is needed. OSError when there is no room."""
        with self._lock:
            self._fill_spare()

    def _fill_spare(self) -> None:
        if self._spare.exists() and self._spare.stat().st_size == self._bytes:
            return
        draft = self._directory / "spare.new"
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            os.posix_fallocate(descriptor, 0, self._bytes)
            for offset in range(0, self._bytes, len(_ZEROS)):
                write_at(descriptor, [_ZEROS[: self._bytes - offset]], offset)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        draft.rename(self._spare)

    def retire(self, published_size: int) -> None:
        """Recycle or remove the closed segments that hold nothing unpublished, except the newest of them.

        Oldest first, and each durably before the next or before its bytes are used again: a power cut must leave an
        unbroken run of segments, none of them with the header of another.
        """
        with self._lock:
            newest = max(self._ends, default=0)
            done = [number for number, end in self._ends.items() if end <= published_size and number != newest]
            for number in sorted(done):
                path = self._directory / f"{number:012d}.seg"
                if not path.exists():
                    pass  # an earlier turn came so far and found no room
                elif self._spare.exists() or path.stat().st_size != self._bytes:
                    path.unlink()
                else:
                    path.rename(self._spare)
                sync_directory(self._directory)
                del self._ends[number]
