"""Verify a log of several epochs: each by itself as `verify` does, and that they are one unbroken chain.

Rules, beside those of `verify`: every epoch but the newest ends with an entry that closes it and names the origin of
the next; the genesis entry of each holds the last checkpoint of the one before, which is the one that lies there; none
is missing between the first and the newest; a remembered checkpoint belongs to an epoch that is there. An epoch whose
entries are gone is judged by its hashes when a later one says that it was dropped, and is incomplete otherwise: epochs
are dropped oldest first, so what says so of one says it of all before it. It still has the root that was said then.

Part of `verify` and under its rules.
"""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from itertools import pairwise
from pathlib import Path

from msgspec import UNSET

from ops.audit.errors import NoteError, VerifierKeyError
from ops.audit.log.checkpoint import NOTE_BYTES_MAX, Checkpoint, parse_checkpoint, parse_vkey
from ops.audit.log.epochs import EPOCHS, epoch_at, epochs_of, is_of_epoch, number_of, number_of_place, place_of
from ops.audit.verify.report import Report
from ops.audit.verify.tree import is_fresh
from ops.audit.verify.verify import Progress, verify_log


def verify_epochs(
    directory: Path,
    vkeys: Sequence[str],
    *,
    progress: Progress | None = None,
    now_ns: int | None = None,
    stale_after_s: float | None = None,
    remembered: bytes | None = None,
    processes: int | None = None,
) -> dict[int, Report]:
    """Verify all epochs of a log directory. Arguments as for `verify_log`; `vkeys` are those of the first epoch.

    Returns:
        The report on each epoch from the first to the newest by its number, also on one that is missing between them.
        What is wrong with the chain stands in the report on the later one of two.
    """
    numbers = _numbers(directory, vkeys)
    newest, seen = numbers[-1], _epoch_of(remembered, vkeys)
    reports: dict[int, Report] = {}
    roots: dict[int, str] = {}  # of the epochs that a later one says were dropped
    for number in reversed(numbers):
        place = place_of(directory, number)
        if number != newest and not place.is_dir():
            reports[number] = _missing(number)
            continue
        report = reports[number] = verify_log(
            place,
            keys_of(vkeys, number),
            progress=progress,
            now_ns=now_ns if number == newest else None,
            stale_after_s=stale_after_s,
            remembered=remembered if seen == number or (seen is None and number == newest) else None,
            processes=processes,
            dropped=number <= max(roots, default=0) and not (place / "tile" / "entries").exists(),
        )
        roots |= {each: root for each, root in report.dropped.items() if 0 < each < number}
    reports = {number: reports[number] for number in numbers}
    for before, after in pairwise(numbers):
        _check_link(reports[before], reports[after], entries_gone=before <= max(roots, default=0))
    for number, root in roots.items():
        _check_dropped(reports[number], root)
    _check_end(directory, reports[newest], newest, seen)
    return reports


def merged(reports: Mapping[int, Report]) -> Report:
    """One report on all epochs: of the newest, with everybody's findings, each with the place of its epoch."""
    newest = reports[max(reports)]
    whole = Report(newest.origin, newest.size, newest.root, last_time_ns=newest.last_time_ns)
    for number, report in reports.items():
        where = "" if number == 1 else f"{place_of(Path(), number)}/"
        for finding in report.findings:
            whole.add(finding.severity, finding.what, where + finding.where)
        whole.severities |= report.severities
        whole.unverified += report.unverified
        whole.heartbeats += report.heartbeats
        whole.seconds += report.seconds
        whole.usage |= report.usage
    return whole


def _numbers(directory: Path, vkeys: Sequence[str]) -> list[int]:
    """From the first epoch to the newest that is there."""
    with suppress(VerifierKeyError, IndexError):
        there = epochs_of(directory, parse_vkey(vkeys[0].strip()))
        return list(range(1, max(each.number for each in there) + 1)) if there else [1]
    return [1]


def keys_of(vkeys: Sequence[str], number: int) -> list[str]:
    """The keys of an epoch of logs with these keys; what is no key stays as it is, for `verify_log` to refuse."""
    found: list[str] = []
    for each in vkeys:
        try:
            found.append(str(epoch_at(Path(), parse_vkey(each.strip()), number).vkey))
        except VerifierKeyError:
            found.append(each)
    return found


def _epoch_of(note: bytes | None, vkeys: Sequence[str]) -> int | None:
    """Which epoch a checkpoint says it is of; None when it is of none of this log."""
    if note is None or len(note) > NOTE_BYTES_MAX:
        return None
    origin = note.partition(b"\n")[0].decode("utf-8", "replace")
    found = (number_of(each.partition("+")[0], origin) for each in vkeys)
    return next((number for number in found if number is not None), None)


def _missing(number: int) -> Report:
    report = Report()
    report.add("incomplete", f"epoch {number} is missing: all of it", str(place_of(Path(), number)))
    return report


def _check_link(before: Report, after: Report, *, entries_gone: bool) -> None:
    """One epoch follows another: what each says of the other."""
    last = _previous(after)
    if after.genesis is not None:
        if last is None:
            after.add("tampered", "the genesis entry does not hold the last checkpoint of the epoch before", "entry 0")
        elif before.root and (last.size, last.root.hex()) != (before.size, before.root):
            what = f"it follows {last.size} entries of {last.origin} with the root {last.root.hex()}"
            problem = f"the epoch before was exchanged, or is another copy: {before.size} entries, root {before.root}"
            after.add("tampered", f"{what}; {problem}", "entry 0")
    if before.close is not None:
        if after.origin and before.close.next_origin != after.origin:
            before_says = f"the epoch before names {before.close.next_origin} as the next one"
            after.add("tampered", f"{before_says}, not {after.origin}", "checkpoint")
    elif before.root and not entries_gone and not before.severities & {"tampered", "incomplete"}:
        after.add("tampered", f"{before.origin} was not closed, and {after.origin} follows it", "checkpoint")


def _check_dropped(report: Report, root: str) -> None:
    """An epoch is still the one that was dropped; its genesis entry, which would say what it follows, is gone."""
    if root and report.root and report.root != root:
        report.add("tampered", f"it was dropped with the root {root}, and has another one now", "checkpoint")


def _previous(report: Report) -> Checkpoint | None:
    """The last checkpoint of the epoch before, as an epoch's first entry has it."""
    genesis = report.genesis
    if genesis is None or genesis.previous is UNSET:
        return None
    try:
        return parse_checkpoint(genesis.previous.partition("\n\n")[0].rstrip("\n") + "\n")
    except NoteError:
        return None


def _check_end(directory: Path, newest: Report, number: int, seen: int | None) -> None:
    """The newest epoch that is there is the newest there was, as far as that can be known."""
    following = place_of(directory, number + 1)
    for place in sorted((directory / EPOCHS).glob("*")):
        is_place = is_of_epoch(f"{EPOCHS}/{place.name}/")
        if is_place and not 2 <= number_of_place(place) <= number and place != following:
            newest.set_aside("no epoch of the log", f"{EPOCHS}/{place.name}")
    if seen is not None and seen > number:
        newest.add("tampered", f"rolled back: epoch {seen} was seen, the newest here is {number}", EPOCHS)
    elif newest.close is not None and not (following / "checkpoint").exists():
        fresh = is_fresh(place_of(directory, number) / "checkpoint")  # a live log begins it in a moment
        missing = f"{newest.close.next_origin} is missing: the epoch before is closed"
        newest.add("notice" if fresh else "incomplete", missing, f"{EPOCHS}/{following.name}")
