"""`stockade bench verify`: how many records a second an auditor verifies.

The log is made on the spot and its pages are still in memory: what is timed is the verifier, not the disk.
"""

from __future__ import annotations

import argparse
import os
import resource
import time
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from gateway.tools.bench.hand_over import hand_over
from gateway.tools.bench.synthetic_log import write_log
from gateway.tools.bench.workspace import workspace
from ops.audit.log.checkpoint import SignerKey
from ops.audit.verify.report import Report
from ops.audit.verify.verify import verify_log

ORIGIN = "stockade.local/bench"
MIB = 1 << 20


def run(options: argparse.Namespace) -> int:
    """The verb. Returns 0, or 1 when the log did not verify."""
    err = Console(stderr=True, highlight=False)
    signer = SignerKey(ORIGIN, os.urandom(32))
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with workspace(options.workspace) as directory, Progress(*columns, console=err, transient=True) as progress:
        writing = progress.add_task("writing a log", total=options.records)
        write_log(
            directory, options.records, signer, time.time_ns(), lambda done: progress.update(writing, completed=done)
        )
        stored = sum(path.stat().st_size for path in directory.rglob("*") if path.is_file())
        verifying = progress.add_task("verifying it", total=options.records)
        cpu_s = _cpu_s()
        verified = verify_log(
            directory,
            [str(signer.verifier)],
            progress=lambda done, _all: progress.update(verifying, completed=done),
        )
        cpu_s = _cpu_s() - cpu_s
    report = _report(verified, stored, cpu_s)
    hand_over(report, options, lambda out: _show(verified, report, out))
    return 0 if verified.exit_code == 0 and verified.size == options.records else 1


def _cpu_s() -> float:
    """CPU seconds of this process and of its children that ended."""
    usages = (resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def _report(verified: Report, stored: int, cpu_s: float) -> dict[str, Any]:
    return {
        "verify_records_per_s": round(verified.records_per_s),
        "verify_mib_per_s": round(stored / MIB / verified.seconds, 1),
        "cpu_us_per_record": round(cpu_s * 1e6 / verified.size, 2) if verified.size else None,
        "records": verified.size,
        "bytes_per_record": round(stored / verified.size) if verified.size else 0,
        "seconds": round(verified.seconds, 3),
        "exit_code": verified.exit_code,
        "findings": [f"{finding.severity}: {finding.what} ({finding.where})" for finding in verified.findings],
        "cores": len(os.sched_getaffinity(0)),
    }


def _show(verified: Report, report: dict[str, Any], out: Console) -> None:
    out.print(
        f"{verified.size:,} records of {report['bytes_per_record']:,} bytes verified in {report['seconds']} s on "
        f"{report['cores']} cores: {report['verify_records_per_s']:,} records/s, {report['verify_mib_per_s']} MiB/s, "
        f"{report['cpu_us_per_record']} CPU us a record"
    )
    for finding in report["findings"]:
        out.print(f"[red]{escape(finding)}[/red]")
