"""`stockade audit mirror` for people: a progress bar and one sentence. The copying is `ops.audit.copies.mirror`'s."""

from __future__ import annotations

from dataclasses import asdict
from types import SimpleNamespace

from rich.console import Console
from rich.markup import escape

from gateway.config.document import unusable
from gateway.tools.audit.verify import bar, fail, find, read_key
from gateway.tools.terminal import out, print_json
from ops.audit.copies.mirror import mirror_log
from ops.audit.errors import AuditError, CopyRejected, MirrorRefused, ReadError
from ops.audit.log.checkpoint import parse_vkey
from ops.audit.log.epochs import epoch_at, epochs_of, place_of
from ops.audit.verify.report import INCOMPLETE, OK, TAMPERED, USAGE

SHOWN_MAX = 20
STANDS = "; the mirror stands where it stood"


def run(options: SimpleNamespace) -> int:
    """Mirror and report; returns the exit code."""
    source, keys = find(options.log, [options.vkey] if options.vkey else [])
    if not keys:
        return fail("say which key the log has: --vkey FILE", USAGE)
    try:
        vkey = parse_vkey(read_key(keys[0]))
        here = [epoch for epoch in epochs_of(source, vkey) if not epoch.dropped]  # of the others nothing can be copied
        with bar(Console(stderr=True), "mirroring") as advance:
            for epoch in here or [epoch_at(source, vkey, 1)]:
                target = place_of(options.mirror, epoch.number)
                done = mirror_log(epoch.directory, target, epoch.vkey, progress=advance)
    except (AuditError, OSError) as problem:
        return refused(problem)
    if options.json:
        print_json(asdict(done))
    else:
        new = done.size - done.size_before
        text = f"{done.size:,} records of {escape(done.origin)}, {new:,} of them new"
        out.print(f"[bold green]up to date[/]: {text}")
    return OK


def refused(problem: AuditError | OSError) -> int:
    """Say why the mirror stands where it stood; returns the exit code."""
    match problem:
        case MirrorRefused():
            return fail(f"refused: {problem}{STANDS}", TAMPERED)
        case CopyRejected():
            for line in problem.problems[1:SHOWN_MAX]:
                fail(line, TAMPERED)
            return fail(f"tampered with: {problem}{STANDS}", TAMPERED)
        case ReadError():
            return fail(f"incomplete: {problem}{STANDS}", INCOMPLETE)
        case OSError():
            return fail(unusable(problem, "call again: what was copied is kept"), USAGE)
    return fail(str(problem), USAGE)
