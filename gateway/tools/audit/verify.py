"""`stockade audit verify` for people: a progress bar, the findings, a verdict. The judging is
`ops.audit.verify.verify`'s.
"""

from __future__ import annotations

import json
import time
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from gateway.tools.terminal import SafeConsole, out, print_json
from gateway.tools.terminal import fail as failed
from ops.audit.errors import AuditError, NoteError, ProofError, QuorumMissing, SignatureMissing, TrustPolicyError
from ops.audit.export.parquet import check_index
from ops.audit.log.checkpoint import parse_vkey
from ops.audit.log.epochs import epoch_at, home_of, newest_epoch, number_of_place, place_of
from ops.audit.log.tlog_proof import parse_proof
from ops.audit.log.trust_policy import NONE, TrustedLog, TrustPolicy, read_trust_policy
from ops.audit.reader.read import LogReader
from ops.audit.verify.epochs import keys_of, merged, verify_epochs
from ops.audit.verify.report import INCOMPLETE, OK, STALE, TAMPERED, USAGE, Report
from ops.audit.verify.verify import verify_log

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from ops.audit.log.checkpoint import VerifierKey
    from ops.audit.log.epochs import Epoch

WORDS = ("verified", "TAMPERED", "incomplete", "stale", "not verified")
SHOWN_MAX = 20
RATE_RECORDS_MIN = 10_000  # with fewer the rate is that of the start


def run(options: SimpleNamespace) -> int:
    """Verify and report; returns the exit code of the specification."""
    if options.directory.is_file():
        return run_proof(options)
    console = SafeConsole(stderr=options.json)
    directory, keys = find(options.directory, options.vkey)
    try:
        policy = read_trust_policy(options.policy) if options.policy else TrustPolicy()
        remembered = options.remembered.read_bytes() if options.remembered else None
        vkeys = [*(read_key(key) for key in keys), *(str(log.key) for log in policy.logs)]
        with bar(console) as advance:
            number = number_of_place(directory)
            verify_all = verify_epochs if number == 1 else alone
            reports = verify_all(
                directory,
                vkeys,
                progress=advance,
                now_ns=time.time_ns(),
                stale_after_s=options.stale_after,
                remembered=remembered,
            )
        report = merged(reports)
        if options.policy:
            demand_quorum(policy, remembered, report)
        if options.query:
            newest = place_of(directory, max(reports)) if number == 1 else directory
            compare_index(options.query, newest, keys_of(vkeys, max(reports)), report, console)
    except TrustPolicyError as problem:
        return fail(f"{options.policy}: {problem}")
    except OSError as problem:  # of the log as well: what cannot be read is not verified, which says nothing against it
        where = f"{problem.filename}: " if problem.filename else ""
        return fail(f"{where}{problem.strerror}")
    beside = None if options.vkey or not keys else keys[0]
    if options.json:
        epochs = [{"epoch": each, **summary(found)} for each, found in reports.items()]
        facts = as_json(report) | {"key_beside_log": beside, "epochs": epochs}
        print_json(facts)
    else:
        show(report, console)
        if len(reports) > 1:
            show_epochs(reports, console)
        if beside is not None:  # whoever could change the log could change it too
            advice = "compare it with one you got elsewhere, or pass --vkey"
            console.print(f"key: {escape(beside)}; {advice}", highlight=False, soft_wrap=True)
    return report.exit_code


def alone(directory: Path, vkeys: Sequence[str], **how: Any) -> dict[int, Report]:
    """Verify the epoch that lies in a directory, without those around it."""
    number = number_of_place(directory)
    return {number: verify_log(directory, keys_of(vkeys, number), **how)}


def summary(report: Report) -> dict[str, Any]:
    """Return what there is to say of one epoch in a line."""
    return {"origin": report.origin, "size": report.size, "root": report.root, "verdict": WORDS[report.exit_code]}


def show_epochs(reports: Mapping[int, Report], console: Console) -> None:
    """Print a line for each epoch."""
    table = Table("epoch", "records", "root", "")
    for number, report in reports.items():
        table.add_row(str(number), f"{report.size:,}", report.root[:16], WORDS[report.exit_code])
    console.print(table)


def chosen_epoch(directory: Path, vkey: VerifierKey, number: int | None) -> Epoch:
    """Return the epoch that is meant: by its number, else the one that lies in this very place, else the newest."""
    here = number_of_place(directory)
    if number is None and here == 1:
        return newest_epoch(directory, vkey)
    return epoch_at(home_of(directory), vkey, number or here)


def demand_quorum(policy: TrustPolicy, remembered: bytes | None, report: Report) -> None:
    """See that the remembered checkpoint, which the log extends, has the cosignatures that the policy asks for."""
    if remembered is None:
        if policy.quorum != NONE:
            report.add("incomplete", f"no checkpoint cosigned by {policy.quorum} was brought: --remembered", "policy")
        return
    try:
        policy.open(remembered)
    except QuorumMissing as problem:
        report.add("incomplete", str(problem), "the remembered checkpoint")
    except NoteError as problem:
        report.refuse(str(problem), "the remembered checkpoint")


