"""Starting on what is there: from the public tiles and the segments to a tree that may grow again.

Rules:

1. The public checkpoint and the newest signed one (lock database) must verify under the log's key.
2. The edge starts from the tiles of the public checkpoint, whose root they must give.
3. Segments must form one chain of trailers from at or before the public size; every trailer's root is computed again.
4. The tree must reach the newest signed checkpoint and have its root there.
5. The unacknowledged tail of the last segment is left out (`segments`, rules 1 to 3), never anything else.

It changes nothing on disk.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from ops.audit.errors import EntryError, LogCorrupted, NoteError, ReadError, TileError
from ops.audit.log import entry
from ops.audit.log.checkpoint import Checkpoint, VerifierKey, open_checkpoint
from ops.audit.log.merkle import EMPTY_ROOT, Frontier, leaf_hashes
from ops.audit.log.tiles import (
    TILE_WIDTH,
    frame_entry,
    hash_levels,
    level_size,
    split_entries,
    split_pack,
)
from ops.audit.reader.read import LogReader
from ops.audit.store.edge import Edge
from ops.audit.store.segments import FIRST_TRAILER, Group, Segment, check_tail, read


@dataclass(frozen=True, slots=True)
class Recovered:
    """The durable log: where the next segment goes on, and what is known about how it ended."""

    edge: Edge
    frontier: Frontier
    previous: bytes  # hash of the last trailer
    heartbeats: int
    next_number: int
    torn_bytes: int
    ends: Sequence[tuple[int, int]]  # (segment number, tree size at its end)
    tail: Sequence[bytes]  # framed entries of the retained segments, oldest first


def read_checkpoint(data: bytes | None, vkey: VerifierKey, where: Path) -> Checkpoint:
    """A checkpoint of ours, or the empty one when there is none yet.

    Raises:
        LogCorrupted: when it is not ours.
    """
    if data is None:
        return Checkpoint(vkey.name, 0, EMPTY_ROOT)
    try:
        return open_checkpoint(data, [vkey])
    except NoteError as error:
        raise LogCorrupted(where, f"the checkpoint does not verify under this log's key: {error}") from error


def _published_edge(directory: Path, public: Checkpoint) -> tuple[Edge, Frontier]:
    """Edge and frontier of the published tree (rule 2)."""
    reader = LogReader(directory, public)
    size = public.size
    try:
        rows = [_unfinished(reader, level, size) for level in hash_levels(size)]
        first = size // TILE_WIDTH * TILE_WIDTH
        entries = reader.entries(first, size - first)
        frontier = reader.frontier(size)
    except (ReadError, TileError) as error:
        raise LogCorrupted(directory, f"the published tiles are damaged: {error}") from error
    if frontier.root() != public.root:
        raise LogCorrupted(directory, f"the published tiles do not give the root of the checkpoint of size {size}")
    return Edge.published(size, public.root, rows, [frame_entry(each) for each in entries]), frontier


def _unfinished(reader: LogReader, level: int, size: int) -> list[bytes]:
    items = level_size(level, size)
    first = items // TILE_WIDTH * TILE_WIDTH
    return reader.hashes(level, first, items - first)


def _blobs(group: Group, entries: Sequence[bytes], first: int, where: Path) -> list[tuple[int, bytes]]:
    """The payloads of a group with the index of the entry that names each."""
    if not group.packs:
        return []
    try:
        pool = {sha256(blob).digest(): blob for pack in group.packs for blob in split_pack(pack)}
        return [
            (index, pool[digest])
            for index, data in enumerate(entries, first)
            if b'"payload":' in data
            for digest in entry.payload_hashes(entry.check(data))
        ]
    except (EntryError, TileError, KeyError) as error:
        raise LogCorrupted(where, f"payloads of the group of size {group.trailer.size} are damaged") from error


def _replay(segment: Segment, path: Path, edge: Edge, frontier: Frontier, signed: Checkpoint) -> None:
    """Extend edge and frontier by what of a segment lies beyond them; check every root on the way (rules 3, 4).

    Where the segment reaches the frontier both are one tree, and grow as one.
    """
    check = segment.header.frontier.copy()
    for group in segment.groups:
        first = check.size
        entries = split_entries(b"".join(group.records))
        leaves = leaf_hashes(entries)
        if first < signed.size < first + len(leaves):
            partly = check.copy()
            partly.extend(leaves[: signed.size - first])
            _expect(partly, signed, path)
        skip = max(frontier.size - first, 0)
        grown = check.extend(leaves)
        if check.size != group.trailer.size or check.root() != group.trailer.root:
            raise LogCorrupted(path, f"the entries before size {group.trailer.size} do not give its root")
        if check.size == signed.size:
            _expect(check, signed, path)
        if skip < len(leaves):
            if check is not frontier:
                grown = frontier.extend(leaves[skip:])
                _agree(check, frontier, path)
                check = frontier
            blobs = [each for each in _blobs(group, entries, first, path) if each[0] >= first + skip]
            framed = _framed(group.records, entries)[skip:]
            edge.add(grown, framed, blobs, frontier.size, group.trailer.root)
    if check.size == frontier.size:
        _agree(check, frontier, path)


def _framed(records: Sequence[bytes], entries: Sequence[bytes]) -> Sequence[bytes]:
    """The entries of a group as they stand in its frames, which is how they are kept where each has one of its own."""
    if list(map(len, records)) == [2 + len(each) for each in entries]:
        return records
    return [frame_entry(each) for each in entries]


def _agree(check: Frontier, frontier: Frontier, path: Path) -> None:
    if check.root() != frontier.root():
        raise LogCorrupted(path, f"the segment and the published tiles disagree at size {check.size}")


def _expect(frontier: Frontier, signed: Checkpoint, where: Path) -> None:
    if frontier.root() != signed.root:
        raise LogCorrupted(where, f"the tree of size {signed.size} is not the one that was signed")


def recover(
    directory: Path, segments: Sequence[Path], origin: str, *, public: Checkpoint, signed: Checkpoint
) -> Recovered:
    """Read everything that is durable.

    Raises:
        LogCorrupted: durable data contradicts itself or its checkpoints.
    """
    if public.size > signed.size:
        raise LogCorrupted(directory, f"the public checkpoint ({public.size}) is ahead of the lock ({signed.size})")
    edge, frontier = _published_edge(directory, public)
    ends: list[tuple[int, int]] = []
    tail: list[bytes] = []
    previous, heartbeats, number, torn = FIRST_TRAILER, 0, 0, 0
    scans = [(path, *read(path)) for path in segments]
    for position, (path, data, scanned) in enumerate(scans):
        header = scanned.header
        if header.origin_hash != sha256(origin.encode()).digest():
            raise LogCorrupted(path, f"the segment does not belong to {origin}")
        segment = scanned
        if position == len(scans) - 1:
            check_tail(data, segment, path, signed.size)
            torn = segment.torn_bytes
        else:
            segment = _end_before(scanned, scans[position + 1][2], path)
        if header.frontier.size > frontier.size or (number and header.previous != previous):
            raise LogCorrupted(
                path, f"the segment begins at {header.frontier.size}, which does not follow what is there"
            )
        _replay(segment, path, edge, frontier, signed)
        previous, number = segment.last_trailer, header.number
        heartbeats = segment.groups[-1].trailer.heartbeats if segment.groups else header.heartbeats
        ends.append((number, segment.size))
        tail += [records for group in segment.groups for records in group.records]
    if frontier.size < signed.size or (frontier.size and not scans):
        where = segments[-1] if segments else directory
        raise LogCorrupted(where, f"durable entries end at {frontier.size}, the signed checkpoint has {signed.size}")
    return Recovered(edge, frontier, previous, heartbeats, number + 1, torn, ends, tail)


def _end_before(segment: Segment, following: Segment, path: Path) -> Segment:
    """Rule 2 of `segments`: what a segment with a successor holds up to the trailer that the successor names."""
    if following.header.previous == segment.header.previous:
        return Segment(segment.header, [], 0)
    for count, group in enumerate(segment.groups, 1):
        if group.trailer.hash == following.header.previous:
            return Segment(segment.header, segment.groups[:count], 0)
    raise LogCorrupted(path, f"damage before size {following.header.frontier.size}: restore this file")
