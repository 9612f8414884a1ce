"""The segment format: where an entry first becomes durable.

A segment is a preallocated file, 64 MiB by default: a header block of 4,096 bytes, then frames. Each commit writes its
frames and a *trailer* frame, syncs the data, and only then are its entries acknowledged. Frames:

    magic 4 | kind u32 | length u32 | CRC-32C u32 | segment number u64 | payload

big-endian, the CRC over segment number, offset, kind, length and payload: a frame of the file's former life (segments
are recycled, and no number comes twice in a log) or at another place is no frame. Kinds: RECORDS (framed entries as in
a bundle), BLOBS (a pack of payload ciphertexts that the entries before it name), TRAILER (size, heartbeat sequence,
root, hash of the previous trailer).

Rules of recovery (`scan`):

1. What follows the last valid trailer was never acknowledged: torn, and left out. A new start always begins a new
   segment, so torn bytes are never written over and never joined to later ones.
2. A segment that has a successor ends at exactly the trailer its successor's header names.
3. In the last segment, a valid trailer *after* an invalid frame means durable data was damaged: `LogCorrupted`, never
   cut. One case is exempt, because a power cut makes it: the very next group, which chains directly to the last valid
   trailer, has no valid trailer after it and is covered by no signed checkpoint. Its own sync had not returned when
   its pages reached the disk out of order.

Pure except for `read`. It does not decide where segments live (see `appender`).
"""

import re
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from mmap import mmap
from pathlib import Path

from crc32c import crc32c

from ops.audit.errors import LogCorrupted, ProofError
from ops.audit.log.merkle import HASH_BYTES, Frontier
from ops.process.durable import read_device

HEADER_BYTES = 4096
RECORDS, BLOBS, TRAILER = 1, 2, 3
FRAME_MAGIC = b"\xf7SgF"
HEADER_MAGIC = b"STOCKADE-SEG-01\n"
FIRST_TRAILER = bytes(HASH_BYTES)

_FRAME = struct.Struct(">4sIIIQ")
_SEED = struct.Struct(">QQII")
_TRAILER = struct.Struct(">QQ32s32s")
_HEADER = struct.Struct(">16sQQQ32s32sI")
_CRC = struct.Struct(">I")
_MAGIC = re.compile(re.escape(FRAME_MAGIC))
FRAME_BYTES = _FRAME.size
TRAILER_BYTES = FRAME_BYTES + _TRAILER.size

Readable = bytes | mmap


@dataclass(frozen=True, slots=True)
class Trailer:
    """The end of a group: the tree with its entries, and the chain of groups before it."""

    size: int
    heartbeats: int
    root: bytes
    previous: bytes

    def pack(self) -> bytes:
        return _TRAILER.pack(self.size, self.heartbeats, self.root, self.previous)

    @property
    def hash(self) -> bytes:
        return sha256(self.pack()).digest()


@dataclass(frozen=True, slots=True)
class Header:
    """What a segment continues: enough to check it without any other file."""

    number: int
    heartbeats: int
    previous: bytes  # hash of the trailer before
    origin_hash: bytes
    frontier: Frontier

    def pack(self) -> bytes:
        """The header block.

        Layout: fixed fields, then the frontier's hashes, then zeros, then the CRC in the last four bytes.
        """
        hashes = self.frontier.hashes()
        fixed = _HEADER.pack(
            HEADER_MAGIC, self.number, self.frontier.size, self.heartbeats, self.previous, self.origin_hash, len(hashes)
        )
        body = (fixed + b"".join(hashes)).ljust(HEADER_BYTES - 4, b"\x00")
        return body + _CRC.pack(crc32c(body))


@dataclass(frozen=True, slots=True)
class Group:
    """The entries of one commit, framed as in a bundle, their payload packs, and the trailer that sealed them."""

    records: Sequence[bytes]
    packs: Sequence[bytes]
    trailer: Trailer
    end: int


@dataclass(frozen=True, slots=True)
class Segment:
    """A segment as recovery sees it. `torn_bytes` is what follows the last valid trailer and is left out."""

    header: Header
    groups: Sequence[Group]
    torn_bytes: int

    @property
    def last_trailer(self) -> bytes:
        return self.groups[-1].trailer.hash if self.groups else self.header.previous

    @property
    def size(self) -> int:
        return self.groups[-1].trailer.size if self.groups else self.header.frontier.size


def frame(kind: int, payload: bytes, number: int, offset: int) -> tuple[bytes, bytes]:
    """The two parts of a frame that goes to `offset` of segment `number`."""
    seed = crc32c(_SEED.pack(number, offset, kind, len(payload)))
    return _FRAME.pack(FRAME_MAGIC, kind, len(payload), crc32c(payload, seed), number), payload


