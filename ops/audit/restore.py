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
5. Whether the origin may go on is told by `Restoration.newer`, and done by `succession`. Nothing is sealed or opened
   here.

Sources are directories: a copy, a mirror, a mounted bucket, what is left on a failing disk. What a disk will not read
is missing there, no more.
"""

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from hashlib import sha256
from itertools import chain, islice, product
from pathlib import Path

from ops.audit.checkpoint import Checkpoint, VerifierKey, open_checkpoint
from ops.audit.durable import make_directories, replace_file, sync_directory
from ops.audit.entry import check, payload_hashes
from ops.audit.errors import (
    EntryError,
    HistoriesDiffer,
    NoteError,
    NothingToRestore,
    ProofError,
    ReadError,
    RestoreIncomplete,
    RestoreRefused,
    TileError,
)
from ops.audit.merkle import HASH_BYTES, fold, leaf_hash, range_root, verify_consistency
from ops.audit.read import LogReader, pack_paths
from ops.audit.tiles import (
    BLOBS,
    ENTRIES,
    TILE_WIDTH,
    Tile,
    frame_entry,
    hash_levels,
    hash_tiles_between,
    join_pack,
    level_size,
    node_from,
    split_bundle,
    split_hashes,
    split_pack,
    tiles_between,
)

__all__ = ["Restoration", "Seen", "Target", "restore_log", "seen_in"]

CHECKPOINT = "checkpoint"
OURS = {CHECKPOINT, "tile", "blobs", "incoming"}
MISSING_MAX = 1000
SYNC_THREADS = 8
EDGES_MAX = 4096  # combinations of what sources hold at the right edge

Progress = Callable[[int, int], None]
Wanted = Callable[[bytes], bytes | None]
"""What of a file's bytes is right and wanted; None when they are of another tree."""


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

    @property
    def lost_end(self) -> int:
        """The size of the largest tree known: entries from the restored size up to it are not here."""
        return max([self.seen.checkpoint.size, *(each.checkpoint.size for each in self.newer)])


def seen_in(sources: Iterable[Path], notes: Iterable[tuple[str, bytes]], vkey: VerifierKey) -> list[Seen]:
    """The checkpoints in these sources and notes that the log's key signed; others are as none."""
    found: list[Seen] = []
    held = ((str(each), each / CHECKPOINT) for each in sources)
    for where, note in chain(((where, _read(path)) for where, path in held), notes):
        if note is not None:
            try:
                found.append(Seen(note, open_checkpoint(note, [vkey]), where))
            except NoteError:
                continue
    return found


def restore_log(
    sources: Sequence[Path],
    out: Path,
    vkey: VerifierKey,
    *,
    notes: Sequence[tuple[str, bytes]] = (),
    target: Target | None = None,
    progress: Progress | None = None,
) -> Restoration:
    """Restore a log into `out`.

    Args:
        sources: directories that hold a log, or what is left of it.
        out: where it goes; what an earlier run left there is gone on with.
        vkey: the log's key; not from the machine that was lost.
        notes: checkpoints known from elsewhere, each with where it is from: cosigned ones, those of witnesses.
        target: what has to be in it.
        progress: called with (entries done, entries in all).

    Raises:
        NothingToRestore: no checkpoint of this log, or none that holds the target.
        RestoreRefused: `out` holds something else, or more.
        HistoriesDiffer: two checkpoints that are of one key and not of one history.
        RestoreIncomplete: files that no source has as they should be; what is right stays in `out`.
        OSError: `out` cannot be written. Call again.
    """
    _demand_room(sources, out, vkey)
    places = [out, *sources]
    known = seen_in(places, notes, vkey)
    if not known:
        raise NothingToRestore(f"none of the sources holds a checkpoint of {vkey.name} under this key")
    problem: RestoreIncomplete | None = None
    for seen in _candidates(known, places, target or Target()):
        work = _Work(places, out, seen.checkpoint)
        edge = work.edge()
        if (held := _held(out, vkey)) > seen.checkpoint.size:
            raise RestoreRefused(f"{out} holds {held} entries of this log already; name a new directory")
        if edge is None:
            problem = problem or RestoreIncomplete([f"the right edge of the tree of size {seen.checkpoint.size}"])
            continue
        done = Restoration(seen, tuple(each for each in known if each.checkpoint.size > seen.checkpoint.size))
        work.restore(edge, progress)
        _demand_one_history(known, work, seen)
        done.files, done.kept, done.payloads_missing = work.written, work.kept, work.payloads_missing
        replace_file(out / CHECKPOINT, seen.note)
        # Durable, and checked: everything that the checkpoint names.
        return done
    raise problem or NothingToRestore("no checkpoint that is known holds what is asked for")


def _demand_room(sources: Sequence[Path], out: Path, vkey: VerifierKey) -> None:
    """Raise RestoreRefused where something else lies, or where a source would be written to."""
    if not out.exists():
        for changed in make_directories(out):
            sync_directory(changed)
    if any(source.exists() and source.samefile(out) for source in sources):
        raise RestoreRefused(f"{out} is a source; name a new directory")
    if strange := sorted(each.name for each in out.iterdir() if each.name not in OURS):
        raise RestoreRefused(f"{out} holds something else, such as {strange[0]}; name a new directory")
    _held(out, vkey)


