"""The scorecard as a document: what was aimed at and what came of it, for who reads the repository."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gateway.tools.lab.page import SECTIONS, value_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from defenses.lab.scorecard import Met, Row


def document(rows: Sequence[Row], met: Sequence[Met]) -> str:
    """Return the document, which `stockade lab report` writes beside the page; targets stand in the order given."""
    parts = [
        "# Scorecard: what attackers achieve",
        "",
        "Written by `stockade lab report`; change nothing here. How to repeat it: [the lab](../lab.md).",
        "The [page](index.html) has the plots, all metrics and settings; [results.json](results.json) is for machines,",
        "[trials.jsonl](trials.jsonl) holds every trial.",
        "",
        "## What was aimed at, and what came of it",
        "",
        "| target | | measured | interval or range | goal | floor | samples | seeds |",
        "|---|---|---|---|---|---|---|---|",
        *(_target(one) for one in met),
        "",
        "On a rate, the interval is Clopper and Pearson's at 95 %; on another metric, the range over seeds.",
    ]
    families = [family for family in SECTIONS if any(row.family == family for row in rows)]
    for family in families + sorted({row.family for row in rows} - SECTIONS.keys()):
        parts += ["", f"## {SECTIONS.get(family, (family.capitalize(), ''))[0]}", "", *_table(rows, family)]
    return "\n".join(parts) + "\n"


def _target(one: Met) -> str:
    target = one.target
    sign = "≤" if target.sense == "at most" else "≥"
    bounds = " to ".join(value_of(target, bound) for bound in (one.low, one.high) if bound is not None)
    measured = "" if one.measured is None else value_of(target, one.measured)
    floor = "" if target.floor is None else value_of(target, target.floor)
    goal = f"{sign} {value_of(target, target.aim)}"
    counts = f"{one.samples or ''} | {one.seeds or ''}"
    return f"| {_cell(target.what)} | {one.verdict} | {measured} | {bounds} | {goal} | {floor} | {counts} |"


def _table(rows: Iterable[Row], family: str) -> list[str]:
    lines = ["| attack | attacker | count | rate | 95 % interval | seeds |", "|---|---|---|---|---|---|"]
    for row in rows:
        if row.family == family:
            control = "" if row.defended else " (control)"
            low, high = row.interval
            counted = f"{row.successes:,} / {row.samples:,} | {row.rate:.1%} | {low:.1%} to {high:.1%}"
            lines.append(
                f"| {_cell(row.attack)}{control} | {_cell(row.knowledge)} "
                f"| {counted if row.samples else ' | | '} | {len(row.seeds)} |"
            )
    return lines


def _cell(text: str) -> str:
    return text.replace("|", "\\|")
