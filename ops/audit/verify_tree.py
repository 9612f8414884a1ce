"""The part of verification above the bundles: the root, the tiles of the higher levels, and what else lies about.

Part of `verify` and under its rules.
"""

from collections.abc import Sequence
from pathlib import Path

from ops.audit.checkpoint import Checkpoint
from ops.audit.errors import TileError
from ops.audit.merkle import HASH_BYTES, Frontier, fold
from ops.audit.tiles import BLOBS, ENTRIES, TILE_WIDTH, Tile, hash_levels, level_size, parse_path, tiles_between
from ops.audit.verify_bundles import Chunk, read_tile
from ops.audit.verify_report import Report


def root_of(size: int, tile_roots: Sequence[bytes | None], last_leaves: Sequence[bytes] | None) -> bytes | None:
    """The root over full tiles and the leaves of a last, partial one; None when a part of it is missing."""
    full = [root for root in tile_roots if root is not None]
    if len(full) != size // TILE_WIDTH or (size % TILE_WIDTH and last_leaves is None):
        return None
    upper, lower = Frontier(), Frontier()
    upper.extend(full)
    lower.extend(last_leaves or ())
    return Frontier.restore(size, lower.hashes() + upper.hashes()).root()


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
    rows = zip(whole.entry_roots, whole.tile_roots, strict=True)
    row = [by_entry if by_entry is not None else by_tile for by_entry, by_tile in rows]
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


def check_leftovers(directory: Path, size: int, report: Report) -> None:
    """Files that the checkpoint does not need: narrower tiles must be prefixes, wider ones may be ahead of it."""
    for path in sorted(each for top in ("tile", "blobs") for each in (directory / top).rglob("*") if each.is_file()):
        name = path.relative_to(directory).as_posix()
        try:
            tile = parse_path(name)
        except TileError:
            report.add("notice", "not a file of the log", name)
            continue
        items = level_size(tile.level, size)
        if tile.index * TILE_WIDTH >= items or tile.level == BLOBS:
            continue  # ahead of the checkpoint; packs are checked with their bundle
        current = Tile(tile.level, tile.index, min(TILE_WIDTH, items - tile.index * TILE_WIDTH))
        if tile.width == current.width:
            continue
        try:
            wide, other = read_tile(directory, current), path.read_bytes()
        except FileNotFoundError:
            continue  # a live log removed it
        if wide is None:
            continue  # reported already
        if not (wide.startswith(other) if len(other) <= len(wide) else other.startswith(wide)):
            report.add("tampered", f"differs from {current.path}", name)
        elif tile.level >= 0 and len(other) != tile.width * HASH_BYTES:
            report.add("tampered", f"the tile has {len(other)} bytes, not {tile.width * HASH_BYTES}", name)
