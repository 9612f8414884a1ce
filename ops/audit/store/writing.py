"""The epoch that is being written: opened on whatever is there, and followed by the next one when it is closed.

An epoch ends in this order, each step durable before the next:

1. the `epoch-close` entry is committed: from here on nothing else is (`appender`);
2. all of it is public, under a checkpoint that is the last of its origin;
3. the next epoch has its directories, its first segment, and in it the `genesis` entry with that checkpoint;
4. the segments of the closed epoch are removed: all that they held is public.

A start does the same from wherever it stands. It takes the newest epoch that has a checkpoint. If that one is closed
in public, the next one is opened, which may have nothing yet; if in its segments alone, it is published first.

The segments of an epoch are its own. Their numbers go on from epoch to epoch, as their files do: by its number a frame
is told from those that its file held before. The lock database, which has a row for each origin, and the signer's
memory are the log's: once an epoch has a signed checkpoint, none before it gets another one.
"""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from shutil import rmtree
from typing import Protocol

from ops.audit.errors import NoteError, ReadError
from ops.audit.log.checkpoint import Checkpoint, SignerKey
from ops.audit.log.entry import check
from ops.audit.log.epochs import NUMBER_MAX, Epoch, epoch_at, newest_epoch, origin_of, place_of
from ops.audit.log.schemas import EpochClose
from ops.audit.log.tiles import frame_entry, split_entries
from ops.audit.reader.read import LogReader
from ops.audit.store.appender import Appender, own_append
from ops.audit.store.edge import Edge
from ops.audit.store.lock import LockDatabase
from ops.audit.store.own_entries import OwnEntries, previous_of
from ops.audit.store.publish_thread import PublishThread
from ops.audit.store.publisher import Publisher
from ops.audit.store.recovery import Recovered, read_checkpoint, recover
from ops.audit.store.segment_store import SegmentStore
from ops.audit.store.settings import RecorderSettings
from ops.audit.store.signer import Signer
from ops.process.durable import make_directories, remove_files, sync_directory, sync_file

MONTHS = 12
END_RECORDS = 16_384
NS = 1_000_000_000


def prepare_directories(settings: RecorderSettings) -> None:
    """Everything the recorder writes to exists, durably: also what a process made that was killed before its sync."""
    state = settings.state_directory
    changed: set[Path] = set()
    for directory in (settings.directory, state, state / "segments", state / "staging", settings.rings_directory):
        changed |= {*make_directories(directory), directory.parent}
    for each in sorted(changed):
        sync_directory(each)


def opening_entry(
    own: OwnEntries, settings: RecorderSettings, key: SignerKey, found: Recovered, previous: str
) -> bytes:
    """Genesis on an empty log, else `recover`, which says what this start found."""
    size, root = found.edge.head()
    if size == 0:
        return own.genesis(settings.origin, str(key.verifier), previous=previous)
    return own.recover(size, root, torn_bytes=found.torn_bytes, unpublished=found.edge.backlog)


def find(settings: RecorderSettings, key: SignerKey, lock: LockDatabase, store: SegmentStore) -> Recovered:
    """The durable log, read and checked.

    It is made durable first. A recorder that was killed may have left a group, or the name of a checkpoint, in memory
    alone: what is built on it now must not outlive it.
    """
    segments = store.paths()
    for path in segments:
        sync_file(path)
    for directory in (settings.state_directory / "segments", settings.directory):
        sync_directory(directory)
    public_file = settings.directory / "checkpoint"
    public = public_file.read_bytes() if public_file.exists() else None
    found = recover(
        settings.directory,
        segments,
        settings.origin,
        public=read_checkpoint(public, key.verifier, public_file),
        signed=read_checkpoint(lock.read(), key.verifier, settings.state_directory / "lock.sqlite"),
    )
    for number, size in found.ends:
        store.closed(number, size)
    return found


