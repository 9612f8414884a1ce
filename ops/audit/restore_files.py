"""The files of a restored tree: from whichever source has them as they should be.

Part of `restore` and under its rules: from the right edge of the tree, which gives its root, down to the full tiles,
each of which gives its hash in the tile above; then the bundles, whose entries give the leaf hashes; then the payloads,
which have the digests that entries name. What is right in the target already is kept.
"""

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from hashlib import sha256
from itertools import islice, product
from pathlib import Path

from ops.audit.checkpoint import Checkpoint
from ops.audit.durable import make_directories, sync_directory
from ops.audit.entry import check, payload_hashes
from ops.audit.errors import EntryError, ReadError, RestoreIncomplete, TileError
from ops.audit.merkle import HASH_BYTES, fold, leaf_hash, range_root
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

__all__ = ["INCOMING", "TreeFiles", "read_or_none"]

INCOMING = "incoming"  # the file that is being written
MISSING_MAX = 1000
SYNC_THREADS = 8
EDGES_MAX = 4096  # combinations of what sources hold at the right edge

Progress = Callable[[int, int], None]
Wanted = Callable[[bytes], bytes | None]
"""What of a file's bytes is right and wanted; None when they are of another tree."""


@dataclass(slots=True)
class TreeFiles:
    """The files of one tree: where to look for them, and where they go."""

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
                data = read_or_none(path)
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
                    held |= {sha256(blob).digest(): blob for blob in split_pack(read_or_none(path) or b"")}
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
        if read_or_none(final) == data:
            self.kept += 1
            return
        make_directories(final.parent)
        draft = self.out / INCOMING
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


def read_or_none(path: Path) -> bytes | None:
    """A file, or None: a disk that fails is a source that does not have it."""
    try:
        return path.read_bytes()
    except OSError:
        return None
