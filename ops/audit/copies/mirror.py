"""Bring a copy of a published log up to date, from one directory to another: later, in one go, and only ever forward.

Rules:
1. First of all the source's checkpoint: signed by the log's key, and a consistency proof from the mirror's own to it. A
   source that is older than the mirror, or that is a fork of what the mirror holds, is refused before a byte is copied.
2. What is copied is checked where it lies: the form of every entry, its payloads, its leaf hash, the hashes above it,
   and the root of the source's checkpoint over all of it.
3. The mirror's `checkpoint` is replaced last, so all that it names is there and was checked, whatever was interrupted.
   What an interrupted run has left is looked at by the next one, kept where it is right and written again where not.
4. Nothing is ever removed, from either side. Each file is written beside its place, synced, and renamed into it.

The source may be live. The narrow tiles at its right edge are read first, since they are the only ones that go away;
when they have gone, it begins again with the newer checkpoint. Not every entry of the past is looked at again: that is
what `verify` does, on the mirror as anywhere.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path

from ops.audit.errors import (
    CopyRejected,
    EntryError,
    LogRejected,
    MirrorBusy,
    MirrorRefused,
    NoteError,
    ProofError,
    ReadError,
    TileError,
)
from ops.audit.log.checkpoint import Checkpoint, VerifierKey, open_checkpoint
from ops.audit.log.entry import check, payload_hashes
from ops.audit.log.merkle import EMPTY_ROOT, HASH_BYTES, leaf_hashes
from ops.audit.log.tiles import (
    BLOBS,
    ENTRIES,
    TILE_WIDTH,
    Tile,
    frame_entry,
    hash_tiles_between,
    join_pack,
    split_bundle,
    split_pack,
)
from ops.audit.reader.read import LogReader, pack_paths, partial_packs
from ops.audit.verify.bundles import read_tile
from ops.audit.verify.growth import CHUNK_BUNDLES, check_chunk, check_tree
from ops.process.durable import exclusive, make_directories, replace_file, sync_directory, write_file

CHECKPOINT = "checkpoint"
INCOMING = "incoming"  # the file that is being written; beside what an auditor looks at
ATTEMPTS = 5  # a log that publishes each second and fills its last tiles in between is read again

Progress = Callable[[int, int], None]


class _Gone(Exception):
    """A narrow tile at the right edge was replaced while it was being read."""


@dataclass(slots=True)
class Mirrored:
    """What was done. Sizes are the mirror's, before and after; files and bytes are those that were written."""

    origin: str
    size_before: int
    size: int
    files: int = 0
    bytes: int = 0


@dataclass(slots=True)
class _Copy:
    """One run from the source's checkpoint `new` to a mirror that stands at `old`."""

    source: Path
    target: Path
    old: Checkpoint
    new: Checkpoint
    done: Mirrored
    touched: set[Path] = field(default_factory=set)

    def put(self, path: str, data: bytes) -> None:
        """Have a file in the mirror, durably by `sync`; one that is already as it should be is left alone."""
        final = self.target / path
        # Up to the mirror itself: a run that was killed may have left names that no sync has covered.
        self.touched.update(each for each in final.parents if each.is_relative_to(self.target))
        try:
            if final.read_bytes() == data:
                return
        except FileNotFoundError:
            pass
        make_directories(final.parent)
        incoming = self.target / INCOMING
        write_file(incoming, data)
        incoming.rename(final)
        self.done.files += 1
        self.done.bytes += len(data)

    def sync(self) -> None:
        """Make the names durable of what was put."""
        for directory in self.touched:
            sync_directory(directory)
        self.touched.clear()


