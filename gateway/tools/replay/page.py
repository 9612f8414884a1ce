"""The report as one HTML file, to read, to send or to keep with a change: no scripts, nothing from elsewhere."""

from __future__ import annotations

import html
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from gateway.tools.replay.view import verdict

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from gateway.tools.replay.history import Findings
    from gateway.tools.replay.otherwise import Changes
    from gateway.tools.replay.replay import Question, Replayed

LISTED_MAX = 1_000
STYLE = """
:root { color-scheme: light dark; --ink: #1b2733; --faint: #5a6b7b; --line: #d5dde5; --page: #fff; --code: #f1f4f7;
  --blue: #2f6f9f; --good: #1a7f4b; --bad: #b3261e }
@media (prefers-color-scheme: dark) { :root { --ink: #dfe6ee; --faint: #9aaabb; --line: #33414f; --page: #12181f;
  --code: #1f2a35; --blue: #5aa2d6; --good: #4cc38a; --bad: #f0776e } }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; color: var(--ink);
  background: var(--page) }
h1 { font-size: 1.6rem } h2 { font-size: 1.15rem; margin: 2.2rem 0 .5rem }
h3 { font-size: 1rem; margin: 1.2rem 0 .3rem }
.note, caption { color: var(--faint); font-size: .9rem; text-align: left }
table { border-collapse: collapse; width: 100%; font-size: .92rem } .scroll { overflow-x: auto }
th, td { text-align: left; padding: .3rem .8rem .3rem 0; border-bottom: 1px solid var(--line); vertical-align: top }
td.n, th.n { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap }
.cols { display: grid; grid-template-columns: repeat(auto-fit, minmax(24rem, 1fr)); gap: 0 2.5rem }
.bar { background: var(--blue); height: .55rem; border-radius: .2rem; min-width: 2px }
td.b { width: 38%; vertical-align: middle }
code { background: var(--code); padding: 0 .25rem; overflow-wrap: anywhere }
.good { color: var(--good) } .bad { color: var(--bad) }
"""


def write_page(path: Path, replayed: Replayed, question: Question, now_ns: int) -> None:
    """Write the page. Raises OSError."""
    head, found = replayed.head, replayed.findings
    text, good = verdict(replayed)
    at = datetime.fromtimestamp(now_ns / 1e9, UTC).strftime("%Y-%m-%d %H:%M:%SZ")
    body = f"""
<h1>What was recorded, done again</h1>
<p><b class="{"good" if good else "bad"}">{shown(text)}.</b> {found.requests:,} requests of {shown(head.origin)}.</p>
<p class="note">R0: the log verified at {head.size:,} records, root <code>{head.root.hex()}</code>. Made {at}.</p>
{changes_part(replayed.changes, question)}
<h2>What was compared</h2>
<p class="note">R1: decisions, from what the entries hold. R2: scores and outputs, from kept payloads. What is
not compared is not called equal.</p>
{steps_part(found)}
{differences_part(found)}
"""
    meta = '<meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>Stockade replay</title>'
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f'<!doctype html><html lang="en">{meta}<style>{STYLE}</style>{body}</html>\n', "utf-8")


def changes_part(changes: Changes | None, question: Question) -> str:
    """Return what would be otherwise; nothing where nothing was asked."""
    if changes is None:
        return ""
    asked = [f"{name} version {version}" for name, version in (question.versions or {}).items()]
    if question.policy is not None:
        asked.insert(0, f"the policy {question.policy.digest[:16]}… (revision {question.policy.revision})")
    unknown = "".join(f"<li>{count:,}: {shown(why)}</li>" for why, count in changes.unknown.most_common())
    part = f"""
<h2>What would be otherwise</h2>
<p>With {shown(" and ".join(asked))}, <b>{changes.total:,}</b> of {changes.total + changes.same:,} requests would come
out otherwise.</p>{f'<p class="note">Not known:</p><ul class="note">{unknown}</ul>' if unknown else ""}"""
    if not changes.total:
        return part
    groups = (
        ("What would become of them", changes.by_kind),
        ("By tenant", changes.by_tenant),
        ("By model", changes.by_model),
        ("By step or screen", changes.by_cause),
    )
    bars = "".join(f"<div><h3>{title}</h3>{bars_of(counts)}</div>" for title, counts in groups)
    rows = [
        (f"{one.index:,}", one.tenant, one.model, one.cause, one.recorded, one.otherwise, one.id)
        for one in changes.listed[:LISTED_MAX]
    ]
    columns = ("entry", "tenant", "model", "by", "recorded", "otherwise", "request")
    return f"{part}<div class=cols>{bars}</div><h3>Request by request</h3>{table(columns, rows, changes.total)}"


def steps_part(found: Findings) -> str:
    """Return what was compared, step by step."""
    rows = [
        (
            name,
            f"{step.equal:,}",
            f"{step.within:,}" if name == "output" else "",
            f'<b class="bad">{step.differs:,}</b>' if step.differs else "0",
            "<br>".join(f"{count:,}: {shown(why)}" for why, count in step.skipped.most_common()),
        )
        for name, step in found.steps.items()
        if step.compared or step.skipped
    ]
    cells = "".join(
        f'<tr><td>{name}<td class="n">{equal}<td class="n">{within}<td class="n">{differs}<td>{skipped}'
        for name, equal, within, differs, skipped in rows
    )
    head = '<tr><th>step<th class="n">equal<th class="n">within tolerance<th class="n">differs<th>not compared'
    return f"<div class=scroll><table>{head}{cells}</table></div>"


def differences_part(found: Findings) -> str:
    """Return what did not come out equal."""
    if not found.differences:
        return ""
    rows = [
        (f"{one.index:,}", one.step, one.tenant, one.model, one.recorded, one.replayed, one.id)
        for one in found.differences[:LISTED_MAX]
    ]
    columns = ("entry", "step", "tenant", "model", "recorded", "replayed", "request")
    return f"<h2>What differs</h2>{table(columns, rows, found.differing)}"


def table(columns: Iterable[str], rows: Iterable[tuple[str, ...]], total: int) -> str:
    """Return a table of text."""
    head = "".join(f"<th>{shown(column)}" for column in columns)
    lines = "".join("<tr>" + "".join(f"<td>{shown(cell)}" for cell in row) for row in rows)
    more = f"<caption>The first {LISTED_MAX:,} of {total:,}; --json has more.</caption>" if total > LISTED_MAX else ""
    return f"<div class=scroll><table>{more}<tr>{head}{lines}</table></div>"


def bars_of(counts: Mapping[str, int]) -> str:
    """Return counts as bars, the largest first."""
    largest = max(counts.values())
    return (
        "<table>"
        + "".join(
            f'<tr><td>{shown(name)}<td class="n">{count:,}<td class="b"><div class="bar" '
            f'style="width:{100 * count / largest:.1f}%"></div>'
            for name, count in sorted(counts.items(), key=lambda one: (-one[1], one[0]))
        )
        + "</table>"
    )


def shown(text: str) -> str:
    """Return text as HTML shows it."""
    return html.escape(text)