def _held(out: Path, vkey: VerifierKey) -> int:
    """The size of the log that lies in the target, 0 for none. Raises RestoreRefused: it is another one."""
    note = _read(out / CHECKPOINT)
    try:
        return 0 if note is None else open_checkpoint(note, [vkey]).size
    except NoteError as error:
        raise RestoreRefused(f"{out} holds another log: {error}") from error


def _candidates(known: Sequence[Seen], places: Sequence[Path], target: Target) -> list[Seen]:
    """The checkpoints that hold the target, best first: without one, the largest."""
    ordered = sorted(known, key=lambda each: each.checkpoint.size)
    if target.size is not None:
        return [each for each in ordered if each.checkpoint.size == target.size]
    if target.index is not None:
        return [each for each in ordered if each.checkpoint.size > target.index]
    if target.time_ns is not None:
        later = [each for each in ordered if _last_time_ns(each.checkpoint, places) >= target.time_ns]
        return later or ordered[::-1]
    return ordered[::-1]


def _last_time_ns(checkpoint: Checkpoint, places: Sequence[Path]) -> int:
    """When the last entry of a tree was written, as the first source says that has it; -1 when none has."""
    for place in places:
        work = _Work([place], place, checkpoint)
        try:
            bundle, width = divmod(checkpoint.size - 1, TILE_WIDTH)
            for data in work.candidates(Tile(ENTRIES, bundle, width + 1)):
                return int(check(split_bundle(data)[width]).time_ns)
        except (TileError, EntryError, IndexError):
            continue
    return -1


def _demand_one_history(known: Iterable[Seen], work: "_Work", restored: Seen) -> None:
    """Raise HistoriesDiffer unless every smaller checkpoint is a part of the restored tree."""
    reader = LogReader(work.out, restored.checkpoint)
    for each in known:
        old, new = each.checkpoint, restored.checkpoint
        if old.size > new.size:
            continue
        try:
            verify_consistency(old.size, new.size, reader.consistency_proof(old.size), old.root, new.root)
        except ProofError as error:
            problem = f"{each.where} and {restored.where} hold two histories of {new.origin}"
            raise HistoriesDiffer(f"{problem}: sizes {old.size} and {new.size} ({error})") from error