def mirror_log(source: Path, target: Path, vkey: VerifierKey, *, progress: Progress | None = None) -> Mirrored:
    """Bring the mirror in `target` to the newest checkpoint of the log in `source`. Makes it when there is none.

    Args:
        source: a log as the recorder publishes it, or another mirror of it.
        target: the mirror.
        vkey: the log's key; not from the machine that is mirrored.
        progress: called with (new records copied, new records in all) now and then.

    Raises:
        MirrorRefused: the source does not extend what the mirror holds, or one of them is another log.
        CopyRejected: the source is not what its checkpoint says; the mirror stands where it stood.
        ReadError: the source misses something, or holds no checkpoint.
        MirrorBusy: somebody else is copying into the same mirror.
        OSError: a file cannot be read or written. Call again.
    """
    if not source.is_dir():
        raise ReadError(f"{source} is no directory")
    if target.exists() and target.samefile(source):
        raise MirrorRefused(f"{target} is the log itself")
    for directory in make_directories(target):
        sync_directory(directory)
    with exclusive(target, MirrorBusy(f"somebody else is copying into {target}")):
        for attempt in range(1, ATTEMPTS + 1):
            note, new = _newest(source, vkey)
            old = _held(target, vkey)
            _demand_extension(source, old, new)
            copy = _Copy(source, target, old, new, Mirrored(new.origin, old.size, new.size))
            try:
                if new.size > old.size:
                    _copy_edge(copy)
                    _copy_upper(copy)
                    _copy_bundles(copy, progress)
                    check_tree(LogReader(target, new), old.size)
            except LogRejected as error:
                raise CopyRejected(error.problems) from error
            except _Gone:
                if attempt == ATTEMPTS:
                    raise ReadError(f"{source} changes faster than it can be read") from None
                continue
            break
        # Durable and checked: everything that the checkpoint names.
        if new.size > old.size:
            replace_file(target / CHECKPOINT, note)
        return copy.done


def _newest(source: Path, vkey: VerifierKey) -> tuple[bytes, Checkpoint]:
    """The source's checkpoint, as a note and read."""
    try:
        note = (source / CHECKPOINT).read_bytes()
    except FileNotFoundError:
        raise ReadError(f"{source} holds no checkpoint") from None
    try:
        return note, open_checkpoint(note, [vkey])
    except NoteError as error:
        raise MirrorRefused(f"the checkpoint of {source} is not this log's: {error}") from error


def _held(target: Path, vkey: VerifierKey) -> Checkpoint:
    """The mirror's checkpoint; that of an empty log where there is none."""
    try:
        return open_checkpoint((target / CHECKPOINT).read_bytes(), [vkey])
    except FileNotFoundError:
        return Checkpoint(vkey.name, 0, EMPTY_ROOT)
    except NoteError as error:
        raise MirrorRefused(f"the mirror {target} is not of this log: {error}") from error


def _demand_extension(source: Path, old: Checkpoint, new: Checkpoint) -> None:
    """Raise MirrorRefused unless the source's tree extends the mirror's."""
    if new.size < old.size:
        raise MirrorRefused(f"rolled back: the mirror has {old.size} records, {source} has {new.size}")
    try:
        LogReader(source, new).demand_extension(old)
    except ProofError as error:
        problem = f"a fork: {source} holds another history than the {old.size} records of the mirror"
        raise MirrorRefused(f"{problem} ({error})") from error
    except TileError as error:
        raise CopyRejected([f"{source}: {error}"]) from error


def _copy_edge(copy: _Copy) -> None:
    """Put the partial tiles of the new checkpoint, and the payloads that belong to them."""
    size = copy.new.size
    for tile in hash_tiles_between(0, size):
        if tile.partial:
            copy.put(tile.path, _edge_tile(copy.source, tile)[: tile.width * HASH_BYTES])
    bundle, width = divmod(size, TILE_WIDTH)
    if width:
        tile = Tile(ENTRIES, bundle, width)
        entries = _split(_edge_tile(copy.source, tile), tile)[:width]
        copy.put(tile.path, b"".join(frame_entry(entry) for entry in entries))
        try:
            _copy_edge_packs(copy, bundle, entries)
        except FileNotFoundError:
            raise _Gone from None
    copy.sync()


