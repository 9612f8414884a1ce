"""Replication of a published log to an object store: whole checkpoints, only ever forward, written once.

Rules:
1. The state is what the store has. Its `checkpoint` says how far it got, and a run begins there.
2. The log has to extend that checkpoint, and be what its own says (`log_growth`), before a byte of it is written: what
   is written cannot be taken back where the store locks it.
3. Tiles, bundles, packs and `checkpoints/<size>` are put where nothing stands, and read back. What stands there already
   must be the same, byte for byte; something else is a fork or tampering, and replication stops.
4. Nothing that a store says of a write is believed. "Written" and not there is a failure, "failed" and there is none.
5. `checkpoint`, the one key that moves, is replaced last, so all that it names is there and was read back.

A checkpoint's narrow tiles are written with it, so how often it runs decides how many of those there are. Packs that
belong to a narrow bundle hold what came since the store's checkpoint, as in a log itself.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path
from threading import Event
from typing import Protocol

import orjson

from ops.audit.copies.object_store import Below, Inspected, Lock, ObjectStore, checkpoint_key
from ops.audit.errors import (
    NoteError,
    ProofError,
    ReadError,
    ReplicaAhead,
    ReplicaDiffers,
    ReplicaUnlocked,
    StoreUnavailable,
)
from ops.audit.log.checkpoint import Checkpoint, VerifierKey, open_checkpoint
from ops.audit.log.entry import check, payload_hashes
from ops.audit.log.epochs import EPOCHS, epoch_at, epochs_of
from ops.audit.log.merkle import EMPTY_ROOT
from ops.audit.log.tiles import (
    BLOBS,
    ENTRIES,
    TILE_WIDTH,
    Tile,
    frame_entry,
    hash_tiles_between,
    join_pack,
    split_pack,
    tiles_between,
)
from ops.audit.reader.read import LogReader, pack_paths
from ops.audit.verify.growth import check_growth

CHECKPOINT = "checkpoint"
WRITERS = 8
GROUP_FILES_MAX = 64  # so many objects, or bytes, are in memory at once; a larger one is alone
GROUP_BYTES_MAX = 32 << 20
SLACK = timedelta(hours=1)  # what may have passed since an object was locked
COMPLIANCE = "COMPLIANCE"

Stored = tuple[str, bytes]


class Locks(Protocol):
    """A store that tells how it keeps objects."""

    def lock_of(self, key: str) -> Lock | None:
        """The lock of an object, None where it has none. Raises StoreUnavailable and StoreRefused."""


@dataclass(frozen=True, slots=True)
class Behind:
    """How much of a log is not known to be in the store: entries, and when the first of those came (ns since 1970)."""

    entries: int
    since_ns: int | None


@dataclass(slots=True)
class Replicator:
    """Brings `store` up to the newest checkpoint of the log in `directory`. One call at a time.

    `retention`: how long the store must keep what is written now, locked in COMPLIANCE mode; asked of `locks`.
    `held` is the checkpoint that was last seen in the store, None before the first look. Once `cut` is set, a run ends
    as if the store had gone away.
    """

    directory: Path
    store: ObjectStore
    vkey: VerifierKey
    now: Callable[[], datetime]
    locks: Locks | None = None
    retention: timedelta | None = None
    held: Checkpoint | None = field(default=None, init=False)
    cut: Event = field(default_factory=Event, init=False)

    def replicate(self) -> Checkpoint:
        """Have the newest checkpoint in the store, with all that it names. Returns it.

        Raises:
            StoreUnavailable, StoreRefused: not now; what was written stays, and the next call goes on from there.
            ReplicaDiffers, ReplicaAhead, ReplicaUnlocked, LogRejected: stop, and have somebody look.
            ReadError, OSError: the log cannot be read now.
        """
        old = self._in_store()
        reader = LogReader.open(self.directory, self.vkey)
        new = reader.checkpoint
        demand_extension(reader, old)
        self.held = old
        if new.size > old.size:
            note = self._note(new)
            check_growth(reader, self.directory, old.size)
            with ThreadPoolExecutor(WRITERS, thread_name_prefix="replicate") as pool:
                for group in _groups(_files(reader, self.directory, old.size)):
                    if self.cut.is_set():
                        raise StoreUnavailable("cut off between two groups of objects")
                    list(pool.map(lambda item: self._keep(*item), group))
            self._keep(checkpoint_key(new.size), note)
            self._demand_lock(checkpoint_key(new.size))
            self._move(note)
            # In the store, and read back: everything that this checkpoint names.
            self.held = new
        return new

    def behind(self) -> Behind:
        """How far the store is behind what is public. Asks only the log; from any thread.

        Raises:
            ReadError, NoteError, OSError: the log cannot be read now.
        """
        reader = LogReader.open(self.directory, self.vkey)
        held = 0 if self.held is None else self.held.size
        entries = reader.checkpoint.size - held
        if entries <= 0:
            return Behind(0, None)
        return Behind(entries, int(orjson.loads(reader.entries(held, 1)[0])["time_ns"]))

    def _in_store(self) -> Checkpoint:
        """The store's checkpoint; that of an empty log where there is none."""
        note = self.store.get(CHECKPOINT)
        if note is None:
            return Checkpoint(self.vkey.name, 0, EMPTY_ROOT)
        try:
            return open_checkpoint(note, [self.vkey])
        except NoteError as error:
            raise ReplicaDiffers(f"the checkpoint in the store is not one of this log: {error}") from error

    def _note(self, checkpoint: Checkpoint) -> bytes:
        """The log's checkpoint as it is public, unless it has moved on meanwhile."""
        note = (self.directory / CHECKPOINT).read_bytes()
        if open_checkpoint(note, [self.vkey]) != checkpoint:
            raise ReadError(f"{self.directory} has a newer checkpoint by now")
        return note

    def _keep(self, key: str, data: bytes) -> None:
        """Have an object in the store, and know that it is there."""
        problem: StoreUnavailable | None = None
        try:
            self.store.put_new(key, data)
        except StoreUnavailable as error:
            problem = error  # it may be there all the same
        found = self.store.get(key)
        if found is None:
            raise problem or StoreUnavailable(f"{key}: the store said that it is written, and it is not there")
        if found != data:
            theirs, ours = sha256(found).hexdigest(), sha256(data).hexdigest()
            raise ReplicaDiffers(f"{key}: the store holds {theirs} ({len(found)} bytes), the log {ours} ({len(data)})")

    def _move(self, note: bytes) -> None:
        """Replace the store's checkpoint, and know that it is replaced."""
        problem: StoreUnavailable | None = None
        try:
            self.store.replace(CHECKPOINT, note)
        except StoreUnavailable as error:
            problem = error
        if self.store.get(CHECKPOINT) != note:
            raise problem or StoreUnavailable("the store said that the checkpoint is written, and it is not")

    def _demand_lock(self, key: str) -> None:
        """Raise ReplicaUnlocked unless the store keeps what was just written as long as it must."""
        if self.retention is None or self.locks is None:
            return
        lock = self.locks.lock_of(key)
        if lock is None:
            raise ReplicaUnlocked(f"{key} is not locked: the bucket needs Object Lock with a default retention")
        if lock.mode != COMPLIANCE:
            raise ReplicaUnlocked(f"{key} is locked in mode {lock.mode}, which some may lift; it must be {COMPLIANCE}")
        if lock.until < self.now().astimezone(UTC) + self.retention - SLACK:
            raise ReplicaUnlocked(f"{key} is locked until {lock.until:%Y-%m-%d}, which is less than {self.retention}")


