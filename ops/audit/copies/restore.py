"""Bring a log back from what is left of it: the best checkpoint that anybody holds, and each file by its hash.

Rules:
1. Nothing that a source says is believed. A checkpoint counts when the log's key signed it. Tiles are checked from the
   root down, entries against their leaf hashes, payloads against the digests that entries name. A damaged source costs
   its own files, so several damaged ones may give a whole log together.
2. Two checkpoints that cannot lie in one history are a fork: then nothing is restored.
3. What is restored is a tree that was signed: the smallest one known that holds what is asked for, else the largest one
   that the sources can give.
4. The target's `checkpoint` comes last, when all that it names is there and durable. A run that was interrupted is gone
   on with: what is there is a source like any other, and the first one.
5. Whether the origin may go on is told by `Restoration.newer` and `later_epoch`, and done by `succession`. Nothing is
   sealed or opened here.

Sources (`sources`) are directories and object stores. A store that keeps each of its checkpoints is asked for the one
that the target needs; the others are not read.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from ops.audit.copies.object_store import CHECKPOINTS, checkpoint_key
from ops.audit.copies.restore_files import INCOMING, TreeFiles
from ops.audit.copies.sources import DirectorySource, Source, numbers, read_or_none, versions
from ops.audit.errors import (
    EntryError,
    HistoriesDiffer,
    NoteError,
    NothingToRestore,
    ProofError,
    RestoreIncomplete,
    RestoreRefused,
    TileError,
)
from ops.audit.log.checkpoint import Checkpoint, VerifierKey, open_checkpoint
from ops.audit.log.entry import check
from ops.audit.log.epochs import EPOCHS, keys_for, split_origin
from ops.audit.log.tiles import ENTRIES, TILE_WIDTH, Tile, split_bundle
from ops.audit.reader.read import LogReader
from ops.process.durable import make_directories, replace_file, sync_directory

CHECKPOINT = "checkpoint"
OURS = {CHECKPOINT, "tile", "blobs", EPOCHS, INCOMING}

Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Seen:
    """A checkpoint that somebody holds, as it was found; `where` is for people."""

    note: bytes
    checkpoint: Checkpoint
    where: str


@dataclass(frozen=True, slots=True)
class Target:
    """What has to be in the restored log: an entry, all up to a time, or a certain tree. Nothing: all there is."""

    index: int | None = None
    time_ns: int | None = None
    size: int | None = None


@dataclass(slots=True)
class Restoration:
    """What was restored. `newer` are the checkpoints beyond it: what lies in between is lost, or was not asked for."""

    seen: Seen
    newer: tuple[Seen, ...]
    files: int = 0
    kept: int = 0
    payloads_missing: int = 0
    hashes_only: bool = False  # its entries were dropped

    @property
    def lost_end(self) -> int:
        """The size of the largest tree known: entries from the restored size up to it are not here."""
        return max([self.seen.checkpoint.size, *(each.checkpoint.size for each in self.newer)])


def seen_in(
    sources: Sequence[Source], notes: Iterable[tuple[str, bytes]], vkey: VerifierKey, target: Target
) -> list[Seen]:
    """The checkpoints in these sources and notes that the log's key signed; others are as none. Raises StoreError."""
    found: list[Seen] = []
    for where, note in (*_notes(sources, target), *notes):
        try:
            found.append(Seen(note, open_checkpoint(note, [vkey]), where))
        except NoteError:
            continue
    return found


def later_epoch(following: Iterable[Source], notes: Iterable[tuple[str, bytes]], vkey: VerifierKey) -> Seen | None:
    """A checkpoint that the log's key signed for an epoch after that of `vkey`, which then does not go on.

    `following`: where copies of the log would have the next epoch. Raises StoreError.
    """
    log, number = split_origin(vkey.name)
    key = VerifierKey(log, vkey.public_key)
    held = [(each.where, each.read(CHECKPOINT) or b"") for each in following]
    for where, note in (*held, *notes):
        with suppress(NoteError):
            seen = Seen(note, open_checkpoint(note, keys_for(note, [key])), where)
            if split_origin(seen.checkpoint.origin)[1] > number:
                return seen
    return None


def _notes(sources: Sequence[Source], target: Target) -> Iterator[tuple[str, bytes]]:
    """The newest checkpoint of each source, and of those that it keeps the smallest one that holds the target."""
    for source in sources:  # before anything else is asked: a store that is silent here must not look like one without
        if (note := source.read(CHECKPOINT)) is not None:
            yield source.where, note
    for source in sources:
        kept = _kept_for(source, sources, target)
        if kept is not None and (note := source.read(checkpoint_key(kept))) is not None:
            yield source.where, note


def _kept_for(source: Source, sources: Sequence[Source], target: Target) -> int | None:
    if target == Target():
        return None
    sizes = numbers(source, CHECKPOINTS)
    if target.size is not None:
        at = bisect_left(sizes, target.size)
    elif target.index is not None:
        at = bisect_right(sizes, target.index)
    else:
        at = bisect_left(sizes, target.time_ns or 0, key=lambda size: _last_time_ns(size, sources))
    return sizes[at] if at < len(sizes) else None