@dataclass(slots=True)
class _Work:
    """One restoration of one tree."""

    places: Sequence[Path]
    out: Path
    checkpoint: Checkpoint
    written: int = 0
    kept: int = 0
    payloads_missing: int = 0
    missing: list[str] = field(default_factory=list)
    fresh: list[Path] = field(default_factory=list)

    def candidates(self, tile: Tile) -> Iterator[bytes]:
        """What the sources have at the place of a tile: of its width, or wider, which begins with it."""
        for place in self.places:
            partial = place / tile.partial_directory
            try:
                names = [int(each.name) for each in partial.iterdir() if each.name.isdigit()]
            except OSError:
                names = []
            wider = [partial / str(width) for width in sorted(names) if width >= tile.width]
            for path in (place / tile.full_path, *wider):
                data = _read(path)
                if data is not None:
                    yield data

    def edge(self) -> dict[str, bytes] | None:
        """The partial hash tiles of the tree by path, when a source has those that give the root; else None."""
        partial = [tile for tile in hash_tiles_between(0, self.checkpoint.size) if tile.partial]
        choices = [[_cut(tile, data) for data in self._edge_candidates(tile)] for tile in partial]
        for chosen in islice(product(*choices), EDGES_MAX):
            edge = {tile.path: data for tile, data in zip(partial, chosen, strict=True)}
            if self._gives_root(edge):
                return edge
        return None

    def _edge_candidates(self, tile: Tile) -> Iterator[bytes]:
        yield from self.candidates(tile)
        if tile.level == 0:
            yield from filter(None, map(_leaves, self.candidates(Tile(ENTRIES, tile.index, tile.width))))

    def _gives_root(self, edge: dict[str, bytes]) -> bool:
        size = self.checkpoint.size

        def hashes(level: int, first: int, count: int) -> Sequence[bytes]:
            index, start = divmod(first, TILE_WIDTH)
            tile = Tile(level, index, min(TILE_WIDTH, level_size(level, size) - index * TILE_WIDTH))
            return split_hashes(edge[tile.path])[start : start + count]

        try:
            return range_root(0, size, node_from(hashes)) == self.checkpoint.root
        except (KeyError, TileError, ValueError, IndexError):
            return False

    def restore(self, edge: dict[str, bytes], progress: Progress | None) -> None:
        """Have every file of the tree in the target. Raises RestoreIncomplete."""
        for path, data in edge.items():
            self._put(path, data)
        for level in reversed(hash_levels(self.checkpoint.size)):
            self._level(level)
        if self.missing:
            raise RestoreIncomplete(self.missing)
        reader = LogReader(self.out, self.checkpoint)
        for tile in tiles_between(ENTRIES, 0, self.checkpoint.size):
            leaves = b"".join(reader.hashes(0, tile.index * TILE_WIDTH, tile.width))
            entries = self._bundle(tile, leaves)
            if entries is not None:
                self._payloads(tile, entries)
            if progress is not None:
                progress(tile.index * TILE_WIDTH + tile.width, self.checkpoint.size)
        if self.missing:
            raise RestoreIncomplete(self.missing)
        self._sync()

    def _level(self, level: int) -> None:
        """The full tiles of a level; each has to give its hash in the level above, which is there already."""
        above = LogReader(self.out, self.checkpoint)
        count = level_size(level + 1, self.checkpoint.size)
        for first in range(0, count, TILE_WIDTH):
            try:
                parents = above.hashes(level + 1, first, min(TILE_WIDTH, count - first))
            except (ReadError, TileError):
                continue  # the tile above is missing, and named already
            for index, parent in enumerate(parents, first):
                self._choose(Tile(level, index), _hashes_of(parent))

    def _choose(self, tile: Tile, wanted: Wanted) -> bytes | None:
        """Put the first candidate that is right; at level 0 the bundle gives the hashes as well."""
        for data in self.candidates(tile):
            if (right := wanted(data)) is not None:
                self._put(tile.path, right)
                return right
        if tile.level == 0:
            for data in self.candidates(Tile(ENTRIES, tile.index)):
                if (hashes := _leaves(data)) and (right := wanted(hashes)) is not None:
                    self._put(tile.path, right)
                    return right
        self._miss(tile.path)
        return None

    def _bundle(self, tile: Tile, leaves: bytes) -> list[bytes] | None:
        def wanted(data: bytes) -> bytes | None:
            try:
                entries = split_bundle(data)[: tile.width]
            except TileError:
                return None
            if b"".join(map(leaf_hash, entries)) != leaves:
                return None
            return b"".join(map(frame_entry, entries))

        data = self._choose(tile, wanted)
        return None if data is None else split_bundle(data)

    def _payloads(self, tile: Tile, entries: Sequence[bytes]) -> None:
        """The pack of a bundle, of the payloads that its entries name, as far as the sources have them."""
        named = list(_named(entries))
        if not named:
            return
        held: dict[bytes, bytes] = {}
        for place in self.places:
            for path in _packs(place, tile.index):
                try:
                    held |= {sha256(blob).digest(): blob for blob in split_pack(_read(path) or b"")}
                except TileError:
                    continue
            if held.keys() >= set(named):
                break
        blobs = [held[digest] for digest in named if digest in held]
        self.payloads_missing += len(named) - len(blobs)
        pack = Tile(BLOBS, tile.index, tile.width).path
        for narrower in _packs(self.out, tile.index):  # of a smaller tree: what is in them is in the one that follows
            if narrower != self.out / pack:
                narrower.unlink()
        if blobs:
            self._put(pack, join_pack(blobs))

    def _put(self, path: str, data: bytes) -> None:
        final = self.out / path
        if _read(final) == data:
            self.kept += 1
            return
        make_directories(final.parent)
        draft = self.out / "incoming"
        draft.write_bytes(data)
        draft.replace(final)
        self.fresh.append(final)
        self.written += 1

    def _miss(self, path: str) -> None:
        if len(self.missing) < MISSING_MAX:
            self.missing.append(path)

    def _sync(self) -> None:
        """Make durable what was written, all at once: before the checkpoint is there, nothing relies on it."""
        directories = {self.out, self.out.parent}
        for path in self.fresh:
            directories |= {each for each in path.parents if each.is_relative_to(self.out)}
        with ThreadPoolExecutor(SYNC_THREADS) as pool:
            list(pool.map(_sync_file, self.fresh))
            list(pool.map(sync_directory, directories))


def _sync_file(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _hashes_of(parent: bytes) -> Wanted:
    def wanted(data: bytes) -> bytes | None:
        try:
            hashes = split_hashes(data)
        except TileError:
            return None
        return data if len(hashes) == TILE_WIDTH and fold(hashes) == parent else None

    return wanted


def _cut(tile: Tile, data: bytes) -> bytes:
    return data[: tile.width * HASH_BYTES]


def _leaves(bundle: bytes) -> bytes | None:
    try:
        return b"".join(map(leaf_hash, split_bundle(bundle)))
    except TileError:
        return None


def _named(entries: Iterable[bytes]) -> Iterator[bytes]:
    """The digests of the payloads that entries name; one that is no entry names none, and `verify` says so."""
    for entry in entries:
        if b'"payload":' in entry:
            with suppress(EntryError):
                yield from payload_hashes(check(entry))


def _packs(place: Path, bundle: int) -> list[Path]:
    try:
        return pack_paths(place, bundle)
    except OSError:
        return []


def _read(path: Path) -> bytes | None:
    """A file, or None: a disk that fails is a source that does not have it."""
    try:
        return path.read_bytes()
    except OSError:
        return None
