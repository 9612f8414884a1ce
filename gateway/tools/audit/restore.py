"""`stockade audit restore` for people: which checkpoint, from which sources, and what may come after it.

The work is `ops.audit.copies.restore`'s and `ops.audit.store.succession`'s. Below `--out` there are then `log/`,
`recorder/` (the recorder's state, or the seal) and `log.signed` (the signer's memory), and with `--next` also
`next/log/` and `next/recorder/` of the log that follows. Without `--epoch` all epochs are restored, and only the newest
may go on.
"""

from __future__ import annotations

import secrets
import time
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from rich.markup import escape

from gateway.config.document import unusable
from gateway.tools.audit.log_store import source_at
from gateway.tools.audit.verify import bar, fail, read_key
from gateway.tools.terminal import SafeConsole, err, print_json
from ops.audit.copies.restore import Restoration, Seen, Target, later_epoch, restore_log
from ops.audit.errors import (
    AuditError,
    HistoriesDiffer,
    NothingToRestore,
    RestoreIncomplete,
    StoreUnavailable,
    SuccessionRefused,
    WitnessError,
)
from ops.audit.log.checkpoint import VerifierKey, open_checkpoint, parse_skey, parse_vkey
from ops.audit.log.epochs import epoch_at, origin_of, place_of, split_origin
from ops.audit.log.trust_policy import TrustPolicy, read_trust_policy
from ops.audit.store.own_entries import OwnEntries
from ops.audit.store.settings import HEARTBEAT_MS
from ops.audit.store.succession import begin_next, go_on, seal
from ops.audit.verify.epochs import verify_epochs
from ops.audit.verify.report import INCOMPLETE, OK, STALE, TAMPERED, USAGE, Report
from ops.audit.verify.verify import verify_log
from ops.audit.witnesses.client import newest_cosigned

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

SHOWN_MAX = 20


def run(options: SimpleNamespace) -> int:
    """Restore and report; returns the exit code."""
    try:
        policy = read_trust_policy(options.policy) if options.policy else TrustPolicy()
        first = key_of(options.vkey, policy)
        numbers = [options.epoch] if options.epoch else all_epochs(options, policy, first)
        newest = numbers[-1]
        if options.go_on or options.next is not None:
            demand_newest(options, policy, epoch_at(options.out, first, newest).vkey)
        found = {number: restore(options, policy, first, number, dropped=number < newest) for number in numbers}
        reports = verified(options.out / "log", first, numbers)
        if problem := unsound(found, reports):
            return fail(*problem)
        goes_on = settle(options, newest, found[newest], reports[newest], epoch_at(options.out, first, newest).vkey)
    except (AuditError, ValueError, OSError) as problem:
        return refused(problem)
    show(options, found, reports, goes_on=goes_on)
    return STALE if found[newest].newer else OK


def restore(
    options: SimpleNamespace, policy: TrustPolicy, first: VerifierKey, number: int, *, dropped: bool
) -> Restoration:
    """Restore one epoch, which may have been `dropped`: the epochs after it say so when all are verified.

    Raises:
        AuditError, ValueError, OSError: it could not be restored.
    """
    vkey = epoch_at(options.out, first, number).vkey
    notes = [(str(file), file.read_bytes()) for file in options.seen] + ask(policy, vkey, options.timeout)
    target, known = target_of(options.target, vkey)
    sources = [source_at(place, options, number) for place in options.sources]
    with bar(err, f"restoring epoch {number}") as advance:
        return restore_log(
            sources,
            place_of(options.out / "log", number),
            vkey,
            notes=notes + known,
            target=target,
            progress=advance,
            dropped=dropped,
        )


def verified(log: Path, first: VerifierKey, numbers: Sequence[int]) -> dict[int, Report]:
    """Verify what was restored; several epochs also as a chain."""
    if len(numbers) > 1:
        return verify_epochs(log, [str(first)])
    epoch = epoch_at(log, first, numbers[0])
    return {numbers[0]: verify_log(epoch.directory, [str(epoch.vkey)])}