def restore_log(
    sources: Sequence[Source],
    out: Path,
    vkey: VerifierKey,
    *,
    notes: Sequence[tuple[str, bytes]] = (),
    target: Target | None = None,
    progress: Progress | None = None,
    dropped: bool = False,
) -> Restoration:
    """Restore a log into `out`.

    Args:
        sources: what holds the log, or what is left of it.
        out: where it goes; what an earlier run left there is gone on with.
        vkey: the log's key; not from the machine that was lost.
        notes: checkpoints known from elsewhere, each with where it is from: cosigned ones, those of witnesses.
        target: what has to be in it.
        progress: called with (entries done, entries in all).
        dropped: its entries were removed, as a later epoch says: where no source has any, hashes are all there is.

    Raises:
        NothingToRestore: no checkpoint of this log, or none that holds the target.
        RestoreRefused: `out` holds something else, or more.
        HistoriesDiffer: two checkpoints that are of one key and not of one history.
        RestoreIncomplete: files that no source has as they should be; what is right stays in `out`.
        StoreError: an object store does not answer, or refuses; what was fetched stays in `out`. Call again.
        OSError: `out` cannot be written. Call again.
    """
    _demand_room(sources, out, vkey)
    places = [DirectorySource(out), *sources]
    wanted = target or Target()
    known = seen_in(places, notes, vkey, wanted)
    if not known:
        raise NothingToRestore(f"none of the sources holds a checkpoint of {vkey.name} under this key")
    problem: RestoreIncomplete | None = None
    for seen in _candidates(known, places, wanted):
        work = TreeFiles(places, out, seen.checkpoint)
        edge = work.edge()
        if (held := _held(out, vkey)) > seen.checkpoint.size:
            raise RestoreRefused(f"{out} holds {held} entries of this log already; name a new directory")
        if edge is None:
            problem = problem or RestoreIncomplete([f"the right edge of the tree of size {seen.checkpoint.size}"])
            continue
        done = Restoration(seen, tuple(each for each in known if each.checkpoint.size > seen.checkpoint.size))
        done.hashes_only = dropped and not _has_entries(places)
        work.restore(edge, progress, hashes_only=done.hashes_only)
        _demand_one_history(known, work, seen)
        done.files, done.kept, done.payloads_missing = work.written, work.kept, work.payloads_missing
        replace_file(out / CHECKPOINT, seen.note)
        # Durable, and checked: everything that the checkpoint names.
        return done
    raise problem or NothingToRestore("no checkpoint that is known holds what is asked for")


def _has_entries(places: Iterable[Source]) -> bool:
    """Whether any source has the first bundle of the log."""
    return any(next(versions(place, Tile(ENTRIES, 0, 1)), None) is not None for place in places)


def _demand_room(sources: Sequence[Source], out: Path, vkey: VerifierKey) -> None:
    """Raise RestoreRefused where something else lies, or where a source would be written to."""
    if not out.exists():
        for changed in make_directories(out):
            sync_directory(changed)
    directories = [each.path for each in sources if isinstance(each, DirectorySource)]
    if any(each.exists() and each.samefile(out) for each in directories):
        raise RestoreRefused(f"{out} is a source; name a new directory")
    if strange := sorted(each.name for each in out.iterdir() if each.name not in OURS):
        raise RestoreRefused(f"{out} holds something else, such as {strange[0]}; name a new directory")
    _held(out, vkey)


def _held(out: Path, vkey: VerifierKey) -> int:
    """The size of the log that lies in the target, 0 for none. Raises RestoreRefused: it is another one."""
    note = read_or_none(out / CHECKPOINT)
    try:
        return 0 if note is None else open_checkpoint(note, [vkey]).size
    except NoteError as error:
        raise RestoreRefused(f"{out} holds another log: {error}") from error


def _candidates(known: Sequence[Seen], places: Sequence[Source], target: Target) -> list[Seen]:
    """The checkpoints that hold the target, best first: without one, the largest."""
    ordered = sorted(known, key=lambda each: each.checkpoint.size)
    if target.size is not None:
        return [each for each in ordered if each.checkpoint.size == target.size]
    if target.index is not None:
        return [each for each in ordered if each.checkpoint.size > target.index]
    if target.time_ns is not None:
        later = [each for each in ordered if _last_time_ns(each.checkpoint.size, places) >= target.time_ns]
        return later or ordered[::-1]
    return ordered[::-1]


def _last_time_ns(size: int, places: Sequence[Source]) -> int:
    """When the last entry of a tree was written, as the first source says that has it; -1 when none has."""
    if size == 0:
        return -1
    bundle, at = divmod(size - 1, TILE_WIDTH)
    for place in places:
        for data in versions(place, Tile(ENTRIES, bundle, at + 1)):
            try:
                return int(check(split_bundle(data)[at]).time_ns)
            except (TileError, EntryError, IndexError):
                continue
    return -1


def _demand_one_history(known: Iterable[Seen], work: "TreeFiles", restored: Seen) -> None:
    """Raise HistoriesDiffer unless every smaller checkpoint is a part of the restored tree."""
    reader = LogReader(work.out, restored.checkpoint)
    for each in known:
        old, new = each.checkpoint, restored.checkpoint
        if old.size > new.size:
            continue
        try:
            reader.demand_extension(old)
        except ProofError as error:
            problem = f"{each.where} and {restored.where} hold two histories of {new.origin}"
            raise HistoriesDiffer(f"{problem}: sizes {old.size} and {new.size} ({error})") from error
