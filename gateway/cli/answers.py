"""How the operations of `gateway.cli.operations` are performed, and the tables that people see of the answers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from rich.markup import escape
from rich.table import Table

from gateway.cli.effects import Stopped
from gateway.control.release.view import render
from gateway.tools.operator import OperatorFailed, as_dict, ask
from gateway.tools.terminal import clock, counted, fail, out, print_json, table, terminal
from stockade.v1 import admin_pb2, custody_pb2, feedback_pb2

if TYPE_CHECKING:
    from gateway.cli.operations import Operation

SERVICES = {
    name: service
    for module in (admin_pb2, custody_pb2, feedback_pb2)
    for name, service in module.DESCRIPTOR.services_by_name.items()
}
MICRO = 1_000_000
NEWEST_SHOWN = 5


def perform(operation: Operation, options: SimpleNamespace) -> int:
    """Ask a gateway; returns the exit code. What is wrong is said in a sentence."""
    try:
        reply = answer_of(operation, options)
        if operation.keep is not None:
            operation.keep(reply, options)
        if options.json:
            print_json(plain(operation.facts(reply)))
        elif getattr(reply, "accepted", True):
            show(operation, reply, options)
        return operation.outcome(reply, options)
    except Stopped as problem:
        return fail(problem, problem.code)
    except (OperatorFailed, OSError) as problem:
        return fail(problem)


def answer_of(operation: Operation, options: SimpleNamespace) -> Any:
    """Make the request of what was asked, and return the answer. Raises Stopped, OperatorFailed."""
    service, _, name = operation.call.partition("/")
    method = SERVICES[service].methods_by_name[name]
    fields = method.input_type.fields_by_name
    asked = {each.name: getattr(options, each.name) for each in operation.asks if each.name in fields}
    request: Any = GetMessageClass(method.input_type)(**{**operation.fixed, **asked})
    if operation.effect is not None:
        operation.effect(request, options)
    body = request.SerializeToString()
    reached = {"identity": options.identity, "authority": options.ca, "service": service}
    return GetMessageClass(method.output_type).FromString(ask(name, body, options.file, **reached))


def plain(facts: Any) -> Any:
    """Return an answer, or part of it, for machines."""
    if isinstance(facts, list):
        return [as_dict(each) for each in facts]
    return as_dict(facts) if isinstance(facts, Message) else facts


def show(operation: Operation, reply: Any, options: SimpleNamespace) -> None:
    """Print an answer for people."""
    for name, field in operation.tables:
        rows = getattr(reply, field)
        TABLES[name].show([rows] if isinstance(rows, Message) else rows)
    if operation.view:
        VIEWS[operation.view](reply)
    if operation.says is not None and (said := operation.says(reply, options)):
        terminal.print(said, markup=False, soft_wrap=True)


@dataclass(frozen=True, slots=True)
class Columns:
    """A table: its columns, each with the text of its cell; `empty` is said in its place where there are no rows.

    With a title, its cells have several lines: a line of words is folded where it must be, an id never is.
    """

    title: str
    cells: Mapping[str, Callable[[Any], str]]
    empty: str = ""
    copied: bool = False

    def show(self, items: Iterable[Any]) -> None:
        """Print it."""
        made = table(self.title, *self.cells) if self.title else Table(*self.cells)
        made.columns[0].no_wrap = self.copied  # people copy it
        for one in items:
            made.add_row(*(cell(one) for cell in self.cells.values()))
        terminal.print(made if made.row_count or not self.empty else self.empty)


def text(name: str) -> Callable[[Any], str]:
    """Return the cell that shows a field."""
    return lambda one: escape(str(getattr(one, name)))


def lines(*parts: str) -> str:
    """Return the lines of a cell, those that say nothing left out."""
    return escape("\n".join(filter(None, parts)))


def version_of(one: Any) -> str:
    return escape(f"{one.model}/{one.version}")


def moment(unix_ns: int) -> str:
    """Return a time as labels show it."""
    return datetime.fromtimestamp(unix_ns / 1e9, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def erasure_state(one: Any) -> str:
    state = f"{one.state}: {len(one.keys)} keys" if one.state != "requested" else "waits for approval"
    return f"{one.id}\n{state}"


def measured_share(one: Any) -> str:
    from serving.registry.measure import wilson  # it loads the runtime of models

    low, high = wilson(one.right, one.labels)
    return f"{one.right / one.labels:.1%} ({low:.1%}-{high:.1%})"


TABLES = {
    "tenants": Columns(
        "tenants",
        {
            "tenant": text("name"),
            "class": text("priority_class"),
            "principals": text("principals"),
            "kept out": lambda one: f"[red]{one.isolated}[/red]" if one.isolated else "",
        },
    ),
    "isolations": Columns(
        "kept out",
        {
            "who": lambda one: f"{escape(one.tenant)}\n{escape(one.principal) or '(all)'}",
            "when": lambda one: f"since {clock(one.since_unix_ns)}\nuntil {clock(one.until_unix_ns) or 'it is lifted'}",
            "why": lambda one: lines(
                one.reason + (f" ({one.incident})" if one.incident else ""), f"by {one.administrator}", one.id
            ),
        },
        empty="nobody is kept out",
    ),
    "principals": Columns(
        "principals",
        {
            "principal, and in the log": lambda one: f"{escape(one.name)}\n{one.pseudonym}",
            "roles": lambda one: escape("\n".join(one.roles)),
            "limits": lambda one: escape(one.limits.name),
            "kept out": lambda one: "[red]yes[/red]" if one.isolated else "",
        },
    ),
    "quarantine": Columns(
        "quarantine",
        {
            "entry": text("entry"),
            "when, of whom": lambda one: lines(
                clock(one.unix_ns), one.tenant, f"{one.model}/{one.version}", "payload kept" if one.payload else ""
            ),
            "screens": lambda one: escape("\n".join([one.decision, *one.found])),
            "state": lambda one: escape(
                "\n".join([one.state, f"by {one.administrator}", one.reason] if one.administrator else [one.state])
            ),
        },
        empty="nothing",
    ),
    "erasures": Columns(
        "erasures",
        {
            "erasure": erasure_state,
            "of whom": lambda one: lines(
                one.tenant, one.subject or "(name erased)", ", ".join(one.months) or "all months"
            ),
            "by whom, why": lambda one: lines(
                f"asked {clock(one.requested_unix_ns)}",
                one.requested_by,
                *((f"agreed {clock(one.approved_unix_ns)}", one.approved_by) if one.approved_by else ()),
                one.reason,
            ),
        },
        empty="nothing was erased, and nothing waits",
        copied=True,
    ),
    "holds": Columns(
        "legal holds",
        {
            "hold": text("id"),
            "of whom": lambda one: lines(one.tenant, one.subject or one.pseudonym or "(all)"),
            "by whom, what for": lambda one: lines(clock(one.since_unix_ns), one.administrator, one.matter),
        },
        empty="nothing is held",
        copied=True,
    ),
    "labels": Columns(
        "",
        {
            "id": text("id"),
            "state": text("state"),
            "why": text("reason"),
            "model": version_of,
            "tenant": text("tenant"),
            "principal": text("principal"),
            "label": text("label"),
            "answered": text("answered"),
            "p": lambda one: f"{one.p_micro / MICRO:.4f}",
            "received": lambda one: moment(one.received_unix_ns),
        },
    ),
}
STATUS = {
    "counts": Columns("", {"model": text("model"), "state": text("state"), "labels": text("items")}),
    "agreements": Columns(
        "",
        {
            "model": text("model"),
            "version": text("version"),
            "right": text("right"),
            "of": text("labels"),
            "share": lambda one: f"{one.right / one.labels:.1%}",
        },
    ),
    "evaluations": Columns(
        "",
        {
            "version": version_of,
            "by": text("source"),
            "labels": text("labels"),
            "right": text("right"),
            "share (95 %)": measured_share,
            "confidence off by": lambda one: f"{one.calibration_error_micro / MICRO:.1%}",
        },
    ),
    "batches": Columns(
        "",
        {
            "batch": text("id"),
            "of": version_of,
            "items": text("items"),
            "state": text("state"),
            "candidate": text("candidate"),
            "reason": text("reason"),
        },
    ),
}


def show_tenant(reply: Any) -> None:
    """Print what is known of a tenant."""
    terminal.print(f"[bold]{escape(reply.tenant.name)}[/bold], class {escape(reply.tenant.priority_class)}")
    terminal.print(f"limits of all together, {limits_of(reply.limits)}")
    for limits in {each.limits.name: each.limits for each in reply.principals}.values():
        terminal.print(f"limits of one, {limits_of(limits)}")
    TABLES["principals"].show(reply.principals)
    if reply.isolations:
        TABLES["isolations"].show(reply.isolations)
    title = (
        f"asked, in the entries {reply.first_entry:,} to {max(reply.first_entry + reply.entries - 1, 0):,} of the log"
    )
    Columns(
        title,
        {
            "model": lambda one: lines(
                f"{one.model}/{one.version}" if one.model else "(none)",
                f"{one.rows:,} rows",
                f"{one.first_index} to {one.last_index}",
            ),
            "ended": lambda one: counted(one.outcomes),
            "why": lambda one: counted(one.reasons),
            "screens, account": screens_of,
        },
        empty=f"{title}: nothing",
    ).show(reply.asked)
    if reply.newest:
        terminal.print(f"newest entries: {', '.join(map(str, reply.newest[:NEWEST_SHOWN]))}")


def screens_of(one: Any) -> str:
    evidence = f"evidence e^{one.evidence_milli / 1000:.1f}" if one.steps else ""
    return "\n".join(filter(None, [counted(one.verdicts), counted(one.steps), evidence]))


def limits_of(limits: admin_pb2.LimitSet) -> str:
    """Return a limit set in one line."""
    parts = [
        f"{limits.requests_per_second:,.6g} requests/s (burst {limits.request_burst:,})",
        f"cost {limits.cost_per_second:,.6g}/s (burst {limits.cost_burst:,})",
        f"{limits.in_flight:,} in flight",
    ]
    if limits.queries_per_day:
        parts.append(f"{limits.queries_per_day:,} rows a day")
    return f"{escape(limits.name)}: {', '.join(parts)}"


def show_label(reply: Any) -> None:
    """Print the fields of a label."""
    grid = Table.grid(padding=(0, 2))
    for field, value in reply.items[0].ListFields():
        shown = moment(value) if field.name.endswith("_unix_ns") else str(value)
        grid.add_row(field.name.removesuffix("_unix_ns").replace("_", " "), escape(shown))
    terminal.print(grid)


def show_label_status(reply: Any) -> None:
    """Print how many labels there are, and how versions agree with them."""
    terminal.print(f"labels may still come for {reply.answers} answered rows")
    for name, columns in STATUS.items():
        if items := getattr(reply, name):
            columns.show(items)


def show_releases(reply: Any) -> None:
    """Print a table for each release."""
    render(reply.releases, out)


VIEWS = {"tenant": show_tenant, "label": show_label, "label_status": show_label_status, "releases": show_releases}
