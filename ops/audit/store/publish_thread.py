"""The publishing thread: once a second, or sooner when much waits, so that acknowledgements never wait for it.

It also watches the disk, keeps the reserve and the spare segment, and retires segments. What it cannot do for lack of
room it tries again at the next turn; any other failure stops the recorder.
"""

import errno
import os
import sqlite3
import threading
from collections.abc import Callable
from pathlib import Path

from ops.audit.errors import AuditError, Poisoned
from ops.audit.store.edge import Edge
from ops.audit.store.publisher import Publisher
from ops.audit.store.segment_store import SegmentStore
from ops.audit.store.settings import RecorderSettings
from ops.process.logging import Log

RESUME_POINTS = 2  # appends are taken again this far below the limit, or they would stop again at once
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT)


class PublishThread:
    """`grown`, `check`, `no_room` and the properties are the committer's; everything else happens in the thread."""

    def __init__(
        self,
        settings: RecorderSettings,
        *,
        edge: Edge,
        publisher: Publisher,
        store: SegmentStore,
        wake: Callable[[], None],
        published: Callable[[int], None],
        log: Log,
    ) -> None:
        self.edge = edge
        self._settings = settings
        self._publisher = publisher
        self._store = store
        self._wake = wake
        self._published = published
        self._log = log
        self._disk_full = False
        self._turns = 0  # that ended well, with a spare segment ready
        self._stuck_at = -1  # the turn at which there was no room for a segment
        self._warned = False
        self._reserve = settings.state_directory / "reserve"
        self._due = threading.Event()
        self._stop = False
        self._abandoned = False
        self._failure: Exception | None = None
        self._thread = threading.Thread(target=self._run, name="publish")

    def start(self) -> None:
        self._due.set()  # what is durable already is public at once, so a log that is served can be verified
        self._thread.start()

    def grown(self) -> None:
        """More is durable: publish early when much waits."""
        if self.edge.backlog >= self._settings.publish_records:
            self._due.set()

    @property
    def full(self) -> bool:
        """Whether appends are to be refused: the disk is full, or no turn has ended well since there was `no_room`."""
        return self._disk_full or self._stuck_at == self._turns

    def no_room(self) -> None:
        """There was no room for a segment."""
        self._stuck_at = self._turns

    def hurry(self) -> None:
        """Publish what is durable now."""
        self._due.set()

    def check(self) -> None:
        """Raises what stopped the thread, if something did."""
        if self._failure is not None:
            raise self._failure

    def finish(self) -> None:
        """Publish all that is durable, then stop. Raises as `check`."""
        self._stop = True
        self._due.set()
        self._thread.join()
        self._publisher.close()
        self.check()

    def abandon(self) -> None:
        """Stop without publishing: after poison nothing may follow."""
        self._abandoned = True
        self._due.set()
        self._thread.join()
        self._publisher.close()

    def _run(self) -> None:
        try:
            stopping = False
            while not stopping:
                self._due.wait(self._settings.publish_every_ms / 1000)
                self._due.clear()
                if self._abandoned:
                    return
                stopping = self._stop
                self._turn(stopping)
        except Exception as error:  # noqa: BLE001  whatever it is: a log that is never published must not grow
            known = isinstance(error, OSError | sqlite3.Error)
            problem = error.strerror if isinstance(error, OSError) else error if known else type(error).__name__
            self._failure = error if isinstance(error, AuditError) else Poisoned(f"publishing failed: {problem}")
            self._wake()

    def _turn(self, stopping: bool) -> None:
        """One publication; at the end, as many as it takes. Under load there is always more, and no end to it."""
        try:
            self._watch_disk()
            while self._publisher.publish():
                self._published(self.edge.published_size)
                self._store.retire(self.edge.published_size)
                if not stopping:
                    break
            self._store.prepare_spare()
            self._turns += 1
        except OSError as error:
            if error.errno not in _NO_ROOM:
                raise
            self._log("audit-disk", level="warning", problem="no room to publish")
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_FULL:
                raise
            self._log("audit-disk", level="warning", problem="no room to publish")

    def _watch_disk(self) -> None:
        """Warn, stop at the limit and give up the reserve, or take it back when there is room for it again."""
        settings = self._settings
        missing = 0 if self._reserve.exists() else settings.reserve_bytes
        used = disk_used_percent(settings.state_directory)
        with_reserve = disk_used_percent(settings.state_directory, missing)
        full = appends_stop(self._disk_full, with_reserve if self._disk_full else used, settings.disk_stop_percent)
        if full != self._disk_full:
            problem = "appends are refused" if full else "appends are taken again"
            self._log("audit-disk", level="warning", problem=problem, used_percent=used)
        self._disk_full = full
        if full:
            self._reserve.unlink(missing_ok=True)
            return
        if (used >= settings.disk_warn_percent) != self._warned:
            self._warned = not self._warned
            self._log("audit-disk", level="warning", used_percent=used)
        if missing and with_reserve < settings.disk_stop_percent - RESUME_POINTS:
            keep_reserve(self._reserve, missing)


def appends_stop(stopped: bool, used_percent: int, stop_percent: int) -> bool:
    """Whether appends are refused: from the limit on, until there is room enough below it."""
    return used_percent >= (stop_percent - RESUME_POINTS if stopped else stop_percent)


def disk_used_percent(directory: Path, held_back: int = 0) -> int:
    """How full the filesystem is for us, with so many bytes more in use: the number that `df` shows."""
    return used_percent(os.statvfs(directory), held_back)


def used_percent(stat: os.statvfs_result, held_back: int = 0) -> int:
    """Used, of what is used or free for us, rounded up. Free blocks that are kept for others are neither."""
    used = stat.f_blocks - stat.f_bfree
    whole = max(used + stat.f_bavail, 1)
    used = min(used + held_back // stat.f_frsize, whole)
    return -(-100 * used // whole)


def keep_reserve(path: Path, size: int) -> None:
    """Occupy room that can be given up later."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        os.posix_fallocate(descriptor, 0, size)
    except OSError:
        path.unlink()
        raise
    finally:
        os.close(descriptor)