def demand_extension(reader: LogReader, old: Checkpoint, where: str = "the store") -> None:
    """Raise ReplicaAhead unless the log extends the checkpoint that is held there."""
    new = reader.checkpoint
    if new.size < old.size:
        raise ReplicaAhead(f"{where} has {old.size} records, the log {new.size}: an older copy of it was put back")
    try:
        reader.demand_extension(old)
    except ProofError as error:
        problem = f"a fork: the log holds another history than the {old.size} records that {where} has"
        raise ReplicaAhead(f"{problem} ({error})") from error


def _files(reader: LogReader, directory: Path, old: int) -> Iterator[Stored]:
    """All that the log's checkpoint has and one of size `old` lacks, the narrow tiles of its edge among it."""
    new = reader.checkpoint.size
    for tile in hash_tiles_between(old, new):
        yield tile.path, b"".join(reader.hashes(tile.level, tile.index * TILE_WIDTH, tile.width))
    for tile in tiles_between(ENTRIES, old, new):
        entries = reader.entries(tile.index * TILE_WIDTH, tile.width)
        yield tile.path, b"".join(map(frame_entry, entries))
        pack = _narrow_pack(directory, tile, entries, old) if tile.partial else _full_pack(directory, tile)
        if pack is not None:
            yield Tile(BLOBS, tile.index, tile.width).path, pack


