"""`stockade audit replay`: verify, replay, report."""

from __future__ import annotations

import time
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import TYPE_CHECKING

from rich.console import Console

from gateway.config.document import FileRejected
from gateway.config.load import load_config
from gateway.tools.audit.verify import bar, chosen_epoch, fail, find, read_key
from gateway.tools.operator import OperatorFailed, ask
from gateway.tools.replay.history import DECISIONS, OUTPUTS, Scope, TooMany
from gateway.tools.replay.page import write_page
from gateway.tools.replay.replay import Question, replay
from gateway.tools.replay.rulebooks import UnknownVersion, read_policy
from gateway.tools.replay.view import print_json, render
from gateway.tools.terminal import SafeConsole
from ops.audit.errors import AuditError, ProofError
from ops.audit.log.checkpoint import parse_vkey
from ops.audit.verify.report import INCOMPLETE, OK, STALE, TAMPERED
from ops.audit.verify.verify import verify_log
from serving.errors import ServingError
from stockade.v1 import admin_pb2

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable
    from pathlib import Path

    from gateway.tools.replay.history import Findings
    from gateway.tools.replay.replay import Replayed
    from ops.audit.verify.report import Report

DIFFERS = 1
LEVELS = {"R1": DECISIONS, "R2": OUTPUTS}


def run(options: argparse.Namespace) -> int:
    """Replay and report; returns the exit code."""
    console = SafeConsole(stderr=options.json)
    directory, keys = find(options.log, [options.vkey] if options.vkey else [])
    file = options.config or options.log / "stockade.yaml"
    if not keys:
        return fail("say which key the log has: --vkey FILE")
    if not file.is_file():
        return fail(f"{file}: not found; say which configuration it was: --config FILE")
    now_ns = time.time_ns()
    try:
        epoch = chosen_epoch(directory, parse_vkey(read_key(keys[0])), options.epoch)
        with bar(console) as advance:
            verified = verify_log(epoch.directory, [str(epoch.vkey)], progress=advance)
        if verified.exit_code not in {OK, STALE}:
            return refuse(verified)
        question = Question(
            scope=scope_of(options, now_ns),
            outputs=not options.decisions_only,
            policy=read_policy(options.policy) if options.policy else None,
            versions=dict(options.model),
        )
        replayed = replay(epoch.directory, epoch.vkey, load_config(file), question, now_ns=now_ns, bar=bars(console))
        if options.page:
            write_page(options.page, replayed, question, now_ns)
        if options.record:
            record(replayed, file, options)
    except ProofError as problem:
        return fail(f"TAMPERED: {problem}", TAMPERED)
    except (AuditError, OperatorFailed, FileRejected, ServingError, TooMany, UnknownVersion, OSError) as problem:
        return fail(str(problem))
    if options.json:
        print_json(replayed)
    else:
        render(replayed, console, options.page)
    return code_of(replayed.findings)


def code_of(found: Findings) -> int:
    """Return the exit code: nothing that was compared is not the same as nothing that differs."""
    if found.differing:
        return DIFFERS
    return OK if found.compared or not found.requests else INCOMPLETE


def record(replayed: Replayed, file: Path, options: argparse.Namespace) -> None:
    """Have the running gateway write into its log what came of it. Raises OperatorFailed."""
    head, found = replayed.head, replayed.findings
    request = admin_pb2.RecordReplayRequest(origin=head.origin, size=head.size, root=head.root, first=replayed.first)
    for level, steps in LEVELS.items():
        taken = [found.steps[name] for name in steps]
        if checked := sum(step.compared for step in taken):
            request.levels.add(level=level, checked=checked, differing=sum(step.differs for step in taken))
    if not request.levels:
        raise OperatorFailed("nothing was compared, so there is nothing to record")
    body = ask("RecordReplay", request.SerializeToString(), file, identity=options.identity, authority=options.ca)
    if problem := admin_pb2.RecordReplayResponse.FromString(body).problem:
        raise OperatorFailed(f"not recorded: {problem}")


def refuse(report: Report) -> int:
    """Say why there is nothing to replay: what is not proved was perhaps never decided."""
    worst = [finding for finding in report.findings if finding.severity != "notice"] or report.findings
    said = f"{worst[0].where}: {worst[0].what}" if worst else "it does not verify"
    return fail(
        f"R0: the log does not verify, and is not replayed: {said}; see `stockade audit verify`", report.exit_code
    )


def scope_of(options: argparse.Namespace, now_ns: int) -> Scope:
    """Return which requests are in question."""
    scope = Scope(where=tuple(options.where))
    if options.since is not None:
        scope = replace(scope, from_ns=options.since.of(now_ns))
    return scope if options.until is None else replace(scope, until_ns=options.until.of(now_ns))


def bars(console: Console) -> Callable[[str], AbstractContextManager[Callable[[int, int], None]]]:
    """Return what shows the progress of each part."""
    return lambda doing: bar(console, doing)