def unsound(found: Mapping[int, Restoration], reports: Mapping[int, Report]) -> tuple[str, int] | None:
    """Say what is wrong with what was restored, and the exit code for it."""
    for number, done in found.items():
        if done.newer and number != max(found):
            here = f"{done.seen.checkpoint.origin} has {done.seen.checkpoint.size:,} entries here"
            return f"incomplete: {here}, and had {done.lost_end:,}; bring another copy and call again", INCOMPLETE
        report = reports[number]
        if report.exit_code == TAMPERED:
            what = report.findings[0]
            problem = "tampered with, although it has the root that was signed"
            return f"{problem}: {what.where}: {what.what}", TAMPERED
        if report.exit_code != OK and not done.payloads_missing:
            what = report.findings[0]
            return f"incomplete: {report.origin}: {what.where}: {what.what}", INCOMPLETE
    return None


def all_epochs(options: SimpleNamespace, policy: TrustPolicy, first: VerifierKey) -> list[int]:
    """Return the epochs of a log, up to the newest that a source, a note or a witness knows.

    Raises:
        ValueError: there are several, and --target is of one.
        AuditError, OSError: a source cannot be asked.
    """
    newest = 1
    while (later := known_after(options, policy, epoch_at(options.out, first, newest).vkey)) is not None:
        newest = split_origin(later.checkpoint.origin)[1]
    if newest > 1 and options.target != "newest":
        raise ValueError("the log has several epochs: name the one that --target is of with --epoch N")
    return list(range(1, newest + 1))


def known_after(options: SimpleNamespace, policy: TrustPolicy, vkey: VerifierKey) -> Seen | None:
    """Return what a source, a note or a witness has of an epoch after that of this key. Raises StoreError, OSError."""
    log, number = split_origin(vkey.name)
    places = [source_at(place, options, number + 1) for place in options.sources]
    seen = [(str(file), file.read_bytes()) for file in options.seen]
    following = VerifierKey(origin_of(log, number + 1), vkey.public_key)
    asked = ask(policy, following, options.timeout, tell=lambda _: None)  # who is silent is told of as it is restored
    return later_epoch(places, seen + asked, vkey)


def demand_newest(options: SimpleNamespace, policy: TrustPolicy, vkey: VerifierKey) -> None:
    """Raise SuccessionRefused where anybody knows of a later epoch: only the newest may go on, or be followed."""
    if (later := known_after(options, policy, vkey)) is not None:
        raise SuccessionRefused(f"{later.where} knows of {later.checkpoint.origin}: only the newest epoch goes on")


def refused(problem: AuditError | ValueError | OSError) -> int:
    """Say why nothing, or not all, was restored; returns the exit code."""
    match problem:
        case HistoriesDiffer():
            return fail(f"a fork: {problem}", TAMPERED)
        case RestoreIncomplete():
            for path in problem.missing[1:SHOWN_MAX]:
                fail(f"no source has {path} as it should be")
            return fail(f"incomplete: {problem}; bring another copy and call again", INCOMPLETE)
        case NothingToRestore() | StoreUnavailable():  # what was fetched is kept
            return fail(str(problem), INCOMPLETE)
        case SuccessionRefused():
            return fail(str(problem), STALE)
        case OSError():
            return fail(unusable(problem), USAGE)
    return fail(str(problem), USAGE)


def key_of(given: str | None, policy: TrustPolicy) -> VerifierKey:
    """The key that was given, or the only log of the policy. Raises ValueError: there is neither."""
    if given is not None:
        return parse_vkey(read_key(given))
    if len(policy.logs) != 1:
        raise ValueError("say which log it is: --vkey KEY, or a policy with one `log` line")
    return policy.logs[0].key


def ask(
    policy: TrustPolicy, vkey: VerifierKey, timeout_s: float, tell: Callable[[str], object] = fail
) -> list[tuple[str, bytes]]:
    """What the witnesses of the policy have cosigned last; one that says nothing is told of."""
    notes: list[tuple[str, bytes]] = []
    for witness in policy.witnesses.values():
        if witness.url:
            try:
                notes.append((f"witness {witness.name}", newest_cosigned(witness, vkey.name, timeout_s=timeout_s)))
            except WitnessError as problem:
                tell(f"{problem}: it may know a larger tree")
    return notes