def _copy_edge_packs(copy: _Copy, bundle: int, entries: Sequence[bytes]) -> None:
    """Put the narrow packs of the last bundle. Of a full one that is ahead, what these entries name and is new."""
    full = copy.source / Tile(BLOBS, bundle).full_path
    if not full.exists():
        _copy_packs(copy, bundle)
        return
    try:
        named = {digest for entry in entries for digest in payload_hashes(check(entry))}
        blobs = [blob for blob in split_pack(full.read_bytes()) if sha256(blob).digest() in named]
        known = {blob for path in partial_packs(copy.target, bundle) for blob in split_pack(path.read_bytes())}
    except (EntryError, TileError) as error:
        raise CopyRejected([f"bundle {bundle}: {error}"]) from error
    if fresh := [blob for blob in blobs if blob not in known]:
        copy.put(Tile(BLOBS, bundle, len(entries)).path, join_pack(fresh))


def _edge_tile(source: Path, tile: Tile) -> bytes:
    data = read_tile(source, tile)
    if data is None:
        raise _Gone
    return data


def _split(data: bytes, tile: Tile) -> list[bytes]:
    try:
        return split_bundle(data)
    except TileError as error:
        raise CopyRejected([f"{tile.path}: {error}"]) from error


def _copy_packs(copy: _Copy, bundle: int) -> None:
    """Put the payload packs of a bundle: the full one, or the narrow ones as far as the checkpoint reaches."""
    width = min(TILE_WIDTH, copy.new.size - bundle * TILE_WIDTH)
    for path in pack_paths(copy.source, bundle):
        name = path.relative_to(copy.source).as_posix()
        if path.parent.suffix != ".p" or int(path.name) <= width:
            copy.put(name, path.read_bytes())


def _copy_upper(copy: _Copy) -> None:
    """Put the full tiles above level 0; the bundles are held against them as they come."""
    for tile in hash_tiles_between(copy.old.size, copy.new.size):
        if tile.level and not tile.partial:
            copy.put(tile.path, _read(copy.source, tile))
    copy.sync()


def _copy_bundles(copy: _Copy, progress: Progress | None) -> None:
    """Put the full bundles with their tiles and payloads, and check each chunk as it lies in the mirror."""
    old, new = copy.old.size, copy.new.size
    first, end = old // TILE_WIDTH, -(-new // TILE_WIDTH)
    there = LogReader(copy.target, copy.new)
    for start in range(first, end, CHUNK_BUNDLES):
        count = min(CHUNK_BUNDLES, end - start)
        for bundle in range(start, min(start + count, new // TILE_WIDTH)):
            _copy_bundle(copy, bundle)
        copy.sync()
        check_chunk(there, copy.target, start, count)
        if progress is not None:
            progress(min(new, (start + count) * TILE_WIDTH) - old, new - old)


def _read(source: Path, tile: Tile) -> bytes:
    """A full tile: those stay for ever."""
    data = read_tile(source, tile)
    if data is None:
        raise ReadError(f"{tile.path} is missing in {source}")
    return data


def _copy_bundle(copy: _Copy, bundle: int) -> None:
    """Put a full bundle with its tile and its payloads. What a run before has left is known by its leaf hashes."""
    hashes = _read(copy.source, Tile(0, bundle))
    copy.put(Tile(0, bundle).path, hashes)
    entries = Tile(ENTRIES, bundle)
    if _leaves(copy.target / entries.path) != hashes:
        copy.put(entries.path, _read(copy.source, entries))
    _copy_packs(copy, bundle)


def _leaves(path: Path) -> bytes:
    """The leaf hashes of a bundle in the mirror, nothing where it is not there or not whole."""
    try:
        return b"".join(leaf_hashes(split_bundle(path.read_bytes())))
    except (FileNotFoundError, TileError):
        return b""