def go_on(
    settings: RecorderSettings,
    key: SignerKey,
    store: SegmentStore,
    found: Recovered,
    own: OwnEntries,
    *,
    previous: str = "",
) -> Appender:
    """An appender in a new segment behind what was found, with the entry that says so.

    `previous` is the last checkpoint of the epoch before, for the first entry of this one.
    """
    first = opening_entry(own, settings, key, found, previous)
    appender = Appender(
        store,
        found.edge,
        found.frontier,
        settings.origin,
        number=found.next_number,
        previous=found.previous,
        heartbeats=found.heartbeats,
    )
    appender.commit([own_append([first])])
    return appender


class Publishing(Protocol):
    """Makes the thread that publishes an epoch."""

    def __call__(
        self, settings: RecorderSettings, *, edge: Edge, publisher: Publisher, store: SegmentStore
    ) -> PublishThread: ...


@dataclass(slots=True)
class Writing:
    """The current epoch and its parts. Used from the committing thread.

    Args:
        settings: of the recorder: those of the first epoch.
        key: likewise.
        own: the recorder's own entries, and its clock.
        publishing_of: see `Publishing`.
        reached: told when a step of a change of epochs is done, by its name; tests end the process there.
    """

    settings: RecorderSettings
    key: SignerKey
    own: OwnEntries
    publishing_of: Publishing
    reached: Callable[[str], None]
    number: int = field(default=0, init=False)
    changing: bool = field(default=False, init=False)  # an epoch is closed, and the next one not begun
    appender: Appender = field(init=False)
    publishing: PublishThread = field(init=False)
    tail: list[bytes] = field(default_factory=list, init=False)  # framed entries that were there at the start
    _lock: LockDatabase = field(init=False)
    _began: int = field(default=0, init=False)  # the month of the calendar

    def open(self) -> None:
        """Open the newest epoch, or the one after it where that is closed. Nothing is published yet.

        Raises:
            RecorderError: what is there cannot be gone on with.
        """
        newest = newest_epoch(self.settings.directory, self.key.verifier)
        self.changing = closed_in_public(newest)
        number = newest.number + self.changing
        while not self._opened(number):
            self.changing = True
            number += 1
        if self.number > 1:
            self.tail = [*self._end_of(self.number - 1), *self.tail]
        self._clear(self.number - 1)

    @property
    def origin(self) -> str:
        """Of the epoch."""
        return origin_of(self.settings.origin, self.number)

    @property
    def just_begun(self) -> bool:
        """Whether it follows another epoch and has nothing yet but its first entry."""
        return self.number > 1 and self.appender.size == 1

    @property
    def due(self) -> bool:
        """Whether the epoch has as many records as it may have, or began as long ago. The last one is never closed."""
        settings = self.settings
        full = 0 < settings.epoch_records_max <= self.appender.size
        old = 0 < settings.epoch_months <= month_of(self.own.now_ns()) - self._began
        return (full or old) and self.number < NUMBER_MAX

    def closing_entry(self) -> bytes:
        """What closes the epoch once it is committed."""
        return self.own.epoch_close(origin_of(self.settings.origin, self.number + 1), self.appender.size)

    def follow(self) -> bool:
        """Open the next epoch once the closed one is public. Returns whether it is open."""
        self.changing = True
        if self.publishing.edge.backlog:
            self.publishing.hurry()
            return False
        self.reached("published")
        self.publishing.finish()
        appender, lock = self.appender, self._lock
        self._opened(self.number + 1)
        self.publishing.start()
        appender.close()
        lock.close()
        self._clear(self.number - 1)
        return True

    def close(self) -> None:
        """Let go of the epoch's files."""
        self.appender.close()
        self._lock.close()

    def _settings_of(self, number: int) -> RecorderSettings:
        settings = self.settings
        return replace(
            settings,
            directory=place_of(settings.directory, number),
            state_directory=place_of(settings.state_directory, number),
            origin=origin_of(settings.origin, number),
        )

    def _opened(self, number: int) -> bool:
        """Open an epoch, or publish what is left of it where it is closed. Returns whether it is open."""
        settings = self._settings_of(number)
        key = SignerKey(settings.origin, self.key.seed)
        prepare_directories(settings)
        for each in (self.settings.directory, self.settings.state_directory):
            sync_directory(each)
        self._inherit(number)
        lock = LockDatabase(self.settings.state_directory / "lock.sqlite", settings.origin)
        store = SegmentStore(settings.state_directory / "segments", settings.segment_bytes)
        found = find(settings, key, lock, store)
        publisher = Publisher(
            settings.directory,
            settings.state_directory / "staging",
            edge=found.edge,
            signer=Signer(key, settings.signing_key.with_suffix(".signed"), self.settings.origin),
            lock=lock,
            vkey=key.verifier,
        )
        publisher.check_signed()
        self.tail += found.tail
        if ends_closed(found):
            while publisher.publish():
                pass
            publisher.close()
            lock.close()
            return False
        self.reached("prepared")
        self._began = month_of(self._first_ns(settings, found))
        found = replace(found, next_number=max(found.next_number, self._last_segment(number - 1) + 1))
        self.appender = go_on(settings, key, store, found, self.own, previous=self._previous(number))
        self.reached("begun")
        self.publishing = self.publishing_of(settings, edge=found.edge, publisher=publisher, store=store)
        self.number, self._lock, self.changing = number, lock, False
        return True

    def _first_ns(self, settings: RecorderSettings, found: Recovered) -> int:
        """When the epoch began: the time of its first entry, or now where it has none."""
        size = found.edge.published_size
        if size:
            first = LogReader(settings.directory, Checkpoint(settings.origin, size, b"")).entries(0, 1)
        else:
            first = split_entries(found.tail[0])[:1] if found.tail else []
        return int(check(first[0]).time_ns) if first else self.own.now_ns()

    def _previous(self, number: int) -> str:
        if number == 1:
            return ""
        before = epoch_at(self.settings.directory, self.key.verifier, number - 1)
        return previous_of((before.directory / "checkpoint").read_bytes(), before.vkey)

    def _end_of(self, number: int) -> list[bytes]:
        """The last entries of an epoch, framed: what was in flight when it was closed may be among them."""
        epoch = epoch_at(self.settings.directory, self.key.verifier, number)
        with suppress(ReadError):  # it is not here any more
            reader = LogReader.open(epoch.directory, epoch.vkey)
            count = min(reader.checkpoint.size, END_RECORDS)
            return [frame_entry(each) for each in reader.entries(reader.checkpoint.size - count, count)]
        return []

    def _last_segment(self, number: int) -> int:
        """The number of the last segment of an epoch, 0 where none is left: the next epoch has one of its own then."""
        segments = place_of(self.settings.state_directory, number) / "segments"
        return max((int(path.stem) for path in segments.glob("*.seg")), default=0)

    def _inherit(self, number: int) -> None:
        """Take the spare segment of the epoch before, which is as good as a new one and costs nothing."""
        if number > 1:
            before = place_of(self.settings.state_directory, number - 1) / "segments" / "spare"
            with suppress(FileNotFoundError):
                before.rename(place_of(self.settings.state_directory, number) / "segments" / "spare")

    def _clear(self, number: int) -> None:
        """Remove what the recorder kept of an epoch that is closed and public."""
        if number < 1:
            return
        state = place_of(self.settings.state_directory, number)
        for name in ("segments", "staging"):
            rmtree(state / name, ignore_errors=True)
        remove_files([state / "reserve"])
        if number > 1:
            rmtree(state, ignore_errors=True)
        self.reached("cleared")


def closed_in_public(epoch: Epoch) -> bool:
    """Whether the public log of an epoch ends with the entry that closes it. What is damaged is not closed."""
    with suppress(NoteError, ReadError):
        reader = LogReader.open(epoch.directory, epoch.vkey)
        size = reader.checkpoint.size
        return size > 0 and isinstance(check(reader.entries(size - 1, 1)[0]), EpochClose)
    return False


def ends_closed(found: Recovered) -> bool:
    """Whether the durable log ends with the entry that closes it."""
    return bool(found.tail) and isinstance(check(split_entries(found.tail[-1])[-1]), EpochClose)


def month_of(time_ns: int) -> int:
    """Months of the calendar since the year 0, in UTC."""
    at = datetime.fromtimestamp(time_ns / NS, UTC)
    return at.year * MONTHS + at.month
