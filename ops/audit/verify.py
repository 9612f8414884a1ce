"""Verify a log directory offline, trusting nothing in it but the keys that were brought along.

Rules, all of them checked: the checkpoint is a canonical note signed by the log's key; every entry is canonical and of
a known kind; every leaf is the hash of its entry; every tile at every level follows from the level below; the root is
the checkpoint's; narrower tiles left from earlier publications are prefixes; every payload an entry names is there and
no other; the genesis entry names this origin; heartbeats count up by one; a remembered checkpoint, where one is given,
is a prefix. On a live log the checkpoint is read first and everything is judged at its size.

Exit codes: 0 ok, 1 tampered, 2 incomplete, 3 stale, 4 usage. Imports only the pure modules (entry, merkle, checkpoint,
tiles), so that this and they are all there is to audit.
"""

import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from multiprocessing import get_context
from pathlib import Path

from ops.audit.checkpoint import Checkpoint, VerifierKey, open_checkpoint, parse_vkey
from ops.audit.entry import Genesis, Heartbeat
from ops.audit.errors import NoteError, TileError, VerifierKeyError
from ops.audit.merkle import HASH_BYTES, Frontier, fold, leaf_hash
from ops.audit.tiles import (
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
from ops.audit.verify_bundles import FINDINGS_MAX, Chunk, Finding, Severity, check_bundles, read_tile

OK, TAMPERED, INCOMPLETE, STALE, USAGE = range(5)
CHUNK_BUNDLES = 32
PARALLEL_RECORDS = 65_536  # below this, starting processes costs more than it saves
HEARTBEAT_SLACK = 3  # a gap of so many intervals is worth a notice

_EXIT: dict[Severity, int] = {"tampered": TAMPERED, "incomplete": INCOMPLETE, "stale": STALE, "notice": OK}
Progress = Callable[[int, int], None]


@dataclass(slots=True)
class Report:
    """What was verified and what is wrong. `exit_code` is the worst finding's (tampered, incomplete, stale)."""

    origin: str = ""
    size: int = 0
    root: str = ""
    findings: list[Finding] = field(default_factory=list)
    heartbeats: int = 0
    last_time_ns: int = 0
    seconds: float = 0.0
    usage: bool = False

    @property
    def exit_code(self) -> int:
        if self.usage:
            return USAGE
        found = {_EXIT[each.severity] for each in self.findings}
        return min(found - {OK}, default=OK)

    @property
    def records_per_s(self) -> float:
        return self.size / self.seconds if self.seconds else 0.0

    def add(self, severity: Severity, what: str, where: str) -> None:
        if len(self.findings) < FINDINGS_MAX:
            self.findings.append(Finding(severity, what, where))


def verify_log(
    directory: Path,
    vkeys: Sequence[str],
    *,
    progress: Progress | None = None,
    now_ns: int | None = None,
    stale_after_s: float | None = None,
    remembered: bytes | None = None,
    processes: int | None = None,
) -> Report:
    """Verify a log directory.

    Args:
        directory: what the recorder publishes: checkpoint, tile/, blobs/.
        vkeys: verifier keys of the log.
        progress: called with (records done, records in all) now and then.
        now_ns: the time now, for staleness.
        stale_after_s: a newest entry older than this is stale (needs `now_ns`).
        remembered: a checkpoint note seen before, which the log must extend.
        processes: worker processes for large logs; all processors when None, this one alone when 0.
    """
    started = time.perf_counter()
    report = Report()
    try:
        keys = [parse_vkey(each.strip()) for each in vkeys]
    except VerifierKeyError as error:
        report.usage = True
        report.add("notice", str(error), "vkey")
        return report
    if not keys or not directory.is_dir():
        report.usage = True
        report.add("notice", "no key, or no such directory", str(directory))
        return report
    checkpoint = _open(directory, keys, report)
    if checkpoint is not None:
        report.origin, report.size, report.root = checkpoint.origin, checkpoint.size, checkpoint.root.hex()
        whole = _verify(directory, checkpoint, report, progress, processes)
        seen = _remembered(remembered, keys, report)
        if seen is not None:
            _check_extends(directory, checkpoint, seen, whole, report)
    if now_ns is not None and stale_after_s is not None and now_ns - report.last_time_ns > stale_after_s * 1e9:
        report.add("stale", f"the newest entry is older than {stale_after_s:g} s", "checkpoint")
    report.seconds = time.perf_counter() - started
    return report


def _open(directory: Path, keys: Iterable[VerifierKey], report: Report) -> Checkpoint | None:
    try:
        return open_checkpoint((directory / "checkpoint").read_bytes(), keys)
    except FileNotFoundError:
        report.add("incomplete", "the checkpoint is missing", "checkpoint")
    except NoteError as error:
        report.add("tampered", str(error), "checkpoint")
    return None


def _verify(
    directory: Path, checkpoint: Checkpoint, report: Report, progress: Progress | None, processes: int | None
) -> Chunk:
    """Everything but signatures and staleness. Returns the summary of all bundles."""
    whole = Chunk()
    for chunk in _chunks(directory, checkpoint.size, processes):
        whole.entry_roots += chunk.entry_roots
        whole.tile_roots += chunk.tile_roots
        whole.mismatches += chunk.mismatches
        whole.marks += chunk.marks
        whole.records += chunk.records
        whole.last_entry_leaves, whole.last_tile_leaves = chunk.last_entry_leaves, chunk.last_tile_leaves
        for finding in chunk.findings:
            report.add(finding.severity, finding.what, finding.where)
        report.last_time_ns = chunk.last_time_ns
        if progress is not None:
            progress(whole.records, checkpoint.size)
    _check_root(directory, checkpoint, whole, report)
    _check_life(checkpoint, whole, report)
    _check_leftovers(directory, checkpoint.size, report)
    return whole


def _chunks(directory: Path, size: int, processes: int | None) -> Iterator[Chunk]:
    bundles = -(-size // TILE_WIDTH)
    starts = range(0, bundles, CHUNK_BUNDLES)
    counts = [min(CHUNK_BUNDLES, bundles - start) for start in starts]
    work = partial(check_bundles, directory, size=size)
    if processes == 0 or size < PARALLEL_RECORDS:
        yield from map(work, starts, counts)
        return
    with ProcessPoolExecutor(processes or os.cpu_count(), mp_context=get_context("spawn")) as pool:
        yield from pool.map(work, starts, counts)


def _root(size: int, tile_roots: Sequence[bytes | None], last_leaves: Sequence[bytes] | None) -> bytes | None:
    """The root over full tiles and the leaves of a last, partial one; None when a part of it is missing."""
    full = [root for root in tile_roots if root is not None]
    if len(full) != size // TILE_WIDTH or (size % TILE_WIDTH and last_leaves is None):
        return None
    upper, lower = Frontier(), Frontier()
    upper.extend(full)
    lower.extend(last_leaves or ())
    return Frontier.restore(size, lower.hashes() + upper.hashes()).root()


def _check_root(directory: Path, checkpoint: Checkpoint, whole: Chunk, report: Report) -> None:
    """The tree's root from the entries, and from the tiles: who is right where they differ."""
    size = checkpoint.size
    by_entries = _root(size, whole.entry_roots, whole.last_entry_leaves)
    by_tiles = _root(size, whole.tile_roots, whole.last_tile_leaves)
    if by_entries not in (None, checkpoint.root):
        report.add("tampered", "the entries do not give the root of the checkpoint", "checkpoint")
    if by_tiles not in (None, checkpoint.root):
        report.add("tampered", "the tiles do not give the root of the checkpoint", "checkpoint")
    for index in whole.mismatches:
        bundle = index // TILE_WIDTH
        width = min(TILE_WIDTH, size - bundle * TILE_WIDTH)
        tile, entries = Tile(0, bundle, width).path, Tile(ENTRIES, bundle, width).path
        if by_entries == checkpoint.root:
            report.add("tampered", f"the hash of entry {index} was changed", tile)
        elif by_tiles == checkpoint.root:
            report.add("tampered", f"entry {index} was changed", entries)
        else:
            report.add("tampered", f"entry {index} does not hash to its leaf in {tile}", entries)
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


def _check_life(checkpoint: Checkpoint, whole: Chunk, report: Report) -> None:
    """Genesis first, heartbeats without a hole in their count, silences explained. Where bundles are missing, so may be
    heartbeats: then they must only go up.
    """
    marks = whole.marks
    unread = None in whole.entry_roots or (checkpoint.size % TILE_WIDTH and whole.last_entry_leaves is None)
    if checkpoint.size and not unread and not (marks and isinstance(marks[0].entry, Genesis)):
        report.add("tampered", "the log does not begin with a genesis entry", Tile(ENTRIES, 0).full_path)
    last: Heartbeat | None = None
    explained = True
    for mark in marks:
        entry = mark.entry
        where = f"entry {mark.index}"
        if isinstance(entry, Genesis):
            if mark.index or entry.origin != checkpoint.origin:
                report.add("tampered", f"a genesis entry of {entry.origin}", where)
        elif isinstance(entry, Heartbeat):
            report.heartbeats += 1
            expected = last.sequence + 1 if last is not None else 1
            if entry.sequence < expected or (entry.sequence > expected and not unread):
                report.add("tampered", f"heartbeat {entry.sequence} stands where {expected} belongs", where)
            if last is not None and not explained and not unread:
                _check_silence(last, entry, where, report)
            last, explained = entry, False
        else:
            explained = True  # a restart or a declared gap


def _check_silence(before: Heartbeat, after: Heartbeat, where: str, report: Report) -> None:
    silent_ns = int(after.time_ns) - int(before.time_ns)
    if silent_ns < 0:
        report.add("notice", "the clock went back since the heartbeat before", where)
    elif silent_ns > HEARTBEAT_SLACK * before.interval_ms * 1_000_000:
        report.add("notice", f"no heartbeat for {silent_ns / 1e9:.1f} s, and no entry says why", where)


def _check_leftovers(directory: Path, size: int, report: Report) -> None:
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


def _remembered(note: bytes | None, keys: Sequence[VerifierKey], report: Report) -> Checkpoint | None:
    if note is None:
        return None
    try:
        return open_checkpoint(note, keys)
    except NoteError as error:
        report.usage = True
        report.add("notice", str(error), "the remembered checkpoint")
        return None


def _check_extends(directory: Path, checkpoint: Checkpoint, seen: Checkpoint, whole: Chunk, report: Report) -> None:
    """The log must extend a checkpoint seen before: else it was rolled back or forked."""
    if seen.origin != checkpoint.origin:
        report.add("tampered", f"the remembered checkpoint is that of {seen.origin}", "checkpoint")
        return
    if seen.size > checkpoint.size:
        report.add("tampered", f"rolled back: size {seen.size} was seen, the log has {checkpoint.size}", "checkpoint")
        return
    bundles, rest = divmod(seen.size, TILE_WIDTH)
    leaves: list[bytes] | None = None
    data = read_tile(directory, Tile(ENTRIES, bundles, min(TILE_WIDTH, checkpoint.size - bundles * TILE_WIDTH)))
    if rest and data is not None:
        with suppress(TileError):  # reported with its bundle
            leaves = [leaf_hash(each) for each in split_bundle(data)[:rest]]
    root = _root(seen.size, whole.entry_roots[:bundles], leaves)
    if root is None:
        report.add("incomplete", f"the tree of size {seen.size} cannot be computed", "checkpoint")
    elif root != seen.root:
        report.add("tampered", f"a fork: another tree of size {seen.size} was signed before", "checkpoint")
