"""Verify a log directory offline, trusting nothing in it but the keys that were brought along.

Rules, all of them checked: the checkpoint is a canonical note signed by the log's key; every entry is canonical and of
a known kind; every leaf is the hash of its entry; every tile at every level follows from the level below; the root is
the checkpoint's; narrower tiles left from earlier publications are prefixes; every payload an entry names is there and
no other; the genesis entry names this origin; heartbeats count up by one; a remembered checkpoint, where one is given,
is a prefix. On a live log the checkpoint is read first and everything is judged at its size. What else lies in the
directory is set aside: it is listed, and neither vouched for nor held against the log.

Exit codes: 0 ok, 1 tampered, 2 incomplete, 3 stale, 4 usage (a key that is not this log's included). Imports only the
pure modules (entry, schemas, shapes, merkle, checkpoint, tiles), so that this and they are all there is to audit.
"""

import os
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from functools import partial
from multiprocessing import get_context
from pathlib import Path

from msgspec import UNSET

from ops.audit.errors import EntryError, NoteError, SignatureMissing, TileError, VerifierKeyError
from ops.audit.log.checkpoint import NOTE_BYTES_MAX, Checkpoint, VerifierKey, open_checkpoint, parse_vkey
from ops.audit.log.entry import check
from ops.audit.log.merkle import leaf_hashes
from ops.audit.log.schemas import Admin, EpochClose, Genesis, Heartbeat
from ops.audit.log.tiles import (
    ENTRIES,
    TILE_WIDTH,
    Tile,
    split_bundle,
    split_hashes,
)
from ops.audit.reader.read_file import read_file
from ops.audit.verify.bundles import Chunk, check_bundles, read_tile
from ops.audit.verify.report import Report
from ops.audit.verify.tree import check_leftovers, check_root, root_of, vouched_for

CHUNK_BUNDLES = 32
PARALLEL_RECORDS = 65_536  # below this, starting processes costs more than it saves
HEARTBEAT_SLACK = 3  # a gap of so many intervals is worth a notice

Progress = Callable[[int, int], None]


