"""What `stockade audit erase`, `hold` and `payload` do: calls over the admin port, and tables.

Exit codes: 0 done; 1 the answer is no; 2 it cannot be asked, or not written.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from rich.markup import escape

from gateway.tools.operations.tenants import asked, print_message
from gateway.tools.operations.tenants_view import clock, table
from gateway.tools.operator import OperatorFailed
from gateway.tools.terminal import EX_NO, fail, terminal
from ops.audit.log.epochs import numbered
from stockade.v1 import custody_pb2

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterable

ERASURE, LEGAL_HOLD, PAYLOADS = "Erasure", "LegalHold", "Payloads"


def run_verb(name: str, options: argparse.Namespace) -> int:
    """Run a verb; what is wrong is said in a sentence."""
    try:
        return VERBS[name](options)
    except (OperatorFailed, OSError) as problem:
        return fail(problem)


def run_request(options: argparse.Namespace) -> int:
    request = custody_pb2.EraseRequest(
        tenant=options.tenant, subject=options.subject, months=options.month, reason=options.reason
    )
    reply = asked("Request", request, custody_pb2.EraseResponse, options, service=ERASURE)
    code = told(reply, options)
    if code == 0 and not options.json:
        keys, one = len(reply.erasure.keys), reply.erasure.id
        terminal.print(f"asked for: {keys} keys would be destroyed. Another administrator says:")
        terminal.print(f"stockade audit erase approve {escape(str(options.file))} {one}", soft_wrap=True)
    return code


def run_approve(options: argparse.Namespace) -> int:
    request = custody_pb2.ApproveErasureRequest(id=options.id)
    reply = asked("Approve", request, custody_pb2.EraseResponse, options, service=ERASURE)
    code = told(reply, options)
    if code == 0 and not options.json:
        terminal.print(f"destroyed: {len(reply.erasure.keys)} keys; the log says so")
    return code


def run_list(options: argparse.Namespace) -> int:
    request = custody_pb2.ListErasuresRequest(count_max=options.count)
    reply = asked("List", request, custody_pb2.ListErasuresResponse, options, service=ERASURE)
    if options.json:
        print_message(reply)
    else:
        render_erasures(reply.erasures)
    return 0


def run_show(options: argparse.Namespace) -> int:
    request = custody_pb2.ShowErasureRequest(id=options.id)
    reply = asked("Show", request, custody_pb2.EraseResponse, options, service=ERASURE)
    code = told(reply, options)
    if code == 0 and not options.json:
        render_erasures([reply.erasure])
        terminal.print(f"the subject in the log: {reply.erasure.pseudonym}")
        terminal.print("keys, as entries have them in `payload.key`:")
        for key in reply.erasure.keys:
            terminal.print(key)
    return code


def run_set(options: argparse.Namespace) -> int:
    request = custody_pb2.SetHoldRequest(tenant=options.tenant, subject=options.subject, matter=options.matter)
    reply = asked("Set", request, custody_pb2.HoldResponse, options, service=LEGAL_HOLD)
    code = told(reply, options)
    if code == 0 and not options.json:
        render_holds([reply.hold])
    return code


def run_release(options: argparse.Namespace) -> int:
    request = custody_pb2.ReleaseHoldRequest(id=options.id, reason=options.reason)
    reply = asked("Release", request, custody_pb2.HoldResponse, options, service=LEGAL_HOLD)
    code = told(reply, options)
    if code == 0 and not options.json:
        terminal.print("lifted")
    return code


def run_holds(options: argparse.Namespace) -> int:
    reply = asked("List", custody_pb2.ListHoldsRequest(), custody_pb2.ListHoldsResponse, options, service=LEGAL_HOLD)
    if options.json:
        print_message(reply)
    else:
        render_holds(reply.holds)
    return 0


def run_payload(options: argparse.Namespace) -> int:
    if options.out.exists():  # the reading is recorded, so look before
        return fail(f"{options.out} is there already; name another file")
    entry = options.entry if options.epoch is None else numbered(options.epoch, options.entry)
    request = custody_pb2.ReadPayloadRequest(entry=entry, field=options.field, reason=options.reason)
    reply = asked("Read", request, custody_pb2.ReadPayloadResponse, options, service=PAYLOADS)
    if not reply.problem:
        handle = os.open(options.out, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(handle, "wb") as file:
            file.write(reply.payload)
    size = len(reply.payload)
    reply.payload = b""  # it is in the file
    if options.json:
        print_message(reply)
    elif reply.problem:
        return fail(reply.problem, EX_NO)
    else:
        terminal.print(f"written: {escape(str(options.out))}, {size:,} bytes", soft_wrap=True)
    return EX_NO if reply.problem else 0


def told(reply: custody_pb2.EraseResponse | custody_pb2.HoldResponse, options: argparse.Namespace) -> int:
    """Say what came of it where it was refused, or all of it to a machine; returns the exit code."""
    if options.json:
        print_message(reply)
    elif not reply.accepted:
        return fail(reply.problem, EX_NO)
    return 0 if reply.accepted else EX_NO


def render_erasures(erasures: Iterable[custody_pb2.ErasureState]) -> None:
    """Print what there is, the newest first."""
    shown = table("erasures", "erasure", "of whom", "by whom, why")
    shown.columns[0].no_wrap = True  # people copy it
    for one in erasures:
        state = f"{one.state}: {len(one.keys)} keys" if one.state != "requested" else "waits for approval"
        months = ", ".join(one.months) or "all months"
        whom = f"{escape(one.tenant)}\n{escape(one.subject) or '(name erased)'}\n{months}"
        asked_for = f"asked {clock(one.requested_unix_ns)}\n{escape(one.requested_by)}"
        agreed = f"\nagreed {clock(one.approved_unix_ns)}\n{escape(one.approved_by)}" if one.approved_by else ""
        shown.add_row(f"{one.id}\n{state}", whom, f"{asked_for}{agreed}\n{escape(one.reason)}")
    terminal.print(shown if shown.row_count else "nothing was erased, and nothing waits")


def render_holds(holds: Iterable[custody_pb2.HoldState]) -> None:
    """Print what is held."""
    shown = table("legal holds", "hold", "of whom", "by whom, what for")
    shown.columns[0].no_wrap = True
    for one in holds:
        whom = f"{escape(one.tenant)}\n{escape(one.subject or one.pseudonym) or '(all)'}"
        shown.add_row(one.id, whom, f"{clock(one.since_unix_ns)}\n{escape(one.administrator)}\n{escape(one.matter)}")
    terminal.print(shown if shown.row_count else "nothing is held")


VERBS = {
    "request": run_request,
    "approve": run_approve,
    "list": run_list,
    "show": run_show,
    "set": run_set,
    "release": run_release,
    "holds": run_holds,
    "payload": run_payload,
}
