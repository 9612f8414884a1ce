"""Path and width arithmetic of c2sp.org/tlog-tiles, and the two containers beside the hash tiles.

Pure. Level -1 is the entry bundle level ("entries"), level -2 our payload packs ("blobs"), which follow the numbering
of the bundles. A full tile is 256 hashes; an entry bundle is big-endian uint16 length || entry, for each entry; a pack
is big-endian uint32 length || ciphertext, for each payload that the bundle's entries name. A tile path is

    tile/<level>/<N>[.p/<W>]    tile/entries/<N>[.p/<W>]    blobs/<N>[.p/<W>]

with N in three-digit groups, all but the last prefixed with x. Hash tiles and bundles of width W hold the first W
items. A partial *pack* .p/<W> holds only what came since the last smaller one, so that a large payload is written once;
the full pack replaces them all.
"""

import re
import struct
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

from ops.audit.errors import TileError
from ops.audit.log.merkle import HASH_BYTES, fold

TILE_WIDTH = 256
TILE_HEIGHT = 8
ENTRIES = -1
BLOBS = -2
LEVEL_MAX = 7  # 256^8 leaves; sizes are below 2^63
INDEX_MAX = 1 << 55

_ROOTS = {ENTRIES: "tile/entries/", BLOBS: "blobs/"}
_PATH = re.compile(
    r"(?:tile/(?P<level>[0-7]|entries)|(?P<blobs>blobs))/(?P<number>(?:x\d{3}/)*\d{3})(?:\.p/(?P<width>[1-9]\d{0,2}))?",
    re.ASCII,
)
_WIDTH = re.compile(r"[1-9][0-9]{0,2}", re.ASCII)
_U16 = struct.Struct(">H")
_U32 = struct.Struct(">I")

Hashes = Callable[[int, int, int], Sequence[bytes]]
Framed = TypeVar("Framed", bytes, memoryview)


@dataclass(frozen=True, slots=True)
class Tile:
    """A tile by its place: level (ENTRIES, BLOBS or 0..7), index along the level, width in items."""

    level: int
    index: int
    width: int = TILE_WIDTH

    @property
    def partial(self) -> bool:
        return self.width < TILE_WIDTH

    @property
    def path(self) -> str:
        """The path below the log's directory or URL."""
        suffix = f".p/{self.width}" if self.partial else ""
        return self.full_path + suffix

    @property
    def full_path(self) -> str:
        """The path of the full tile at this place."""
        rest, last = divmod(self.index, 1000)
        groups = f"{last:03d}"
        while rest:
            rest, group = divmod(rest, 1000)
            groups = f"x{group:03d}/{groups}"
        return _ROOTS.get(self.level, f"tile/{self.level}/") + groups

    @property
    def partial_directory(self) -> str:
        return self.full_path + ".p"


def parse_path(path: str) -> Tile:
    """The tile that a path names.

    Raises:
        TileError: unless it is exactly the path this module would write.
    """
    match = _PATH.fullmatch(path)
    if match is None:
        raise TileError(f"not a tile path: {path!r}")
    index = int(match["number"].replace("/", "").replace("x", ""))
    level = BLOBS if match["blobs"] else ENTRIES if match["level"] == "entries" else int(match["level"])
    tile = Tile(level, index, int(match["width"] or TILE_WIDTH))
    if index >= INDEX_MAX or tile.path != path:
        raise TileError(f"not a canonical tile path: {path!r}")
    return tile


def is_width(name: str) -> bool:
    """Whether a file in a directory of partial tiles is called as one of them."""
    return _WIDTH.fullmatch(name) is not None and int(name) < TILE_WIDTH


def level_size(level: int, size: int) -> int:
    """How many items a level has in a tree of this size."""
    return size >> (TILE_HEIGHT * max(level, 0))


def tiles_between(level: int, old: int, new: int) -> Iterator[Tile]:
    """The tiles of one level that a tree of size `new` has and one of size `old` lacks, left to right."""
    before, after = level_size(level, old), level_size(level, new)
    if before == after:
        return
    for index in range(before // TILE_WIDTH, (after + TILE_WIDTH - 1) // TILE_WIDTH):
        yield Tile(level, index, min(TILE_WIDTH, after - index * TILE_WIDTH))


def hash_levels(size: int) -> range:
    """The levels of hash tiles that a tree of this size has."""
    return range((max(size.bit_length(), 1) - 1) // TILE_HEIGHT + 1) if size else range(0)


def hash_tiles_between(old: int, new: int) -> Iterator[Tile]:
    """All hash tiles that are new, lowest level first."""
    for level in hash_levels(new):
        yield from tiles_between(level, old, new)


def split_hashes(tile: bytes) -> list[bytes]:
    """The hashes of a tile.

    Raises:
        TileError: when the length is not that of 1 to 256 hashes.
    """
    count, rest = divmod(len(tile), HASH_BYTES)
    if rest or not 1 <= count <= TILE_WIDTH:
        raise TileError(f"{len(tile)} bytes are not a hash tile")
    return [tile[start : start + HASH_BYTES] for start in range(0, len(tile), HASH_BYTES)]


def node_from(hashes: Hashes) -> Callable[[int, int], bytes]:
    """Turn `hashes(level, first, count)` into the node function that proofs are made from."""

    def node(height: int, index: int) -> bytes:
        level, within = divmod(height, TILE_HEIGHT)
        return fold(hashes(level, index << within, 1 << within))

    return node


def frame_entry(entry: bytes) -> bytes:
    """An entry as it stands in a bundle, and everywhere before it."""
    return _U16.pack(len(entry)) + entry


def split_bundle(bundle: Framed) -> list[Framed]:
    """The entries of a bundle; of a memoryview they are views of the same memory.

    Raises:
        TileError: when the lengths do not add up to the bytes, or it has far more entries than a bundle.
    """
    return _split(bundle, _U16, "an entry bundle ends inside an entry", 2 * TILE_WIDTH)


def split_entries(run: bytes) -> list[bytes]:
    """The entries of any run of framed entries. Raises TileError: the lengths do not add up to the bytes."""
    return _split(run, _U16, "a run of entries ends inside an entry")


def join_pack(blobs: Iterable[bytes]) -> bytes:
    return b"".join(part for blob in blobs for part in (_U32.pack(len(blob)), blob))


def split_pack(pack: bytes) -> list[bytes]:
    """The payload ciphertexts of a pack.

    Raises:
        TileError: when the lengths do not add up to the bytes.
    """
    return _split(pack, _U32, "a payload pack ends inside a payload")


def _split(run: Framed, length: struct.Struct, cut_short: str, items_max: int = sys.maxsize) -> list[Framed]:
    items: list[Framed] = []
    position, end, size = 0, len(run), length.size
    for _ in range(items_max):
        if position + size > end:
            break
        (nbytes,) = length.unpack_from(run, position)
        start = position + size
        position = start + nbytes
        items.append(run[start:position])
    if position != end:
        raise TileError(cut_short if len(items) < items_max else f"it holds more than {items_max} items")
    return items
