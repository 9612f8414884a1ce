"""The scorecard written down: results.json for machines; one HTML page with its plots, and one document, for people.

The page needs nothing else: its plots are elements of it (gateway/tools/demo/plots.py says how they take its colours).
In page and document alike, what falls short stands first, and nothing of a name is taken for markup.
"""

from __future__ import annotations

import html
import json
import re
import textwrap
from collections import defaultdict
from typing import TYPE_CHECKING, Any, Final

from defenses.lab.scorecard import RATE, Met, Row, Spread, Target, Verdict, as_json, judge, rows_of, targets
from gateway.tools.demo.page import STYLE
from gateway.tools.demo.plots import BLUE, GREY, ORANGE, RED, plots

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from defenses.lab.trial import Line

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
MARKS: Final = {Verdict.MISSED: "bad", Verdict.FLOOR: "some", Verdict.MET: "good", Verdict.ABSENT: "none"}
CURVES: Final = {
    "success_by_answered": ("Success against queries, first seed", "queries asked", "% of attempts"),
    "agreement": ("Agreement of the stolen model against its cost, first seed", "queries answered", "% agreement"),
    "roc": ("True against false positives", "false-positive rate", "true-positive rate"),
}
"""What `Trial.curves` may hold: title, x and y. Shares are drawn in percent, but for `roc`; x is logarithmic."""
LINES_MAX: Final = 8
NAME_MAX: Final = 40  # characters of a name in one line
_BY_RATE = re.compile(r"(?P<where>.+)/fpr-(?P<percent>[0-9.]+)/right")
_LOOKS = ((BLUE, "-"), (ORANGE, "-"), (RED, "-"), (BLUE, "--"), (ORANGE, "--"), (RED, "--"), (BLUE, ":"), (ORANGE, ":"))


def write_report(lines: Sequence[Line], directory: Path) -> tuple[list[Path], int]:
    """Write the files; returns them, and how many targets are missed.

    Raises:
        OSError: the disk said no.
    """
    rows = rows_of(line.trial for line in lines)
    met = judge(targets(), rows)
    spent = {(line.experiment, line.trial.seed): line.seconds for line in lines}
    directory.mkdir(parents=True, exist_ok=True)
    files = {
        "results.json": json.dumps(as_json(rows, met), indent=1, sort_keys=True) + "\n",
        "index.html": page(rows, met, seconds=sum(spent.values())),
        "README.md": document(rows, met),
    }
    for name, text in files.items():
        (directory / name).write_text(text)
    return [directory / name for name in files], sum(one.verdict is Verdict.MISSED for one in met)


def _families(rows: Sequence[Row]) -> dict[str, tuple[str, str, list[Row]]]:
    """Return by family its heading, what it is, and its rows; those of SECTIONS first."""
    found: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        found[row.family].append(row)
    names = [name for name in SECTIONS if name in found] + sorted(found.keys() - SECTIONS.keys())
    return {name: (*SECTIONS.get(name, (name.capitalize(), "")), found[name]) for name in names}


def _target_cells(one: Met) -> tuple[str, str, str, str]:
    """Return what was measured, the interval or range, the goal and the floor."""
    target = one.target
    measured = "" if one.measured is None else _in_unit(target, one.measured)
    between = " to ".join(_in_unit(target, bound) for bound in (one.low, one.high) if bound is not None)
    goal = f"{'≤' if target.sense == 'at most' else '≥'} {_in_unit(target, target.aim)}"
    return measured, between, goal, "" if target.floor is None else _in_unit(target, target.floor)


def _rate_cells(row: Row) -> tuple[str, str, str]:
    """Return count, rate and interval."""
    low, high = row.interval
    return f"{row.successes:,} / {row.samples:,}", f"{row.rate:.1%}", f"{low:.1%} to {high:.1%}"


def _in_unit(target: Target, number: float) -> str:
    if target.percent:
        return f"{number:.2%}" if 0 < number < 0.01 else f"{number:.1%}"
    return f"{number:,.4g}"


def document(rows: Sequence[Row], met: Sequence[Met]) -> str:
    """Return the document, for who reads the repository; targets stand in the order given."""
    parts = [
        "# Scorecard: what attackers achieve",
        "",
        "Written by `stockade lab report`; change nothing here. How to repeat it: [the lab](../explanation/lab.md).",
        "The [page](index.html) has the plots, all metrics and settings; [results.json](results.json) is for machines,",
        "[trials.jsonl](trials.jsonl) holds every trial.",
        "",
        "## What was aimed at, and what came of it",
        "",
        "| target | | measured | interval or range | goal | floor | samples | seeds |",
        "|---|---|---|---|---|---|---|---|",
        *(_document_target(one) for one in met),
        "",
        "On a rate, the interval is Clopper and Pearson's at 95 %; on another metric, the range over seeds.",
    ]
    for title, _, own in _families(rows).values():
        parts += ["", f"## {title}", "", "| attack | attacker | count | rate | 95 % interval | seeds |"]
        parts += ["|---|---|---|---|---|---|", *(_document_row(row) for row in own)]
    return "\n".join(parts) + "\n"


