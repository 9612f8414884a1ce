"""What `stockade feedback key|list|show|release|reject|status` does: a key, calls over the admin port, and tables.

Exit codes: 0 done; 1 the answer is no; 2 it cannot be asked.
"""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from rich.markup import escape
from rich.table import Table

from gateway.tools.operations.tenants import asked, print_message
from gateway.tools.operator import OperatorFailed
from gateway.tools.terminal import EX_NO, fail, print_json, terminal
from serving.registry.approval import key_hex, make_key
from stockade.v1 import feedback_pb2 as pb

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterable


SERVICE = "FeedbackReview"
MICRO = 1_000_000


def run_verb(name: str, options: argparse.Namespace) -> int:
    """Run a verb; what is wrong is said in a sentence."""
    try:
        return VERBS[name](options)
    except (OperatorFailed, OSError) as problem:
        return fail(problem)


def run_key(options: argparse.Namespace) -> int:
    public = key_hex(make_key(options.out))
    if options.json:
        print_json({"file": str(options.out), "feedback_key": public})
    else:
        sys.stdout.write(f'feedback_keys: ["{public}"]\n')
    return 0


def run_list(options: argparse.Namespace) -> int:
    request = pb.ListFeedbackRequest(
        model=options.model, tenant=options.tenant, state=options.state, after=options.after, count_max=options.count
    )
    reply = asked("ListItems", request, pb.ListFeedbackResponse, options, service=SERVICE)
    if options.json:
        print_message(reply)
    else:
        render_items(reply.items)
    return 0


def run_show(options: argparse.Namespace) -> int:
    reply = asked("ListItems", pb.ListFeedbackRequest(id=options.id), pb.ListFeedbackResponse, options, service=SERVICE)
    if not reply.items:
        return fail(f"there is no label {options.id}; see `stockade feedback list`", EX_NO)
    if options.json:
        print_message(reply.items[0])
        return 0
    table = Table.grid(padding=(0, 2))
    for field, value in reply.items[0].ListFields():
        shown = moment(value) if field.name.endswith("_unix_ns") else str(value)
        table.add_row(field.name.removesuffix("_unix_ns").replace("_", " "), escape(shown))
    terminal.print(table)
    return 0


def run_decide(options: argparse.Namespace, decision: str) -> int:
    request = pb.DecideFeedbackRequest(ids=options.ids, decision=decision, reason=options.reason)
    reply = asked("DecideItems", request, pb.DecideFeedbackResponse, options, service=SERVICE)
    if options.json:
        print_message(reply)
    else:
        done = {"release": "released", "reject": "rejected"}[decision]
        terminal.print(f"{done}: {reply.changed} of {len(set(options.ids))}")
    return 0 if reply.changed == len(set(options.ids)) else EX_NO


def run_release(options: argparse.Namespace) -> int:
    return run_decide(options, "release")


def run_reject(options: argparse.Namespace) -> int:
    return run_decide(options, "reject")


def run_status(options: argparse.Namespace) -> int:
    from serving.registry.measure import wilson  # noqa: PLC0415  it loads the runtime of models

    reply = asked("FeedbackStatus", pb.FeedbackStatusRequest(), pb.FeedbackStatusResponse, options, service=SERVICE)
    if options.json:
        print_message(reply)
        return 0
    terminal.print(f"labels may still come for {reply.answers} answered rows")
    counts = Table("model", "state", "labels")
    for count in reply.counts:
        counts.add_row(escape(count.model), count.state, str(count.items))
    agreements = Table("model", "version", "right", "of", "share")
    for each in reply.agreements:
        share = f"{each.right / each.labels:.1%}"
        agreements.add_row(escape(each.model), escape(each.version), str(each.right), str(each.labels), share)
    evaluations = Table("version", "by", "labels", "right", "share (95 %)", "confidence off by")
    for found in reply.evaluations:
        low, high = wilson(found.right, found.labels)
        share = f"{found.right / found.labels:.1%} ({low:.1%}-{high:.1%})"
        counted = (found.source, str(found.labels), str(found.right), share)
        evaluations.add_row(
            escape(f"{found.model}/{found.version}"), *counted, f"{found.calibration_error_micro / MICRO:.1%}"
        )
    batches = Table("batch", "of", "items", "state", "candidate", "reason")
    for batch in reply.batches:
        of = escape(f"{batch.model}/{batch.version}")
        batches.add_row(str(batch.id), of, str(batch.items), batch.state, escape(batch.candidate), escape(batch.reason))
    for table in (counts, agreements, evaluations, batches):
        if table.row_count:
            terminal.print(table)
    return 0


def render_items(items: Iterable[pb.HeldItem]) -> None:
    """Print labels as a table."""
    table = Table("id", "state", "why", "model", "tenant", "principal", "label", "answered", "p", "received")
    for each in items:
        model = f"{each.model}/{each.version}"
        told = (each.reason, model, each.tenant, each.principal, each.label, each.answered)
        p_value = f"{each.p_micro / MICRO:.4f}"
        table.add_row(str(each.id), each.state, *map(escape, told), p_value, moment(each.received_unix_ns))
    terminal.print(table)


def moment(time_ns: int) -> str:
    """Return a time as people read it."""
    return datetime.fromtimestamp(time_ns / 1e9, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


VERBS = {
    "key": run_key,
    "list": run_list,
    "show": run_show,
    "release": run_release,
    "reject": run_reject,
    "status": run_status,
}
