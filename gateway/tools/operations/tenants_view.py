"""Tenants as people look at them in a terminal."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

from rich.markup import escape
from rich.table import Table

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from rich.console import Console

    from stockade.v1 import admin_pb2

NEWEST_SHOWN = 5


def clock(unix_ns: int) -> str:
    """Return a moment as tables show it, UTC."""
    return datetime.fromtimestamp(unix_ns / 1e9, UTC).strftime("%Y-%m-%d %H:%M:%SZ") if unix_ns else ""


def table(title: str, *columns: str) -> Table:
    """Return an empty table for cells of several lines: a line of words is folded where it must be, an id never is."""
    made = Table(title=title, title_justify="left", pad_edge=False)
    for column in columns:
        made.add_column(column, overflow="fold")
    return made


def counted(counts: Mapping[str, int]) -> str:
    """Return counts by name, the largest first, a line each."""
    return "\n".join(f"{count:,} {escape(name)}" for name, count in sorted(counts.items(), key=lambda one: -one[1]))


def render_tenants(reply: admin_pb2.ListTenantsResponse, console: Console) -> None:
    """Print the tenants, then who is kept out."""
    shown = table("tenants", "tenant", "class", "principals", "kept out")
    for one in reply.tenants:
        out = f"[red]{one.isolated}[/red]" if one.isolated else ""
        shown.add_row(escape(one.name), escape(one.priority_class), str(one.principals), out)
    console.print(shown)
    render_isolations(reply.isolations, console)


def render_isolations(isolations: Iterable[admin_pb2.Isolation], console: Console) -> None:
    """Print who is kept out, or that nobody is."""
    shown = table("kept out", "who", "when", "why")
    for one in isolations:
        who = f"{escape(one.tenant)}\n{escape(one.principal) or '(all)'}"
        when = f"since {clock(one.since_unix_ns)}\nuntil {clock(one.until_unix_ns) or 'it is lifted'}"
        why = escape(one.reason + (f" ({one.incident})" if one.incident else ""))
        shown.add_row(who, when, f"{why}\nby {escape(one.administrator)}\n{one.id}")
    console.print(shown if shown.row_count else "nobody is kept out")


def render_shown(reply: admin_pb2.ShowTenantResponse, console: Console) -> None:
    """Print what is known of a tenant."""
    tenant = reply.tenant
    console.print(f"[bold]{escape(tenant.name)}[/bold], class {escape(tenant.priority_class)}")
    console.print(f"limits of all together, {limits_of(reply.limits)}")
    for limits in {each.limits.name: each.limits for each in reply.principals}.values():
        console.print(f"limits of one, {limits_of(limits)}")
    people = table("principals", "principal, and in the log", "roles", "limits", "kept out")
    for each in reply.principals:
        out = "[red]yes[/red]" if each.isolated else ""
        names = f"{escape(each.name)}\n{each.pseudonym}"
        people.add_row(names, escape("\n".join(each.roles)), escape(each.limits.name), out)
    console.print(people)
    if reply.isolations:
        render_isolations(reply.isolations, console)
    render_asked(reply, console)


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


def render_asked(reply: admin_pb2.ShowTenantResponse, console: Console) -> None:
    """Print what the log says of its requests, and which entries to look at."""
    last = reply.first_entry + reply.entries
    title = f"asked, in the entries {reply.first_entry:,} to {max(last - 1, 0):,} of the log"
    shown = table(title, "model", "ended", "why", "screens, account")
    for one in reply.asked:
        model = escape(f"{one.model}/{one.version}" if one.model else "(none)")
        seen = [counted(one.verdicts), counted(one.steps)]
        if one.steps:
            seen.append(f"evidence e^{one.evidence_milli / 1000:.1f}")
        where = f"{model}\n{one.rows:,} rows\n{one.first_index} to {one.last_index}"
        shown.add_row(where, counted(one.outcomes), counted(one.reasons), "\n".join(filter(None, seen)))
    console.print(shown if shown.row_count else f"{title}: nothing")
    if reply.newest:
        console.print(f"newest entries: {', '.join(map(str, reply.newest[:NEWEST_SHOWN]))}")