def _document_target(one: Met) -> str:
    cells = (_escaped(one.target.what), one.verdict, *_target_cells(one), one.samples or "", one.seeds or "")
    return f"| {' | '.join(map(str, cells))} |"


def _document_row(row: Row) -> str:
    control = "" if row.defended else " (control)"
    counted = " | ".join(_rate_cells(row)) if row.samples else " | | "
    return f"| {_escaped(row.attack)}{control} | {_escaped(row.knowledge)} | {counted} | {len(row.seeds)} |"


def _escaped(text: str) -> str:
    return text.replace("|", "\\|")


def page(rows: Sequence[Row], met: Sequence[Met], *, seconds: float) -> str:
    """Return the page. `seconds`: how long all experiments took together."""
    families = _families(rows)
    links = " · ".join(
        f'<a href="#{html.escape(name)}">{html.escape(title)}</a>' for name, (title, _, _) in families.items()
    )
    sections = "".join(_section(name, *family) for name, family in families.items())
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
{_targets(met)}
{sections}
</html>
"""


def _targets(met: Iterable[Met]) -> str:
    lines = []
    for one in met:
        word = f'<b class="{MARKS[one.verdict]}">{one.verdict}</b>'
        if one.verdict is Verdict.MET and one.target.measure == RATE and not one.sure:
            word += ' <span class="note">(the interval reaches beyond)</span>'
        cells = (*_target_cells(one), f"{one.samples:,}" if one.samples else "")
        numbers = "".join(f"<td class=n>{cell}" for cell in cells)
        lines.append(f"<tr><td>{html.escape(one.target.what)}<td>{word}{numbers}")
    heads = "<th>target<th><th class=n>measured<th class=n>interval<th class=n>goal<th class=n>floor<th class=n>samples"
    return _table(heads, lines)


def _section(name: str, title: str, text: str, rows: Sequence[Row]) -> str:
    """Return the part of one family: its plots, then its numbers, each row's metrics and settings folded away."""
    parts = [f'<h2 id="{html.escape(name)}">{html.escape(title)}</h2><p>{html.escape(text)}</p>']
    if any(row.samples for row in rows):
        parts += ["<h3>Rates</h3>", _rates(rows)]
    if by_rate := _evasion_by_rate(rows):
        parts += ["<h3>Evasion against false alarms, of images answered right untouched</h3>", by_rate]
    for curve, (heading, _, _) in CURVES.items():
        if drawn := _curves(rows, curve):
            parts += [f"<h3>{heading}</h3>", drawn]
    heads = "<th>attack<th>attacker<th class=n>count<th class=n>rate<th class=n>95 % interval<th class=n>seeds<th>ATLAS"
    return "".join([*parts, _table(heads, map(_line, rows))])


def _line(row: Row) -> str:
    kind = "" if row.defended else ' <span class="none">control</span>'
    metrics = "".join(f"<tr><td>{html.escape(name)}<td class=n>{_spread(s)}" for name, s in row.metrics.items())
    settings = ", ".join(f"{name}: {value}" for name, value in sorted(row.settings.items()))
    folded = f'<table>{metrics}</table><p class="note">{html.escape(settings)}</p>'
    cells = _rate_cells(row) if row.samples else ("", "", "")
    return (
        f"<tr><td><details><summary><code>{html.escape(row.attack)}</code>{kind}</summary>{folded}</details>"
        f"<td>{html.escape(row.knowledge)}{''.join(f'<td class=n>{cell}' for cell in cells)}"
        f"<td class=n>{len(row.seeds)}<td>{html.escape(row.technique)}"
    )


def _table(heads: str, lines: Iterable[str]) -> str:
    return f'<div class="table"><table><thead><tr>{heads}</thead><tbody>{"".join(lines)}</tbody></table></div>'


def _spread(spread: Spread) -> str:
    if spread.least == spread.most:
        return f"{spread.median:,.4g}"
    return f"{spread.median:,.4g} ({spread.least:,.4g} to {spread.most:,.4g})"


def _label(row: Row) -> str:
    """Return a row's name for a reader."""
    return f"{row.attack} · {row.knowledge}{'' if row.defended else ' · control'}"