def target_of(text: str, vkey: VerifierKey) -> tuple[Target, list[tuple[str, bytes]]]:
    """Read --target, and the checkpoint in it where it is a file. Raises ValueError, AuditError, OSError."""
    if text == "newest":
        return Target(), []
    if text.isascii() and text.isdigit() and len(text) <= 18:
        return Target(index=int(text)), []
    if Path(text).is_file():
        note = Path(text).read_bytes()
        return Target(size=open_checkpoint(note, [vkey]).size), [(text, note)]
    try:
        when = datetime.fromisoformat(text)
    except ValueError:
        problem = "is no index, no time such as 2027-01-31T09:00:00Z, and no file with a checkpoint"
        raise ValueError(f"--target {text!r} {problem}") from None
    when = when if when.tzinfo is not None else when.replace(tzinfo=UTC)
    return Target(time_ns=int(when.timestamp() * 1_000_000_000)), []


def settle(options: SimpleNamespace, number: int, done: Restoration, report: Report, vkey: VerifierKey) -> bool:
    """Let the origin go on where that was asked for and nothing is lost; else seal it, and begin the next one."""
    state, memory = place_of(options.out / "recorder", number), options.out / "log.signed"
    if options.go_on and not done.newer:
        go_on(place_of(options.out / "log", number), state, memory, vkey, heartbeats=report.heartbeats)
        return True
    largest = max([done.seen.checkpoint, *(each.checkpoint for each in done.newer)], key=lambda each: each.size)
    seal(state, memory, largest)
    if options.go_on:
        problem = f"{largest.size} entries were signed, {report.size} are here: {vkey.name} is sealed"
        raise SuccessionRefused(f"{problem}; bring another copy, or begin a new origin with --next")
    if options.next is not None:
        key = parse_skey(options.next.read_text().strip())
        begin_next(
            key,
            options.out / "next" / "log",
            options.out / "next" / "recorder",
            options.next.with_suffix(".signed"),
            last=done.seen.note,
            vkey=vkey,
            lost_end=done.lost_end,
            own=OwnEntries(version("stockade"), time.time_ns, lambda: secrets.token_bytes(16), HEARTBEAT_MS),
        )
    return False


def show(
    options: SimpleNamespace, found: Mapping[int, Restoration], reports: Mapping[int, Report], *, goes_on: bool
) -> None:
    """Say what was restored, what is lost, and what may grow."""
    done, report = found[max(found)], reports[max(found)]
    epochs = [
        {"epoch": number, "size": each.size, "root": each.root, "hashes_only": found[number].hashes_only}
        for number, each in reports.items()
    ]
    facts: dict[str, Any] = {
        "origin": report.origin,
        "size": report.size,
        "root": report.root,
        "checkpoint_from": done.seen.where,
        "known_size": done.lost_end,
        "known_by": sorted({each.where for each in done.newer}),
        "payloads_missing": sum(each.payloads_missing for each in found.values()),
        "files_written": sum(each.files for each in found.values()),
        "goes_on": goes_on,
        "next": str(options.out / "next") if options.next is not None else None,
        "epochs": epochs,
    }
    if options.json:
        print_json(facts)
        return
    console = SafeConsole(soft_wrap=True, highlight=False)
    for number, each in reports.items():
        how = "whose entries were dropped: their hashes" if found[number].hashes_only else "all verified"
        console.print(f"[bold green]restored[/]: {each.size:,} records of {escape(each.origin)}, {how}")
    console.print(f"checkpoint of {escape(done.seen.where)}, root {report.root}")
    if done.newer:
        by = escape(", ".join(facts["known_by"]))
        console.print(f"[yellow]not here[/]: entries {report.size:,} to {done.lost_end - 1:,}, which {by} know of")
    if missing := facts["payloads_missing"]:
        console.print(f"[yellow]not here[/]: {missing:,} payloads; the entries that name them are")
    if goes_on:
        console.print("its origin may go on: recorder/ and log.signed belong to it")
    else:
        console.print("its origin is sealed: it is to be read, and does not grow any more")
    if options.next is not None:
        console.print(
            f"the log that follows begins in {escape(facts['next'])}; docs/how-to/backup.md says what to configure"
        )
