"""The scorecard's page: one HTML file that needs nothing else. What falls short stands first."""

from __future__ import annotations

import html
from typing import TYPE_CHECKING

from defenses.lab.scorecard import RATE, Met, Row, Spread, Target, Verdict
from gateway.tools.demo.page import STYLE
from gateway.tools.lab.figures import CURVES, curves, evasion_by_rate, rates

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

MORE_STYLE = """
body { max-width: 66rem } table { border-collapse: collapse; width: 100%; font-size: .88rem; margin: .6rem 0 }
th { text-align: left; color: var(--faint); font-weight: 600 } th, td { padding: .3rem .5rem; vertical-align: top;
  border-bottom: 1px solid var(--line) } td.n, th.n { text-align: right; white-space: nowrap }
.table { overflow-x: auto } .some { color: var(--orange) } .none { color: var(--faint) }
summary { cursor: pointer } details table { width: auto }
h3 { font-size: 1rem; margin: 1.4rem 0 .3rem } td code { background: none; padding: 0; overflow-wrap: normal }
.table > table { min-width: 46rem }
"""
SECTIONS = {
    "evasion": ("Evasion", "Inputs that the model gets wrong, made with its weights or by asking."),
    "poisoning": ("Poisoning", "Training data, feedback or weights that somebody else had a hand in."),
    "extraction": ("Extraction", "A copy of the model, trained on its answers."),
    "inference": ("Inference", "Who was in the training data, and what it looked like."),
    "availability": (
        "Availability",
        "Requests that cost more than they should, or that move what others are answered.",
    ),
    "benign": ("Honest accounts", "What the defenses cost those who attack nothing."),
}
MARKS = {Verdict.MISSED: "bad", Verdict.FLOOR: "some", Verdict.MET: "good", Verdict.ABSENT: "none"}


def page(rows: Sequence[Row], met: Sequence[Met], *, seconds: float) -> str:
    """Return the page. `seconds`: how long all experiments took together."""
    families = [name for name in SECTIONS if any(row.family == name for row in rows)]
    families += sorted({row.family for row in rows} - SECTIONS.keys())
    links = " · ".join(f'<a href="#{html.escape(family)}">{html.escape(title_of(family))}</a>' for family in families)
    sections = "".join(section(family, [row for row in rows if row.family == family]) for family in families)
    counted = {verdict: sum(one.verdict is verdict for one in met) for verdict in Verdict}
    facts = [
        (str(counted[Verdict.MISSED]), "targets missed"),
        (str(counted[Verdict.FLOOR]), "floor reached, goal not"),
        (str(counted[Verdict.MET]), "targets met"),
        (str(counted[Verdict.ABSENT]), "not run"),
        (f"{sum(row.samples for row in rows):,}", "samples attacked"),
        (f"{seconds / 60:,.0f} min", "of attacking"),
    ]
    boxes = "".join(f'<div class="fact"><b>{value}</b><span>{text}</span></div>' for value, text in facts)
    head = '<meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>Stockade scorecard</title>'
    return f"""<!doctype html><html lang="en">{head}<style>{STYLE}{MORE_STYLE}</style>
<h1>Stockade: what attackers achieve</h1>
<p>Every number is made by <code>stockade lab run</code>. Rates are counts with exact 95 % intervals (Clopper and
Pearson), pooled over seeds that attack rows of their own. Controls run the same attack without defenses: where they do
not fail, an attack proves nothing. How to repeat and extend all this: <code>docs/explanation/lab.md</code>.</p>
<div class="facts">{boxes}</div>
<p>{links}</p>
<h2>What was aimed at, and what came of it</h2>
{targets(met)}
{sections}
</html>
"""


def targets(met: Iterable[Met]) -> str:
    """Return the table of targets, in the order given."""
    lines = []
    for one in met:
        target = one.target
        word = f'<b class="{MARKS[one.verdict]}">{one.verdict}</b>'
        if one.verdict is Verdict.MET and target.measure == RATE and not one.sure:
            word += ' <span class="note">(the interval reaches beyond)</span>'
        measured = "" if one.measured is None else value_of(target, one.measured)
        between = " to ".join(value_of(target, bound) for bound in (one.low, one.high) if bound is not None)
        floor = "" if target.floor is None else value_of(target, target.floor)
        samples = f"{one.samples:,}" if one.samples else ""
        sign = "≤" if target.sense == "at most" else "≥"
        lines.append(
            f"<tr><td>{html.escape(target.what)}<td>{word}<td class=n>{measured}<td class=n>{between}"
            f"<td class=n>{sign} {value_of(target, target.aim)}<td class=n>{floor}<td class=n>{samples}"
        )
    heads = "<th>target<th><th class=n>measured<th class=n>interval<th class=n>goal<th class=n>floor<th class=n>samples"
    return _table(heads, lines)


def section(family: str, rows: Sequence[Row]) -> str:
    """Return the part of one family: its plots, then its numbers."""
    _, text = SECTIONS.get(family, ("", ""))
    parts = [f'<h2 id="{html.escape(family)}">{html.escape(title_of(family))}</h2><p>{html.escape(text)}</p>']
    if any(row.samples for row in rows):
        parts += ["<h3>Rates</h3>", rates(rows)]
    if by_rate := evasion_by_rate(rows):
        parts += ["<h3>Evasion against false alarms, of images answered right untouched</h3>", by_rate]
    for name, kind in CURVES.items():
        if drawn := curves(rows, name):
            parts += [f"<h3>{kind.title}</h3>", drawn]
    parts.append(numbers(rows))
    return "".join(parts)


def title_of(family: str) -> str:
    """Return a family's heading."""
    return SECTIONS[family][0] if family in SECTIONS else family.capitalize()


def numbers(rows: Iterable[Row]) -> str:
    """Return the table of rows, each with its further metrics and settings folded away."""
    heads = "<th>attack<th>attacker<th class=n>count<th class=n>rate<th class=n>95 % interval<th class=n>seeds<th>ATLAS"
    return _table(heads, [_line(row) for row in rows])


def _line(row: Row) -> str:
    kind = "" if row.defended else ' <span class="none">control</span>'
    metrics = "".join(f"<tr><td>{html.escape(name)}<td class=n>{_spread(s)}" for name, s in row.metrics.items())
    settings = ", ".join(f"{name}: {value}" for name, value in sorted(row.settings.items()))
    folded = f'<table>{metrics}</table><p class="note">{html.escape(settings)}</p>'
    cells = ["", "", ""]
    if row.samples:
        low, high = row.interval
        cells = [f"{row.successes:,} / {row.samples:,}", f"{row.rate:.1%}", f"{low:.1%} to {high:.1%}"]
    return (
        f"<tr><td><details><summary><code>{html.escape(row.attack)}</code>{kind}</summary>{folded}</details>"
        f"<td>{html.escape(row.knowledge)}{''.join(f'<td class=n>{cell}' for cell in cells)}"
        f"<td class=n>{len(row.seeds)}<td>{html.escape(row.technique)}"
    )


def _table(heads: str, lines: Iterable[str]) -> str:
    return f'<div class="table"><table><thead><tr>{heads}</thead><tbody>{"".join(lines)}</tbody></table></div>'


def value_of(target: Target, number: float) -> str:
    """Return a number in the unit of its target."""
    if target.percent:
        return f"{number:.2%}" if 0 < number < 0.01 else f"{number:.1%}"
    return f"{number:,.4g}"


def _spread(spread: Spread) -> str:
    if spread.least == spread.most:
        return f"{spread.median:,.4g}"
    return f"{spread.median:,.4g} ({spread.least:,.4g} to {spread.most:,.4g})"
