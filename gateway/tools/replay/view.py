"""A replay as people look at it in a terminal, and as machines read it."""

from __future__ import annotations

import json
import sys
from dataclasses import fields, is_dataclass
from typing import TYPE_CHECKING, Any

from rich.markup import escape
from rich.table import Table

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from rich.console import Console

    from gateway.tools.replay.history import Findings
    from gateway.tools.replay.otherwise import Changes
    from gateway.tools.replay.replay import Replayed

SHOWN_MAX = 20
KINDS_SHOWN = 12


def print_json(replayed: Replayed) -> None:
    """Print all of it."""
    sys.stdout.write(json.dumps(as_json(replayed), indent=2) + "\n")


def as_json(replayed: Replayed) -> dict[str, Any]:
    """Return all of it for machines."""
    found, changes, head = replayed.findings, replayed.changes, replayed.head
    return {
        "origin": head.origin,
        "size": head.size,
        "root": head.root.hex(),
        "requests": found.requests,
        "equal": not found.differing,
        "seconds": {part: round(took, 3) for part, took in replayed.seconds.items()},
        "steps": {name: counts(step) for name, step in found.steps.items()},
        "differences": counts(found.differences),
        "otherwise": None if changes is None else counts(changes),
    }


def counts(value: Any) -> Any:
    """Return dataclasses as plain values. `asdict` does not know counters."""
    if isinstance(value, dict):
        return {name: counts(each) for name, each in value.items()}
    if isinstance(value, list):
        return [counts(each) for each in value]
    return {each.name: counts(getattr(value, each.name)) for each in fields(value)} if is_dataclass(value) else value


def render(replayed: Replayed, console: Console, page: Path | None) -> None:
    """Print what was compared, what differs, and what would be otherwise."""
    found, head = replayed.findings, replayed.head
    console.print(
        f"R0 verified: {head.size:,} records of {escape(head.origin)}; {found.requests:,} requests replayed",
        highlight=False,
        soft_wrap=True,
    )
    console.print(steps_table(found))
    if found.differences:
        rows = [(str(one.index), one.step, one.tenant, one.recorded, one.replayed) for one in found.differences]
        console.print(listed(("entry", "step", "tenant", "recorded", "replayed"), rows, found.differing))
    if replayed.changes is not None:
        render_changes(replayed.changes, console)
    text, good = verdict(replayed)
    console.print(f"[bold {'green' if good else 'red'}]{escape(text)}[/]", highlight=False)
    if page is not None:
        console.print(f"page: {escape(str(page))}", highlight=False, soft_wrap=True)


def verdict(replayed: Replayed) -> tuple[str, bool]:
    """Return the result in a sentence, and whether it is good."""
    found, compared = replayed.findings, replayed.findings.compared
    if found.differing:
        return f"{found.differing:,} of {compared:,} comparisons differ", False
    if not compared:
        return "Nothing could be compared", False
    within = sum(step.within for step in found.steps.values())
    return f"All {compared:,} comparisons are equal" + (
        f", {within:,} of them within tolerance" if within else ""
    ), True


def steps_table(found: Findings) -> Table:
    """Return what was compared, step by step."""
    table = Table(title="R1 decisions, R2 scores and outputs", title_justify="left")
    for name in ("step", "equal", "within", "differs", "not compared"):
        table.add_column(name, justify="left" if name in {"step", "not compared"} else "right", overflow="fold")
    for name, step in found.steps.items():
        if not step.compared and not step.skipped:  # it was not asked for, or there was nothing of the kind
            continue
        skipped = "\n".join(f"{count:,}: {escape(why)}" for why, count in step.skipped.most_common())
        differs = f"[red]{step.differs:,}[/]" if step.differs else "0"
        table.add_row(name, f"{step.equal:,}", f"{step.within:,}" if name == "output" else "", differs, skipped)
    return table


def render_changes(changes: Changes, console: Console) -> None:
    """Print what would be otherwise: how much of what, whose it is, and the first of it."""
    total = changes.total + changes.same
    console.print(
        f"\nR3 otherwise: [bold]{changes.total:,}[/] of {total:,} requests would come out otherwise", highlight=False
    )
    for why, count in changes.unknown.most_common():
        console.print(f"   not known of {count:,}: {escape(why)}", highlight=False)
    if not changes.total:
        return
    for title, counts in (
        ("what would become of them", changes.by_kind),
        ("by tenant", changes.by_tenant),
        ("by model", changes.by_model),
        ("by step or screen", changes.by_cause),
    ):
        console.print(counts_table(title, counts))
    rows = [(str(one.index), one.tenant, one.cause, one.recorded, one.otherwise) for one in changes.listed]
    console.print(listed(("entry", "tenant", "by", "recorded", "otherwise"), rows, changes.total))


def counts_table(title: str, counts: Counter[str]) -> Table:
    """Return counts, the largest first."""
    table = Table()
    table.add_column(title, overflow="fold")
    table.add_column("requests", justify="right")
    for name, count in counts.most_common(KINDS_SHOWN):
        table.add_row(escape(name), f"{count:,}")
    if len(counts) > KINDS_SHOWN:
        table.add_row(f"{len(counts) - KINDS_SHOWN} more", f"{sum(n for _, n in counts.most_common()[KINDS_SHOWN:]):,}")
    return table


def listed(columns: Iterable[str], rows: Sequence[tuple[str, ...]], total: int) -> Table:
    """Return the first of a list."""
    table = Table()
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows[:SHOWN_MAX]:
        table.add_row(*map(escape, row))
    if total > SHOWN_MAX:
        table.caption = f"and {total - SHOWN_MAX:,} more: --json, --page"
    return table