def verify_log(
    directory: Path,
    vkeys: Sequence[str],
    *,
    progress: Progress | None = None,
    now_ns: int | None = None,
    stale_after_s: float | None = None,
    remembered: bytes | None = None,
    processes: int | None = None,
    dropped: bool = False,
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
        dropped: its entries were removed; what is left are hashes, and they are taken for what they say of entries.
    """
    started = time.perf_counter()
    report = Report()
    try:
        keys = [parse_vkey(each.strip()) for each in vkeys]
    except VerifierKeyError as error:
        report.refuse(str(error), "vkey")
        return report
    if not keys:
        report.refuse("no key was given to verify with", "vkey")
    if not directory.is_dir():
        report.refuse("no such directory", str(directory))
    if report.usage:
        return report
    checkpoint = _open(directory, keys, report)
    if checkpoint is not None:
        report.origin, report.size, report.root = checkpoint.origin, checkpoint.size, checkpoint.root.hex()
        whole = _verify(directory, checkpoint, report, progress, processes, dropped=dropped)
        check_leftovers(directory, checkpoint.size, partial(_newest_size, directory, keys, checkpoint.size), report)
        seen = _remembered(remembered, keys, report)
        if seen is not None:
            _check_extends(directory, checkpoint, seen, whole, report, dropped=dropped)
        if now_ns is not None and stale_after_s is not None and now_ns - report.last_time_ns > stale_after_s * 1e9:
            report.add("stale", f"the newest entry is older than {stale_after_s:g} s", "checkpoint")
    report.seconds = time.perf_counter() - started
    return report


def _open(directory: Path, keys: Sequence[VerifierKey], report: Report) -> Checkpoint | None:
    """The checkpoint under the keys that were brought along.

    One that none of them signed says nothing by itself: the key may be the wrong one. It is tampering when the log's
    own first entry names one of them.
    """
    try:
        return open_checkpoint(read_file(directory / "checkpoint", NOTE_BYTES_MAX), keys)
    except FileNotFoundError:
        report.add("incomplete", "the checkpoint is missing", "checkpoint")
    except SignatureMissing as error:
        named = _named_key(directory)
        if named in {str(key) for key in keys}:
            report.add("tampered", f"the first entry names the key, but {error}", "checkpoint")
        else:
            instead = f"; the log names {named} as its own" if named else ""
            report.refuse(f"the checkpoint is not signed by this key: {error}{instead}", "vkey")
    except NoteError as error:
        report.add("tampered", str(error), "checkpoint")
    return None


def _newest_size(directory: Path, keys: Sequence[VerifierKey], size: int) -> int:
    """The size of the log by now, which may have gone on since its checkpoint was read."""
    with suppress(OSError, NoteError):
        size = max(size, open_checkpoint(read_file(directory / "checkpoint", NOTE_BYTES_MAX), keys).size)
    return size


def _named_key(directory: Path) -> str | None:
    """The key that the genesis entry names, whatever that is worth without a root over it."""
    first = Tile(ENTRIES, 0)
    for path in (directory / first.full_path, *(directory / first.partial_directory).glob("*")):
        with suppress(OSError, TileError, EntryError):
            for data in split_bundle(read_file(path))[:1]:
                entry = check(data)
                if isinstance(entry, Genesis):
                    return entry.vkey
    return None


def _verify(
    directory: Path,
    checkpoint: Checkpoint,
    report: Report,
    progress: Progress | None,
    processes: int | None,
    *,
    dropped: bool,
) -> Chunk:
    """Everything that the checkpoint vouches for. Returns the summary of all bundles."""
    whole = Chunk()
    for chunk in _chunks(directory, checkpoint.size, processes, dropped=dropped):
        whole.entry_roots += chunk.entry_roots
        whole.tile_roots += chunk.tile_roots
        whole.mismatches += chunk.mismatches
        whole.marks += chunk.marks
        whole.records += chunk.records
        whole.last_entry_leaves, whole.last_tile_leaves = chunk.last_entry_leaves, chunk.last_tile_leaves
        report.severities |= chunk.severities
        for finding in chunk.findings:
            report.add(finding.severity, finding.what, finding.where)
        report.last_time_ns = chunk.last_time_ns
        if progress is not None:
            progress(whole.records, checkpoint.size)
    check_root(directory, checkpoint, whole, report)
    if not dropped:
        _check_life(checkpoint, whole, report)
    return whole


def _chunks(directory: Path, size: int, processes: int | None, *, dropped: bool) -> Iterator[Chunk]:
    bundles = -(-size // TILE_WIDTH)
    starts = range(0, bundles, CHUNK_BUNDLES)
    counts = [min(CHUNK_BUNDLES, bundles - start) for start in starts]
    work = partial(check_bundles, directory, size=size, dropped=dropped)
    if processes == 0 or size < PARALLEL_RECORDS:
        yield from map(work, starts, counts)
        return
    with ProcessPoolExecutor(processes or os.cpu_count(), mp_context=get_context("spawn")) as pool:
        yield from pool.map(work, starts, counts)


def _check_life(checkpoint: Checkpoint, whole: Chunk, report: Report) -> None:
    """Genesis first, heartbeats without a hole in their count, silences explained. Where bundles are missing, so may be
    heartbeats: then they must only go up.
    """
    marks = whole.marks
    unread = None in whole.entry_roots or (checkpoint.size % TILE_WIDTH and whole.last_entry_leaves is None)
    if checkpoint.size and not unread and not (marks and isinstance(marks[0].entry, Genesis)):
        report.add("tampered", "the log does not begin with a genesis entry", Tile(ENTRIES, 0).full_path)
    _check_ends(checkpoint, whole, report)
    last: Heartbeat | None = None
    explained = True
    for mark in marks:
        entry = mark.entry
        where = f"entry {mark.index}"
        if isinstance(entry, Heartbeat):
            report.heartbeats += 1
            expected = last.sequence + 1 if last is not None else 1
            if entry.sequence < expected or (entry.sequence > expected and not unread):
                report.add("tampered", f"heartbeat {entry.sequence} stands where {expected} belongs", where)
            if last is not None and not explained and not unread:
                _check_silence(last, entry, where, report)
            last, explained = entry, False
        else:
            explained = True  # a restart or a declared gap


def _check_ends(checkpoint: Checkpoint, whole: Chunk, report: Report) -> None:
    """What begins the log and what closes it stand nowhere else; what was dropped of others is noted."""
    for mark in whole.marks:
        entry, where = mark.entry, f"entry {mark.index}"
        if isinstance(entry, Genesis):
            if mark.index or entry.origin != checkpoint.origin:
                report.add("tampered", f"a genesis entry of {entry.origin}", where)
            else:
                report.genesis = entry
        elif isinstance(entry, EpochClose):
            if mark.index != checkpoint.size - 1:
                report.add("tampered", "entries follow the one that closes the epoch", where)
            else:
                report.close = entry
        elif isinstance(entry, Admin):
            report.dropped |= epoch_named(entry)


def epoch_named(entry: Admin) -> dict[int, str]:
    """The number of the epoch that an entry says is dropped, with its root, which is empty where it does not say it."""
    detail = {} if entry.detail is UNSET or entry.outcome != "done" else entry.detail
    number = detail.get("epoch", "")
    return {int(number): detail.get("root", "")} if number.isascii() and number.isdigit() else {}


def _check_silence(before: Heartbeat, after: Heartbeat, where: str, report: Report) -> None:
    silent_ns = int(after.time_ns) - int(before.time_ns)
    if silent_ns < 0:
        report.add("notice", "the clock went back since the heartbeat before", where)
    elif silent_ns > HEARTBEAT_SLACK * before.interval_ms * 1_000_000:
        report.add("notice", f"no heartbeat for {silent_ns / 1e9:.1f} s, and no entry says why", where)


def _remembered(note: bytes | None, keys: Sequence[VerifierKey], report: Report) -> Checkpoint | None:
    if note is None:
        return None
    try:
        return open_checkpoint(note, keys)
    except NoteError as error:
        report.refuse(str(error), "the remembered checkpoint")
        return None


def _check_extends(
    directory: Path, checkpoint: Checkpoint, seen: Checkpoint, whole: Chunk, report: Report, *, dropped: bool
) -> None:
    """The log must extend a checkpoint seen before: else it was rolled back or forked."""
    if seen.origin != checkpoint.origin:
        report.add("tampered", f"the remembered checkpoint is that of {seen.origin}", "checkpoint")
        return
    if seen.size > checkpoint.size:
        report.add("tampered", f"rolled back: size {seen.size} was seen, the log has {checkpoint.size}", "checkpoint")
        return
    same = seen.size == checkpoint.size
    root = checkpoint.root if same else _root_at(directory, seen.size, checkpoint, whole, dropped=dropped)
    if root is None:
        report.add("incomplete", f"the tree of size {seen.size} cannot be computed", "checkpoint")
    elif root != seen.root:
        report.add("tampered", f"a fork: another tree of size {seen.size} was signed before", "checkpoint")


def _root_at(directory: Path, size: int, checkpoint: Checkpoint, whole: Chunk, *, dropped: bool) -> bytes | None:
    """The root at a smaller size, by the entries or tiles that give the signed one; None where neither do.

    So a file that was damaged later is not taken for another history.
    """
    level = vouched_for(checkpoint, whole)
    if level is None:
        return None
    bundles, rest = divmod(size, TILE_WIDTH)
    roots = (whole.tile_roots if level == 0 else whole.entry_roots)[:bundles]
    leaves: list[bytes] | None = None
    level = 0 if dropped else level
    data = read_tile(directory, Tile(level, bundles, min(TILE_WIDTH, checkpoint.size - bundles * TILE_WIDTH)))
    if rest and data is not None:
        with suppress(TileError):  # changed just now: all of it was sound
            leaves = split_hashes(data)[:rest] if level == 0 else leaf_hashes(split_bundle(data)[:rest])
    return root_of(size, roots, leaves)