def parse_header(data: Readable, where: Path) -> Header:
    """Read a header block.

    Raises:
        LogCorrupted: when it is not one.
    """
    block = data[:HEADER_BYTES]
    if len(block) < HEADER_BYTES or _CRC.unpack(block[-4:])[0] != crc32c(block[:-4]):
        raise LogCorrupted(where, "the segment header is damaged")
    magic, number, size, heartbeats, previous, origin_hash, count = _HEADER.unpack_from(block)
    if magic != HEADER_MAGIC:
        raise LogCorrupted(where, "the segment is of another format")
    start = _HEADER.size
    hashes = [block[at : at + HASH_BYTES] for at in range(start, start + count * HASH_BYTES, HASH_BYTES)]
    try:
        frontier = Frontier.restore(size, hashes)
    except ProofError as error:
        raise LogCorrupted(where, "the segment header holds no frontier") from error
    return Header(number, heartbeats, previous, origin_hash, frontier)


def _frame_at(data: Readable, offset: int, number: int) -> tuple[int, bytes, int] | None:
    """(kind, payload, end) of the valid frame at an offset, or None."""
    if offset + FRAME_BYTES > len(data):
        return None
    magic, kind, length, crc, owner = _FRAME.unpack_from(data, offset)
    start = offset + FRAME_BYTES
    if magic != FRAME_MAGIC or owner != number or start + length > len(data):
        return None
    payload = data[start : start + length]
    if crc32c(payload, crc32c(_SEED.pack(number, offset, kind, length))) != crc:
        return None
    return kind, payload, start + length


def _trailers_after(data: Readable, offset: int, number: int) -> list[Trailer]:
    """Valid trailers anywhere behind an offset."""
    found: list[Trailer] = []
    for magic in _MAGIC.finditer(data, offset):
        valid = _frame_at(data, magic.start(), number)
        if valid is not None and valid[0] == TRAILER:
            found.append(Trailer(*_TRAILER.unpack(valid[1])))
    return found


def scan(data: Readable, where: Path) -> Segment:
    """The valid groups from the front of a segment.

    Raises:
        LogCorrupted: when the header is damaged or valid frames contradict the chain of trailers.
    """
    header = parse_header(data, where)
    groups: list[Group] = []
    records: list[bytes] = []
    packs: list[bytes] = []
    previous, offset, end = header.previous, HEADER_BYTES, HEADER_BYTES
    while (valid := _frame_at(data, offset, header.number)) is not None:
        kind, payload, offset = valid
        if kind == RECORDS:
            records.append(payload)
        elif kind == BLOBS:
            packs.append(payload)
        elif kind == TRAILER and len(payload) == _TRAILER.size:
            trailer = Trailer(*_TRAILER.unpack(payload))
            if trailer.previous != previous:
                raise LogCorrupted(where, f"the trailer of size {trailer.size} does not follow the one before it")
            groups.append(Group(records, packs, trailer, offset))
            records, packs, previous, end = [], [], trailer.hash, offset
        else:
            raise LogCorrupted(where, f"a frame of unknown kind {kind} at {offset}")
    return Segment(header, groups, _torn_bytes(data, end, header.number))


def _torn_bytes(data: Readable, end: int, number: int) -> int:
    """How much of a group that was being written follows the last trailer: to the end of its last frame header."""
    last = end
    while len(data) >= last + FRAME_BYTES:
        magic, _, length, _, owner = _FRAME.unpack_from(data, last)
        if magic != FRAME_MAGIC or owner != number:
            break
        last = min(last + FRAME_BYTES + length, len(data))
    return last - end


def check_tail(data: Readable, segment: Segment, where: Path, signed_size: int) -> None:
    """Rule 3, for the last segment. `signed_size` is that of the newest signed checkpoint.

    Raises:
        LogCorrupted: durable groups lie behind damage.
    """
    end = segment.groups[-1].end if segment.groups else HEADER_BYTES
    beyond = _trailers_after(data, end, segment.header.number)
    if not beyond:
        return
    in_flight = len(beyond) == 1 and beyond[0].previous == segment.last_trailer and beyond[0].size > signed_size
    if not in_flight:
        raise LogCorrupted(
            where, f"damage at or after byte {end}: a durable group of size {beyond[0].size} follows; restore this file"
        )


def read(path: Path) -> tuple[Readable, Segment]:
    """A segment file from the device, and its scan.

    Raises:
        LogCorrupted: as `scan`.
    """
    data = read_device(path)
    return data, scan(data, path)
