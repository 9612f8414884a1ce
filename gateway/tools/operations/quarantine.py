"""What `stockade quarantine list|show|release|reject` does: calls over the admin port, and tables.

Exit codes: 0 done; 1 the answer is no; 2 it cannot be asked.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from rich.markup import escape

from gateway.tools.operations.tenants import asked, print_message
from gateway.tools.operations.tenants_view import clock, table
from gateway.tools.operator import OperatorFailed
from gateway.tools.terminal import EX_NO, err, fail, terminal
from stockade.v1 import admin_pb2

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterable


def run_verb(name: str, options: argparse.Namespace) -> int:
    """Run a verb; what is wrong is said in a sentence."""
    try:
        return VERBS[name](options)
    except (OperatorFailed, OSError) as problem:
        return fail(problem)


def run_list(options: argparse.Namespace) -> int:
    request = admin_pb2.ListQuarantineRequest(
        state="" if options.state == "all" else options.state,
        tenant=options.tenant,
        model=options.model,
        count_max=options.count,
    )
    reply = asked("ListQuarantine", request, admin_pb2.ListQuarantineResponse, options)
    if options.json:
        print_message(reply)
        return 0
    render(reply.items)
    terminal.print(f"{reply.waiting:,} wait; {reply.dropped:,} were given up unseen, because there were too many")
    return 0


def render(items: Iterable[admin_pb2.Quarantined]) -> None:
    """Print what there is."""
    shown = table("quarantine", "entry", "when, of whom", "screens", "state")
    for one in items:
        told = [one.state] if not one.administrator else [one.state, f"by {one.administrator}", one.reason]
        kept = "\npayload kept" if one.payload else ""
        where = f"{clock(one.unix_ns)}\n{escape(one.tenant)}\n{escape(f'{one.model}/{one.version}')}{kept}"
        found = escape("\n".join([one.decision, *one.found]))
        shown.add_row(str(one.entry), where, found, escape("\n".join(told)))
    terminal.print(shown if shown.row_count else "nothing")


def run_show(options: argparse.Namespace) -> int:
    request = admin_pb2.ShowQuarantinedRequest(entry=options.entry)
    reply = asked("ShowQuarantined", request, admin_pb2.ShowQuarantinedResponse, options)
    if options.payload is not None and reply.request:
        handle = os.open(options.payload, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(handle, "wb") as file:
            file.write(reply.request)
    if options.json:
        reply.request = b""  # it is in the file, if somebody asked for it
        print_message(reply)
    else:
        render([reply.item])
        terminal.print(
            f"principal {reply.item.principal} of {escape(reply.item.tenant)}, request {reply.item.request_id}"
        )
    if options.payload is not None and reply.problem:
        return fail(reply.problem, EX_NO)
    if options.payload is not None and not options.json:
        terminal.print(f"written: {escape(str(options.payload))}", soft_wrap=True)
    return 0


def decide(decision: str, options: argparse.Namespace) -> int:
    """Say what was decided."""
    request = admin_pb2.DecideQuarantinedRequest(
        entries=options.entries, decision=decision, reason=options.reason, incident=options.incident
    )
    reply = asked("DecideQuarantined", request, admin_pb2.DecideQuarantinedResponse, options)
    if options.json:
        print_message(reply)
    elif reply.accepted:
        terminal.print(f"{decision}: {len(set(options.entries))}")
    else:
        err.print(f"[red]stockade:[/red] {escape(reply.problem)}; nothing was changed")
    return 0 if reply.accepted else EX_NO


def run_release(options: argparse.Namespace) -> int:
    return decide("release", options)


def run_reject(options: argparse.Namespace) -> int:
    return decide("reject", options)


VERBS = {"list": run_list, "show": run_show, "release": run_release, "reject": run_reject}
