"""The part of verification that grows with the log: entries, leaves, level-0 tiles and payloads, bundle by bundle.

Runs in worker processes for large logs; a chunk of bundles in, a small summary out. Part of `verify` and under its
rules: it imports only the pure modules, and trusts nothing it reads.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from hashlib import sha256
from itertools import count
from pathlib import Path
from typing import TypeVar

from ops.audit.errors import EntryError, TileError
from ops.audit.log.entry import check, payload_hashes
from ops.audit.log.merkle import HASH_BYTES, fold, leaf_hashes
from ops.audit.log.schemas import EPOCH_DROPPED, Admin, Entry, EpochClose, Gap, Genesis, Heartbeat, Recover, Request
from ops.audit.log.shapes import Shapes
from ops.audit.log.tiles import BLOBS, ENTRIES, TILE_WIDTH, Tile, is_width, split_bundle
from ops.audit.reader.read_file import bytes_in, open_file, read_file
from ops.audit.verify.report import FINDINGS_MAX, Finding, Severity

Data = TypeVar("Data", bytes, memoryview)
PART_BYTES = 1 << 16
PAYLOADS_MAX = 2 * TILE_WIDTH  # of a pack: a request and a response for each entry
PAYLOAD_BYTES_MAX = 256 << 20  # as `RecorderSettings.append_bytes_max`
MARKS = (Genesis, Heartbeat, Recover, Gap, EpochClose)


@dataclass(frozen=True, slots=True)
class Mark:
    """An entry that says something about the life of the log itself."""

    index: int
    entry: Genesis | Heartbeat | Recover | Gap | EpochClose | Admin


@dataclass(slots=True)
class Chunk:
    """What a run of bundles holds. Roots are those of full tiles; the leaves are those of a last, partial one."""

    entry_roots: list[bytes | None] = field(default_factory=list)
    tile_roots: list[bytes | None] = field(default_factory=list)
    last_entry_leaves: list[bytes] | None = None
    last_tile_leaves: list[bytes] | None = None
    mismatches: list[int] = field(default_factory=list)  # entries whose hash is not the one in their tile
    marks: list[Mark] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    severities: set[Severity] = field(default_factory=set)  # of all findings, as in `Report`
    records: int = 0
    last_time_ns: int = 0

    def report(self, severity: Severity, what: str, where: str) -> None:
        self.severities.add(severity)
        if len(self.findings) < FINDINGS_MAX:
            self.findings.append(Finding(severity, what, where))


def read_tile(directory: Path, tile: Tile) -> bytes | None:
    """A tile, or the full tile that has replaced it on a live log; None when both are missing."""
    return _read(directory, tile, read_file)


def _read(directory: Path, tile: Tile, read: Callable[[Path], Data]) -> Data | None:
    for path in (tile.path, tile.full_path):
        try:
            return read(directory / path)
        except FileNotFoundError:
            continue
    return None


class _Room:
    """Memory that one file after another is read into: to be given fresh memory takes longer than to read."""

    def __init__(self) -> None:
        self._memory = bytearray()

    def read(self, path: Path) -> memoryview:
        """What a file holds, until the next one is read."""
        with open_file(path) as file:
            size = bytes_in(file)
            if size > len(self._memory):
                self._memory = bytearray(size)
            view = memoryview(self._memory)[:size]
            return view[: file.readinto(view)]


def check_bundles(directory: Path, first: int, count: int, size: int, *, dropped: bool = False) -> Chunk:
    """Check the bundles [first, first + count) of a log of this size; where they were `dropped`, their leaf hashes."""
    chunk, shapes, room = Chunk(), Shapes(), _Room()
    for index in range(first, first + count):
        width = min(TILE_WIDTH, size - index * TILE_WIDTH)
        entries = None if dropped else _entries(directory, Tile(ENTRIES, index, width), room, chunk)
        leaves = None if entries is None else leaf_hashes(entries)
        hashes = _hashes(directory, Tile(0, index, width), leaves, chunk)
        if dropped:
            leaves = hashes
        same = leaves is hashes
        if leaves is not None and hashes is not None and not same:
            base = index * TILE_WIDTH
            different = [base + at for at, (one, two) in enumerate(zip(leaves, hashes, strict=True)) if one != two]
            chunk.mismatches += different[:FINDINGS_MAX]
        if width == TILE_WIDTH:
            chunk.entry_roots.append(None if leaves is None else fold(leaves))
            chunk.tile_roots.append(chunk.entry_roots[-1] if same else None if hashes is None else fold(hashes))
        else:
            chunk.last_entry_leaves, chunk.last_tile_leaves = leaves, hashes
        if entries is not None:
            _check_entries(directory, Tile(ENTRIES, index, width), entries, shapes, chunk)
        chunk.records += width
    return chunk


def _entries(directory: Path, tile: Tile, room: _Room, chunk: Chunk) -> list[memoryview] | None:
    data = _read(directory, tile, room.read)
    if data is None:
        chunk.report("incomplete", "the entry bundle is missing", tile.path)
        return None
    try:
        entries = split_bundle(data)
    except TileError as error:
        chunk.report("tampered", str(error), tile.path)
        return None
    if len(entries) != tile.width and not (tile.partial and len(entries) == TILE_WIDTH):
        chunk.report("tampered", f"the bundle holds {len(entries)} entries, not {tile.width}", tile.path)
        return None
    return entries[: tile.width]


def _hashes(directory: Path, tile: Tile, leaves: list[bytes] | None, chunk: Chunk) -> list[bytes] | None:
    """The hashes of a tile: `leaves`, where they are the same."""
    data = read_tile(directory, tile)
    if data is None:
        chunk.report("incomplete", "the tile is missing", tile.path)
        return None
    wanted = tile.width * HASH_BYTES
    if len(data) != wanted and not (tile.partial and len(data) == TILE_WIDTH * HASH_BYTES):
        chunk.report("tampered", f"the tile has {len(data)} bytes, not {wanted}", tile.path)
        return None
    if leaves is not None and data[:wanted] == b"".join(leaves):
        return leaves
    return [data[start : start + HASH_BYTES] for start in range(0, wanted, HASH_BYTES)]


def _check_entries(directory: Path, tile: Tile, entries: Sequence[memoryview], shapes: Shapes, chunk: Chunk) -> None:
    """Schema and canonical form of each entry, and the payloads they name."""
    named: set[bytes] = set()
    newest: Entry | None = None
    for place in shapes.unknown(entries):
        index, data = tile.index * TILE_WIDTH + place, bytes(entries[place])
        try:
            newest = checked = check(data)
            if isinstance(checked, Request):
                shapes.learn(data, checked)
                named.update(payload_hashes(checked))
            elif isinstance(checked, MARKS) or (isinstance(checked, Admin) and checked.action == EPOCH_DROPPED):
                chunk.marks.append(Mark(index, checked))
        except EntryError as error:
            chunk.report("tampered", f"entry {index}: {error}", tile.path)
    with suppress(EntryError):  # known or not, it says what time it was
        newest = check(bytes(entries[-1]))
    if newest is not None:
        chunk.last_time_ns = int(newest.time_ns)
    _check_payloads(directory, tile.index, tile.width, named, chunk)


def _packs(directory: Path, bundle: int, width: int) -> list[Tile]:
    """The payload packs of a bundle at this width: the full one, else the partial ones up to the width."""
    full = Tile(BLOBS, bundle)
    if (directory / full.path).is_file():
        return [full]
    partial = directory / full.partial_directory
    widths = [int(path.name) for path in partial.glob("*") if is_width(path.name) and path.is_file()]
    return [Tile(BLOBS, bundle, each) for each in sorted(widths) if each <= width]


def pack_digests(path: Path) -> Iterator[bytes]:
    """The SHA-256 of each payload in a pack, which may be larger than memory.

    Raises:
        TileError: it ends inside a payload, or holds more than entries can name.
        FileNotFoundError: there is none.
    """
    with open_file(path) as file:
        for number in count():
            if not (head := file.read(4)):
                return
            digest, left = sha256(), int.from_bytes(head, "big")
            if number == PAYLOADS_MAX or left > PAYLOAD_BYTES_MAX:
                raise TileError("a payload pack holds more than the entries of a bundle can name")
            while left and (part := file.read(min(left, PART_BYTES))):
                digest.update(part)
                left -= len(part)
            if left or len(head) < 4:
                raise TileError("a payload pack ends inside a payload")
            yield digest.digest()


def _check_payloads(directory: Path, bundle: int, width: int, named: set[bytes], chunk: Chunk) -> None:
    packs = _packs(directory, bundle, width)
    try:
        held = {pack: list(pack_digests(directory / pack.path)) for pack in packs}
    except TileError as error:
        chunk.report("tampered", str(error), Tile(BLOBS, bundle, width).path)
        held = {}
    except FileNotFoundError:
        if _packs(directory, bundle, width) == packs:
            raise
        # The partial packs were replaced by the full one as we read.
        _check_payloads(directory, bundle, width, named, chunk)
        return
    for pack, digests in held.items():
        ahead = width < TILE_WIDTH and not pack.partial  # a live log went on
        for digest in digests:
            if digest not in named and not ahead:
                chunk.report("tampered", f"a payload that no entry names: {digest.hex()}", pack.path)
    found = {digest for digests in held.values() for digest in digests}
    for digest in sorted(named - found):
        chunk.report("incomplete", f"a payload is missing: {digest.hex()}", Tile(BLOBS, bundle, width).path)