def _full_pack(directory: Path, bundle: Tile) -> bytes | None:
    path = directory / Tile(BLOBS, bundle.index).full_path
    return path.read_bytes() if path.exists() else None


def _narrow_pack(directory: Path, bundle: Tile, entries: list[bytes], old: int) -> bytes | None:
    """The payloads that this bundle's entries from `old` on name, in their order; None where they name none."""
    fresh = entries[max(0, old - bundle.index * TILE_WIDTH) :]
    wanted = [digest for entry in fresh for digest in payload_hashes(check(entry))]
    if not wanted:
        return None
    try:
        packs = [split_pack(path.read_bytes()) for path in pack_paths(directory, bundle.index)]
    except FileNotFoundError:  # the full pack has replaced the narrow ones as we read
        packs = [split_pack(_full_pack(directory, bundle) or b"")]
    there = {sha256(blob).digest(): blob for pack in packs for blob in pack}
    if missing := [digest for digest in wanted if digest not in there]:
        raise ReadError(f"no payload {missing[0].hex()} in bundle {bundle.index}")
    return join_pack(there[digest] for digest in wanted)


def _groups(files: Iterator[Stored]) -> Iterator[list[Stored]]:
    """What is written side by side."""
    group: list[Stored] = []
    nbytes = 0
    for key, data in files:
        if group and (len(group) == GROUP_FILES_MAX or nbytes + len(data) > GROUP_BYTES_MAX):
            yield group
            group, nbytes = [], 0
        group.append((key, data))
        nbytes += len(data)
    if group:
        yield group


@dataclass(slots=True)
class EpochReplicator:
    """Brings `store` up to the newest checkpoint of each epoch of the log in `directory`. One call at a time.

    Oldest first, each below a prefix of its own. A closed epoch is whole in the store, and read back, before anything
    of the next one is written there. Where entries were dropped there is nothing to copy: `retention` has seen to it
    before that the store had them.

    Arguments as for `Replicator`. `number` is the epoch that is being copied.
    """

    directory: Path
    store: Inspected
    vkey: VerifierKey
    now: Callable[[], datetime]
    retention: timedelta | None = None
    number: int = field(default=1, init=False)
    cut: Event = field(default_factory=Event, init=False)
    _current: Replicator = field(init=False)

    def __post_init__(self) -> None:
        here = [each.number for each in epochs_of(self.directory, self.vkey) if not each.dropped]
        self.number = min(here, default=1)
        self._current = self._of(self.number)

    @property
    def held(self) -> Checkpoint | None:
        """What was last seen in the store of the epoch that is being copied."""
        return self._current.held

    def replicate(self) -> Checkpoint:
        """Have the newest checkpoint of each epoch in the store; returns the last. Raises as `Replicator.replicate`."""
        numbers = [each.number for each in epochs_of(self.directory, self.vkey)]
        # Whatever has a successor among these is closed, and copied whole before that.
        done = self._current.replicate()
        for number in range(self.number + 1, max(numbers, default=0) + 1):
            self._current, self.number = self._of(number), number
            done = self._current.replicate()
        return done

    def behind(self) -> Behind:
        """How far the store is behind what is public. Raises as `Replicator.behind`."""
        found = self._current.behind()
        later = [each.number for each in epochs_of(self.directory, self.vkey) if each.number > self.number]
        parts = [found, *(self._of(number).behind() for number in later)]
        since = [each.since_ns for each in parts if each.since_ns is not None]
        return Behind(sum(each.entries for each in parts), min(since, default=None))

    def store_of(self, number: int) -> Inspected:
        """Where an epoch is in the store."""
        return self.store if number == 1 else Below(self.store, f"{EPOCHS}/{number:04d}/")

    def _of(self, number: int) -> Replicator:
        epoch, store = epoch_at(self.directory, self.vkey, number), self.store_of(number)
        made = Replicator(epoch.directory, store, epoch.vkey, self.now, store, self.retention)
        made.cut = self.cut
        return made
