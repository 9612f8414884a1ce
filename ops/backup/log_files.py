"""The files of a published log at one checkpoint, while its recorder goes on.

The narrow tiles at the right edge go away when they fill up; then there is a full one, which begins with them and is
cut. Where even that changed between two looks, `LogMoved` says so, and the caller begins again with the newer
checkpoint.
"""

from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

from ops.audit.errors import EntryError, TileError
from ops.audit.log.checkpoint import Checkpoint
from ops.audit.log.entry import check, payload_hashes
from ops.audit.log.merkle import HASH_BYTES
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
    tiles_between,
)
from ops.audit.reader.read import pack_paths
from ops.audit.verify.bundles import read_tile
from ops.backup.errors import LogMoved, SourceRefused


def edge_files(directory: Path, checkpoint: Checkpoint, *, dropped: bool = False) -> Iterator[tuple[str, bytes]]:
    """The partial tiles of the checkpoint, as (path, bytes), cut to its size, and the payloads that belong to them.

    Where the entries were `dropped`, only those of hashes.

    Raises:
        LogMoved: begin again.
        SourceRefused: the log is damaged.
    """
    size = checkpoint.size
    for tile in hash_tiles_between(0, size):
        if tile.partial:
            yield tile.path, _read(directory, tile)[: tile.width * HASH_BYTES]
    bundle, width = divmod(size, TILE_WIDTH)
    if not width or dropped:
        return
    tile = Tile(ENTRIES, bundle, width)
    try:
        entries = split_bundle(_read(directory, tile))[:width]
        named = [digest for entry in entries if b'"payload":' in entry for digest in payload_hashes(check(entry))]
        yield tile.path, b"".join(frame_entry(entry) for entry in entries)
        if named:
            blobs = [blob for path in pack_paths(directory, bundle) for blob in split_pack(path.read_bytes())]
            held = {sha256(blob).digest(): blob for blob in blobs}
            yield Tile(BLOBS, bundle, width).path, join_pack(held[digest] for digest in named)
    except (FileNotFoundError, KeyError):
        raise LogMoved from None
    except (EntryError, TileError) as error:
        raise SourceRefused(f"the log is damaged at {tile.path}: {error}; `stockade audit verify` says more") from error


def full_tiles(checkpoint: Checkpoint, *, dropped: bool = False) -> Iterator[Tile]:
    """The tiles that never change again: hashes, bundles, and payload packs, which only some bundles have.

    Where the entries were `dropped`, only those of hashes.
    """
    bundles = () if dropped else tiles_between(ENTRIES, 0, checkpoint.size)
    for tile in (*hash_tiles_between(0, checkpoint.size), *bundles):
        if not tile.partial:
            yield tile
            if tile.level == ENTRIES:
                yield Tile(BLOBS, tile.index)


def read_full(directory: Path, tile: Tile) -> bytes | None:
    """A full tile; None for a bundle without payloads. Raises SourceRefused: it is missing, or LogMoved."""
    data = read_tile(directory, tile)
    if data is not None:
        return data
    if tile.level != BLOBS:
        raise SourceRefused(f"{tile.path} is missing in {directory}; `stockade audit verify` says more")
    if (directory / tile.partial_directory).is_dir():  # the bundle is full, its pack is about to be
        raise LogMoved
    return None


def _read(directory: Path, tile: Tile) -> bytes:
    data = read_tile(directory, tile)
    if data is None:
        raise LogMoved
    return data
