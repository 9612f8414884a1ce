"""Incidents as people look at them in a terminal, and as machines do."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from rich.markup import escape

from gateway.tools.operations.tenants_view import clock, counted, table
from ops.incidents.report import moment

if TYPE_CHECKING:
    from collections.abc import Iterable

    from rich.console import Console

    from gateway.tools.incident.read import Story
    from gateway.tools.incident.recover import Step
    from ops.incidents.timeline import Affected, Register

ROWS_MAX = 100


def render_incidents(register: Register, console: Console) -> None:
    """Print the incidents of a log."""
    shown = table("incidents", "incident", "range", "why")
    for one in register.incidents.values():
        state = "[yellow]open[/yellow]" if one.closed_index is None else "closed"
        name = f"{escape(one.name)}\n{state}, {len(one.acts)} acts"
        span = f"{moment(one.from_ns)}\nto {moment(one.until_ns)}"
        why = [one.reason, f"opened {clock(one.time_ns)} by {one.administrator}", *one.suspects]
        shown.add_row(name, span, escape("\n".join(why)))
    console.print(shown if shown.row_count else "the log knows no incident")


def render_story(story: Story, console: Console) -> None:
    """Print what happened, then who was affected, then what proves it."""
    timeline = story.timeline
    scope = timeline.scope
    happened = table(f"what happened, {moment(scope.from_ns)} to {moment(scope.until_ns)}", "entry", "when", "what")
    for one in timeline.happenings[-ROWS_MAX:]:
        happened.add_row(str(one.index), clock(one.time_ns), f"{one.kind}: {escape(one.what)}")
    console.print(happened if happened.row_count else "nothing happened but requests")
    if hidden := timeline.left_out + max(0, len(timeline.happenings) - ROWS_MAX):
        console.print(f"... and {hidden:,} before; --json and --out show more")
    requests = table("requests", "tenant, model", "ended", "why", "screens")
    rows = sorted(timeline.affected.items(), key=lambda one: -one[1].requests)
    for (tenant, model, version), each in rows[:ROWS_MAX]:
        named = escape(f"{model}/{version}") if model else "(none)"
        requests.add_row(f"{escape(tenant) or '(strangers)'}\n{named}\n{where_of(each)}", *cells_of(each))
    console.print(requests if requests.row_count else "no requests")
    if len(rows) > ROWS_MAX:
        console.print(f"... and {len(rows) - ROWS_MAX:,} more groups")
    head = story.head
    console.print(
        f"[green]verified[/green]: {head.size:,} entries of {escape(head.origin)} lead to the root that is signed",
        soft_wrap=True,
    )


def where_of(each: Affected) -> str:
    """Return how much it was, and which entries prove it."""
    counts = f"{each.requests:,} requests, {each.rows:,} rows\n{len(each.principals):,} callers"
    return f"{counts}\nentries {each.first_index} to {each.last_index}"


def cells_of(each: Affected) -> list[str]:
    """Return what stands behind a tenant and a model."""
    verdicts = {" ".join(which): count for which, count in each.verdicts.items()}
    return [counted(each.outcomes), counted(each.reasons), counted(verdicts)]


def render_steps(steps: Iterable[Step], console: Console) -> None:
    """Print what is to be done."""
    shown = table("to take it back", "act", "about", "why")
    for step in steps:
        shown.add_row(step.act, escape(step.about), escape(step.why))
    console.print(shown if shown.row_count else "nothing is to be taken back")


def as_json(story: Story) -> dict[str, Any]:
    """Return a story for machines."""
    timeline, head = story.timeline, story.head
    before = timeline.before()
    return {
        "incident": asdict(story.incident) if story.incident is not None else None,
        "log": {"origin": head.origin, "size": head.size, "root": head.root.hex()},
        "range": [str(timeline.scope.from_ns), str(timeline.scope.until_ns)],
        "entries": timeline.in_range,
        "policy_before": {"entry": before[0], "digest": before[2]} if before is not None else None,
        "models_before": [
            {"name": name, "version": version, "entry": index} for (name, version), index in timeline.models.items()
        ],
        "happenings": [asdict(each) for each in timeline.happenings],
        "left_out": timeline.left_out,
        "requests": [
            {"tenant": tenant, "model": model, "version": version, **counts_of(each)}
            for (tenant, model, version), each in timeline.affected.items()
        ],
    }


def counts_of(each: Affected) -> dict[str, Any]:
    """Return the counts of a tenant and a model."""
    return {
        "requests": each.requests,
        "rows": each.rows,
        "principals": sorted(each.principals),
        "outcomes": dict(each.outcomes),
        "decisions": dict(each.decisions),
        "reasons": dict(each.reasons),
        "verdicts": {" ".join(which): count for which, count in each.verdicts.items()},
        "steps": dict(each.steps),
        "evidence_milli": each.evidence_milli,
        "entries": [each.first_index, each.last_index],
    }