def compare_index(index: Path, directory: Path, vkeys: Sequence[str], report: Report, console: Console) -> None:
    """Make the index anew from the log that was just verified, and report what differs."""
    if report.exit_code not in {OK, STALE}:
        report.add("notice", "not compared: first the log itself has to verify", str(index))
        return
    problem: AuditError | None = None
    for vkey in vkeys:
        try:
            with bar(console, "comparing") as advance:
                check_index(index, LogReader.open(directory, parse_vkey(vkey)), report, advance)
        except SignatureMissing as missing:
            problem = missing
        except ProofError as changed:
            report.add("tampered", str(changed), str(index))
            return
        except AuditError as refused:
            report.refuse(str(refused), str(index))
            return
        else:
            return
    report.refuse(str(problem), str(index))


def run_proof(options: SimpleNamespace) -> int:
    """Verify a receipt and report; returns the exit code."""
    try:
        policy = read_trust_policy(options.policy) if options.policy else TrustPolicy()
        policy.logs += [TrustedLog(parse_vkey(read_key(key))) for key in options.vkey]
        if not policy.logs:
            return fail("say which log is trusted: --vkey KEY or --policy FILE")
        proof = parse_proof(options.directory.read_bytes())
        if proof.extra is None:
            return fail("incomplete: the receipt holds no entry, and only its own `extra` is looked at", INCOMPLETE)
        witnessed = policy.open(proof.checkpoint)
    except QuorumMissing as problem:
        return fail(f"incomplete: {problem}", INCOMPLETE)
    except (AuditError, OSError) as problem:
        return fail(str(problem))
    try:
        proof.verify(policy)
    except ProofError as problem:
        return fail(f"TAMPERED: {problem}", TAMPERED)
    entry = shown(proof.extra)
    head = witnessed.checkpoint
    if options.json:
        facts = {"verdict": WORDS[OK], "origin": head.origin, "index": proof.index, "size": head.size}
        print_json({**facts, "witnesses": witnessed.witnesses, "entry": entry})
    else:
        by = f", cosigned by {', '.join(witnessed.witnesses)}" if witnessed.witnesses else ""
        text = f"entry {proof.index:,} of {head.origin} at size {head.size:,}{by}"
        out.print(f"[bold green]verified[/]: {escape(text)}")
        Console(soft_wrap=True).print_json(data=entry, ensure_ascii=True)
    return OK


def shown(entry: bytes) -> object:
    """Return an entry as JSON, or as text: the logs of others hold what they like."""
    try:
        return json.loads(entry)
    except ValueError:
        return entry.decode("utf-8", "backslashreplace")


def fail(problem: object, code: int = USAGE) -> int:
    """Say what is wrong, on standard error, and return the exit code for it: `stockade audit` has its own."""
    return failed(problem, code)


def find(log: Path, vkeys: list[str]) -> tuple[Path, list[str]]:
    """Return the log and its keys; a directory of `stockade init`, which its stockade.yaml names too, holds both."""
    directory = log.parent if log.name == "stockade.yaml" else log
    if (directory / "stockade.yaml").is_file():
        return directory / "log", vkeys or [str(directory / "keys" / "log.vkey")]
    return directory, vkeys


def read_key(key: str) -> str:
    """Return a verifier key that was given itself, or as the name of a file."""
    return key if "+" in key and not Path(key).is_file() else Path(key).read_text("utf-8", errors="replace").strip()


@contextmanager
def bar(console: Console, doing: str = "verifying") -> Iterator[Callable[[int, int], None]]:
    """Show a progress bar on a terminal; gives the callback that moves it."""
    columns = (TextColumn(doing), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task(doing, total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total)


def as_json(report: Report) -> dict[str, Any]:
    """Return the report for machines."""
    return {
        "verdict": WORDS[report.exit_code],
        "exit_code": report.exit_code,
        "origin": report.origin,
        "size": report.size,
        "root": report.root,
        "unverified_files": report.unverified,
        "findings": [asdict(finding) for finding in report.findings],
        "seconds": round(report.seconds, 3),
        "records_per_s": round(report.records_per_s),
    }


def show(report: Report, console: Console) -> None:
    """Print the findings and the verdict."""
    if report.findings:
        table = Table("severity", "what is wrong", "where", title="Findings")
        for finding in report.findings[:SHOWN_MAX]:
            table.add_row(finding.severity, escape(finding.what), escape(finding.where))
        console.print(table)
        if len(report.findings) > SHOWN_MAX:
            console.print(f"... and {len(report.findings) - SHOWN_MAX} more; --json lists them")
    colour = "green" if report.exit_code == OK else "red"
    rate = f", {report.records_per_s:,.0f} records/s" if report.size >= RATE_RECORDS_MIN else ""
    origin = escape(report.origin) or "no log"
    console.print(
        f"[bold {colour}]{WORDS[report.exit_code]}[/]: {report.size:,} records of {origin}{rate}", highlight=False
    )
    if report.unverified:
        files = "1 file" if report.unverified == 1 else f"{report.unverified:,} files"
        console.print(f"[yellow]warning:[/] {files} beside the log, not verified: see the findings", highlight=False)
    if report.root:
        console.print(f"root {report.root}", highlight=False, soft_wrap=True)
