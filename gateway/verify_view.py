"""`stockade audit verify` for people: a progress bar, the findings, a verdict. The judging is `ops.audit.verify`'s."""

from __future__ import annotations

import json
import sys
import time
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from ops.audit.verify import OK, USAGE, Report, verify_log

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Iterator

WORDS = ("verified", "TAMPERED", "incomplete", "stale", "not verified")
SHOWN_MAX = 20
RATE_RECORDS_MIN = 10_000  # with fewer the rate is that of the start


def run(options: argparse.Namespace) -> int:
    """Verify and report; returns the exit code of the specification."""
    console = Console(stderr=options.json)
    directory, keys = find(options.directory, options.vkey)
    try:
        remembered = options.remembered.read_bytes() if options.remembered else None
        vkeys = [read_key(key) for key in keys]
        with bar(console) as advance:
            report = verify_log(
                directory,
                vkeys,
                progress=advance,
                now_ns=time.time_ns(),
                stale_after_s=options.stale_after,
                remembered=remembered,
            )
    except OSError as problem:  # of the log as well: what cannot be read is not verified, which says nothing against it
        where = f"{problem.filename}: " if problem.filename else ""
        Console(stderr=True).print(f"[red]stockade:[/red] {escape(f'{where}{problem.strerror}')}", soft_wrap=True)
        return USAGE
    beside = None if options.vkey or not keys else keys[0]
    if options.json:
        sys.stdout.write(json.dumps(as_json(report) | {"key_beside_log": beside}, indent=2) + "\n")
    else:
        show(report, console)
        if beside is not None:  # whoever could change the log could change it too
            advice = "compare it with one you got elsewhere, or pass --vkey"
            console.print(f"key: {escape(beside)}; {advice}", highlight=False, soft_wrap=True)
    return report.exit_code


def find(directory: Path, vkeys: list[str]) -> tuple[Path, list[str]]:
    """Return the log and its keys; a directory of `stockade init` holds both."""
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
