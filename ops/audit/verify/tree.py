"""The part of verification above the bundles: the root, the tiles of the higher levels, and what else lies about.

Part of `verify` and under its rules.
"""

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from operator import attrgetter
from pathlib import Path

from ops.audit.errors import TileError
from ops.audit.log.checkpoint import Checkpoint
from ops.audit.log.epochs import is_of_epoch
from ops.audit.log.merkle import HASH_BYTES, Frontier, fold
from ops.audit.log.tiles import (
    BLOBS,
    ENTRIES,
    TILE_WIDTH,
    Tile,
    hash_levels,
    level_size,
    parse_path,
    split_bundle,
    tiles_between,
)
from ops.audit.reader.read_file import read_file
from ops.audit.verify.bundles import Chunk, pack_digests, read_tile
from ops.audit.verify.report import Report

UNDER_WAY_S = 2.0
ASK_AGAIN_S = 0.05


def root_of(size: int, tile_roots: Sequence[bytes | None], last_leaves: Sequence[bytes] | None) -> bytes | None:
    """The root over full tiles and the leaves of a last, partial one; None when a part of it is missing."""
    full = [root for root in tile_roots if root is not None]
    if len(full) != size // TILE_WIDTH or (size % TILE_WIDTH and last_leaves is None):
        return None
    upper, lower = Frontier(), Frontier()
    upper.extend(full)
    lower.extend(last_leaves or ())
    return Frontier.restore(size, lower.hashes() + upper.hashes()).root()


def vouched_for(checkpoint: Checkpoint, whole: Chunk) -> int | None:
    """The level whose hashes give the root that is signed: ENTRIES, else 0; None when neither does."""
    if root_of(checkpoint.size, whole.entry_roots, whole.last_entry_leaves) == checkpoint.root:
        return ENTRIES
    return 0 if root_of(checkpoint.size, whole.tile_roots, whole.last_tile_leaves) == checkpoint.root else None


def check_root(directory: Path, checkpoint: Checkpoint, whole: Chunk, report: Report) -> None:
    """The tree's root from the entries, and from the tiles: who is right where they differ."""
    size = checkpoint.size
    by_entries = root_of(size, whole.entry_roots, whole.last_entry_leaves)
    by_tiles = root_of(size, whole.tile_roots, whole.last_tile_leaves)
    for index in whole.mismatches:
        bundle = index // TILE_WIDTH
        width = min(TILE_WIDTH, size - bundle * TILE_WIDTH)
        tile, entries = Tile(0, bundle, width).path, Tile(ENTRIES, bundle, width).path
        if by_entries == checkpoint.root:
            report.add("tampered", f"the leaf hash of entry {index} was changed", tile)
        else:
            report.add("tampered", f"entry {index} does not match its leaf hash", entries)
    if by_entries not in (None, checkpoint.root):
        report.add("tampered", "the entries do not give the root of the checkpoint", "checkpoint")
    if by_tiles not in (None, checkpoint.root):
        report.add("tampered", "the tiles do not give the root of the checkpoint", "checkpoint")
    believed, otherwise = whole.entry_roots, whole.tile_roots
    if vouched_for(checkpoint, whole) == 0:
        believed, otherwise = otherwise, believed
    row = [root if root is not None else other for root, other in zip(believed, otherwise, strict=True)]
    for level in hash_levels(size):
        if level:
            row = _check_level(directory, level, size, row, report)


def _check_level(
    directory: Path, level: int, size: int, row: Sequence[bytes | None], report: Report
) -> list[bytes | None]:
    """Compare the tiles of one level with the hashes computed from below. Returns the row of the next level."""
    above: list[bytes | None] = []
    for tile in tiles_between(level, 0, size):
        first = tile.index * TILE_WIDTH
        expected = row[first : first + tile.width]
        data = read_tile(directory, tile)
        if data is None:
            report.add("incomplete", "the tile is missing", tile.path)
        elif len(data) not in (tile.width * HASH_BYTES, TILE_WIDTH * HASH_BYTES):
            report.add("tampered", f"the tile has {len(data)} bytes, not {tile.width * HASH_BYTES}", tile.path)
        else:
            for at, wanted in enumerate(expected):
                if wanted is not None and data[at * HASH_BYTES : (at + 1) * HASH_BYTES] != wanted:
                    below = Tile(level - 1, first + at).path
                    report.add("tampered", f"hash {first + at} does not follow from {below}", tile.path)
        if not tile.partial:
            complete = [each for each in expected if each is not None]
            above.append(fold(complete) if len(complete) == TILE_WIDTH else None)
    return above