def _rates(rows: Sequence[Row]) -> str:
    """Plot the rate of each row with its interval; controls are grey."""
    shown = [row for row in rows if row.samples][::-1]

    def draw(axes: Any) -> None:
        for place, row in enumerate(shown):
            colour = BLUE if row.defended else GREY
            low, high = (100 * bound for bound in row.interval)
            axes.plot([low, high], [place, place], color=colour, linewidth=3, solid_capstyle="butt")
            axes.plot(100 * row.rate, place, "o", color=colour, markersize=6)
        axes.set_yticks(range(len(shown)), [_folded(_label(row)) for row in shown], fontsize=8)
        axes.set(xlabel="% of samples, with 95 % interval", xlim=(-2, 102), ylim=(-0.6, len(shown) - 0.4))
        axes.tick_params(axis="x", labeltop=True)
        axes.grid(axis="x", color=GREY, linewidth=0.5)
        axes.set_axisbelow(True)

    return plots(draw, 0.42 * len(shown) + 0.8)


def _evasion_by_rate(rows: Iterable[Row]) -> str:
    """Plot evasion against the promised rate of false alarms, for rows named ".../fpr-N/right"; "" without any."""
    lines: dict[tuple[str, str], list[tuple[float, float, float, float]]] = defaultdict(list)
    for row in rows:
        found = _BY_RATE.fullmatch(row.attack)
        if found:
            low, high = row.interval
            lines[found["where"].removeprefix("whitebox/"), row.knowledge].append(
                (float(found["percent"]), 100 * row.rate, 100 * low, 100 * high)
            )
    colours = dict(zip(sorted({where for where, _ in lines}), (BLUE, ORANGE, RED, GREY), strict=False))
    dashes = dict(zip(sorted({knowledge for _, knowledge in lines}), ("-", "--", ":"), strict=False))

    def draw(axes: Any) -> None:
        for (where, knowledge), points in sorted(lines.items()):
            xs, ys, lows, highs = zip(*sorted(points), strict=True)
            colour, dash = colours.get(where, GREY), dashes.get(knowledge, "-.")
            axes.plot(xs, ys, dash, color=colour, marker="o", markersize=4, label=f"{where} · {knowledge}")
            axes.fill_between(xs, lows, highs, color=colour, alpha=0.15, linewidth=0)
        axes.set(xlabel="% of honest images that may be flagged", ylabel="% evaded", ylim=(0, 102))
        axes.set_xticks(sorted({point[0] for points in lines.values() for point in points}))
        _legend(axes, len(lines))

    names = [f"{where} · {knowledge}" for where, knowledge in lines]
    return plots(draw, _height_in(names)) if lines else ""


def _curves(rows: Sequence[Row], name: str) -> str:
    """Plot the curves of one name, one line a row; "" where no row has it."""
    having = [row for row in rows if len(row.curves.get(name, ())) > 1][:LINES_MAX]
    _, x, y = CURVES[name]

    def draw(axes: Any) -> None:
        scale = 1 if name == "roc" else 100
        for row, (colour, dash) in zip(having, _LOOKS, strict=False):
            xs, ys = zip(*row.curves[name], strict=True)
            axes.plot(xs, [scale * y for y in ys], dash, color=colour if row.defended else GREY, label=_label(row))
        axes.set(xlabel=x, ylabel=y)
        axes.set_xscale("log")
        if name == "roc":
            axes.set_yscale("log")
            axes.plot([1e-4, 1], [1e-4, 1], color=GREY, linewidth=1, label="chance")
            axes.set(xlim=(1e-4, 1), ylim=(1e-4, 1.05))
        else:
            axes.set_ylim(0, 102)
        axes.grid(color=GREY, linewidth=0.5)
        axes.set_axisbelow(True)
        _legend(axes, len(having))

    names = [_label(row) for row in having]
    return plots(draw, _height_in(names)) if having else ""


def _height_in(names: Iterable[str]) -> float:
    """Return the height of a plot whose legend, above it, has a line for each line of these names."""
    return 3.4 + 0.15 * sum(_folded(name).count("\n") + 1 for name in names)


def _legend(axes: Any, lines: int) -> None:
    if not lines:
        return
    handles, names = axes.get_legend_handles_labels()
    axes.figure.legend(
        handles, [_folded(name) for name in names], loc="outside upper left", frameon=False, fontsize=8, ncols=1
    )


def _folded(name: str) -> str:
    """Break a long name after its first part, and the rest between words."""
    head, dot, rest = name.partition(" · ")
    return "\n".join([head, *textwrap.wrap(rest, NAME_MAX)]) if dot and len(name) > NAME_MAX else name
