"""The files of a restored tree: from whichever source has them as they should be.

Part of `restore` and under its rules: from the right edge of the tree, which gives its root, down to the full tiles,
each of which gives its hash in the tile above; then the bundles, whose entries give the leaf hashes; then the payloads,
which have the digests that entries name. What is right in the target already is kept.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from hashlib import sha256
from itertools import chain, islice, product
from pathlib import Path
from typing import TypeVar

from ops.audit.copies.sources import Source, numbers, read_or_none, versions
from ops.audit.errors import EntryError, ReadError, RestoreIncomplete, TileError
from ops.audit.log.checkpoint import Checkpoint
from ops.audit.log.entry import check, payload_hashes
from ops.audit.log.merkle import HASH_BYTES, fold, leaf_hashes, range_root
from ops.audit.log.tiles import (
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
from ops.audit.reader.read import LogReader, pack_paths
from ops.process.durable import make_directories, sync_directory, sync_file

INCOMING = "incoming"  # the file that is being written
MISSING_MAX = 1000
READERS = 8  # so many bundles with their payloads are in memory at once
SYNC_THREADS = 8
EDGES_MAX = 4096  # combinations of what sources hold at the right edge

Progress = Callable[[int, int], None]
Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Found:
    """A bundle as it should be, None where no source has it, and the payloads that its entries name."""

    bundle: bytes | None
    pack: bytes = b""
    payloads_missing: int = 0


@dataclass(slots=True)
class TreeFiles:
    """The files of one tree: where to look for them, `out` first, and where they go."""

    sources: Sequence[Source]
    out: Path
    checkpoint: Checkpoint
    written: int = 0
    kept: int = 0
    payloads_missing: int = 0
    missing: list[str] = field(default_factory=list)
    placed: list[Path] = field(default_factory=list)

    def edge(self) -> dict[str, bytes] | None:
        """The partial hash tiles of the tree by path, when a source has those that give the root; else None."""
        partial = [tile for tile in hash_tiles_between(0, self.checkpoint.size) if tile.partial]
        for most in (1, None):  # mostly the first of each is right, and the others need not be read
            choices = [dict.fromkeys(islice(self._edge_candidates(tile), most)) for tile in partial]
            for chosen in islice(product(*choices), EDGES_MAX):
                edge = {tile.path: data for tile, data in zip(partial, chosen, strict=True)}
                if self._gives_root(edge):
                    return edge
        return None

    def _edge_candidates(self, tile: Tile) -> Iterator[bytes]:
        hashes = chain(self._candidates(tile), self._leaves(tile))
        return (each[: tile.width * HASH_BYTES] for each in hashes)

    def _candidates(self, tile: Tile) -> Iterator[bytes]:
        return chain.from_iterable(versions(source, tile) for source in self.sources)

    def _leaves(self, tile: Tile) -> Iterator[bytes]:
        """The leaf hashes of the bundles at the place of a tile of level 0."""
        if tile.level == 0:
            yield from filter(None, map(_leaf_hashes, self._candidates(Tile(ENTRIES, tile.index, tile.width))))

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

    def restore(self, edge: dict[str, bytes], progress: Progress | None, *, hashes_only: bool = False) -> None:
        """Have every file of the tree in the target, or all but its entries. Raises RestoreIncomplete, StoreError."""
        for path, data in edge.items():
            self._put(path, data)
        with ThreadPoolExecutor(READERS, thread_name_prefix="restore") as pool:
            for level in reversed(hash_levels(self.checkpoint.size)):
                for (tile, _), hashes in ahead(pool, self._hashes, self._below(level)):
                    self._put_found(tile.path, hashes)
            self._demand_all()
            bundles: Iterable[Tile] = () if hashes_only else tiles_between(ENTRIES, 0, self.checkpoint.size)
            for tile, found in ahead(pool, self._entries, bundles):
                self._put_found(tile.path, found.bundle)
                self._put_pack(tile, found)
                if progress is not None:
                    progress(tile.index * TILE_WIDTH + tile.width, self.checkpoint.size)
        self._demand_all()
        self._sync()

    def _demand_all(self) -> None:
        if self.missing:
            raise RestoreIncomplete(self.missing)

    def _below(self, level: int) -> Iterator[tuple[Tile, bytes]]:
        """The full tiles of a level with the hash that each has in the level above, which is in the target already."""
        above = LogReader(self.out, self.checkpoint)
        count = level_size(level + 1, self.checkpoint.size)
        for first in range(0, count, TILE_WIDTH):
            try:
                parents = above.hashes(level + 1, first, min(TILE_WIDTH, count - first))
            except (ReadError, TileError):
                continue  # the tile above is missing, and named already
            for index, parent in enumerate(parents, first):
                yield Tile(level, index), parent

    def _hashes(self, wanted: tuple[Tile, bytes]) -> bytes | None:
        """The first candidate for a full tile that gives its hash; at level 0 bundles give hashes as well."""
        tile, parent = wanted
        hashes = chain(self._candidates(tile), self._leaves(tile))
        return next((each for each in hashes if _gives(each, parent)), None)

    def _entries(self, tile: Tile) -> Found:
        """The first bundle whose entries have the leaf hashes in the target, with what payloads the sources have."""
        leaves = b"".join(LogReader(self.out, self.checkpoint).hashes(0, tile.index * TILE_WIDTH, tile.width))
        for data in self._candidates(tile):
            try:
                entries = split_bundle(data)[: tile.width]
            except TileError:
                continue
            if b"".join(leaf_hashes(entries)) == leaves:
                return self._with_payloads(tile, entries)
        return Found(None)

    def _with_payloads(self, tile: Tile, entries: Sequence[bytes]) -> Found:
        named = list(_named(entries))
        wanted, held = set(named), dict[bytes, bytes]()
        packs = chain.from_iterable(_packs(source, tile.index) for source in self.sources)
        while not held.keys() >= wanted and (pack := next(packs, None)) is not None:
            with suppress(TileError):
                held |= {sha256(blob).digest(): blob for blob in split_pack(pack)}
        blobs = [held[digest] for digest in named if digest in held]
        return Found(b"".join(map(frame_entry, entries)), join_pack(blobs), len(named) - len(blobs))

    def _put_found(self, path: str, data: bytes | None) -> None:
        if data is not None:
            self._put(path, data)
        elif len(self.missing) < MISSING_MAX:
            self.missing.append(path)

    def _put_pack(self, tile: Tile, found: Found) -> None:
        self.payloads_missing += found.payloads_missing
        pack = Tile(BLOBS, tile.index, tile.width).path
        for narrower in pack_paths(self.out, tile.index):  # of a smaller tree: the one that follows has it all
            if narrower != self.out / pack:
                narrower.unlink()
        if found.pack:
            self._put(pack, found.pack)

    def _put(self, path: str, data: bytes) -> None:
        final = self.out / path
        self.placed.append(final)  # also what is there: a run that was killed has synced nothing
        if read_or_none(final) == data:
            self.kept += 1
            return
        make_directories(final.parent)
        draft = self.out / INCOMING
        draft.write_bytes(data)
        draft.replace(final)
        self.written += 1

    def _sync(self) -> None:
        """Make durable what the checkpoint names, all at once: before that is there, nothing relies on it."""
        directories = {self.out, self.out.parent}
        for path in self.placed:
            directories |= {each for each in path.parents if each.is_relative_to(self.out)}
        with ThreadPoolExecutor(SYNC_THREADS) as pool:
            list(pool.map(sync_file, self.placed))
            list(pool.map(sync_directory, directories))


def ahead(
    pool: Executor, work: Callable[[Item], Result], items: Iterable[Item], most: int = READERS
) -> Iterator[tuple[Item, Result]]:
    """Each item with what came of it, in order. At most `most` are in work, or done and not taken yet."""
    begun: deque[tuple[Item, Future[Result]]] = deque()
    for item in items:
        begun.append((item, pool.submit(work, item)))
        if len(begun) == most:
            first, result = begun.popleft()
            yield first, result.result()
    for first, result in begun:
        yield first, result.result()


def _gives(hashes: bytes, parent: bytes) -> bool:
    try:
        found = split_hashes(hashes)
    except TileError:
        return False
    return len(found) == TILE_WIDTH and fold(found) == parent


def _leaf_hashes(bundle: bytes) -> bytes | None:
    try:
        return b"".join(leaf_hashes(split_bundle(bundle)))
    except TileError:
        return None


def _named(entries: Iterable[bytes]) -> Iterator[bytes]:
    """The digests of the payloads that entries name; one that is no entry names none, and `verify` says so."""
    for entry in entries:
        if b'"payload":' in entry:
            with suppress(EntryError):
                yield from payload_hashes(check(entry))


def _packs(source: Source, bundle: int) -> Iterator[bytes]:
    """The packs of a bundle that a source has, the full one first."""
    pack = Tile(BLOBS, bundle)
    if (data := source.read(pack.full_path)) is not None:
        yield data
    for width in numbers(source, pack.partial_directory):
        if (data := source.read(f"{pack.partial_directory}/{width}")) is not None:
            yield data