def check_leftovers(directory: Path, size: int, newest: Callable[[], int], report: Report) -> None:
    """Files that the checkpoint does not need: narrower tiles must be prefixes, wider ones may be ahead of it.

    What is not the log's is set aside. `newest` is the size of the checkpoint that is there now: it is asked once the
    files are listed, because a live log goes on meanwhile and what it has published by then is no stranger.
    """
    ahead: list[Tile] = []
    root = os.fspath(directory)
    for file in sorted(_files(root), key=attrgetter("path")):
        name = file.path.removeprefix(root).removeprefix("/")
        if name == "checkpoint" or is_of_epoch(name):
            continue
        try:
            tile = parse_path(name)
        except TileError:
            report.set_aside("not a file of the log", name)
            continue
        if not file.is_file():
            if os.path.lexists(file):  # else a live log removed it
                report.set_aside("not a regular file", name)
            continue
        if _beyond(tile, size):
            ahead.append(tile)
        with suppress(FileNotFoundError):  # likewise
            (_check_pack if tile.level == BLOBS else _check_leftover)(directory, tile, size, report)
    for tile in _strangers(directory, ahead, newest):
        report.set_aside("beyond the checkpoint, so not verified", tile.path)


def _files(directory: str) -> Iterator[os.DirEntry[str]]:
    """All that lies below a directory and is none; what a live log removes meanwhile is left out."""
    with suppress(FileNotFoundError, PermissionError), os.scandir(directory) as found:
        for each in found:
            if each.is_dir(follow_symlinks=False):
                yield from _files(each.path)
            else:
                yield each


def _beyond(tile: Tile, size: int) -> bool:
    """Whether a tree of this size is too small for this tile."""
    return tile.index * TILE_WIDTH + tile.width > level_size(tile.level, size)


def _strangers(directory: Path, ahead: Sequence[Tile], newest: Callable[[], int]) -> Sequence[Tile]:
    """Those that the checkpoint does not reach now either; for files that have only just come, in a moment."""
    end = time.monotonic() + (UNDER_WAY_S if any(is_fresh(directory / tile.path) for tile in ahead) else 0)
    while ahead:
        size = newest()
        ahead = [tile for tile in ahead if _beyond(tile, size)]
        if not ahead or time.monotonic() >= end:
            break
        time.sleep(ASK_AGAIN_S)
    return ahead


def is_fresh(path: Path) -> bool:
    """Whether this may be part of a publication under way: its files come a moment before its checkpoint."""
    with suppress(FileNotFoundError):
        return abs(time.time() - path.stat().st_mtime) < UNDER_WAY_S
    return False


def _check_leftover(directory: Path, tile: Tile, size: int, report: Report) -> None:
    """Compare a tile with the one at its place that the checkpoint needs, unless it is that one."""
    items = level_size(tile.level, size)
    if tile.index * TILE_WIDTH >= items:
        return
    current = Tile(tile.level, tile.index, min(TILE_WIDTH, items - tile.index * TILE_WIDTH))
    if tile.width == current.width:
        return
    wide, other = read_tile(directory, current), read_file(directory / tile.path)
    if wide is None:
        return  # reported already
    if not (wide.startswith(other) if len(other) <= len(wide) else other.startswith(wide)):
        report.add("tampered", f"differs from {current.path}", tile.path)
    elif tile.level >= 0 and len(other) != tile.width * HASH_BYTES:
        report.add("tampered", f"the tile has {len(other)} bytes, not {tile.width * HASH_BYTES}", tile.path)
    elif tile.level == ENTRIES and _entries(other) != tile.width:
        report.set_aside(f"cut short: not the {tile.width} entries that its name says", tile.path)


def _entries(bundle: bytes) -> int | None:
    """How many entries a bundle holds; None when it ends inside one."""
    with suppress(TileError):
        return len(split_bundle(bundle))
    return None


def _check_pack(directory: Path, tile: Tile, size: int, report: Report) -> None:
    """A partial pack beside the full one that has replaced it; all others are checked with their bundle."""
    full = directory / tile.full_path
    if tile.partial and full.exists() and (tile.index + 1) * TILE_WIDTH <= size:
        try:
            part_of = set(pack_digests(directory / tile.path)) <= set(pack_digests(full))
        except TileError:
            part_of = False
        if not part_of:
            report.set_aside(f"not a part of {tile.full_path}, which replaces it", tile.path)
