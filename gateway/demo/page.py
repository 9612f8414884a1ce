"""The demo's page: one HTML file with its plots inside, to open in a browser or to send to somebody."""

from __future__ import annotations

import html
import io
from typing import TYPE_CHECKING, Any

from gateway.demo.report import caught

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from gateway.demo.play import Evidence, Played

STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; color: #1b2733 }
h1 { font-size: 1.6rem } h2 { font-size: 1.15rem; margin: 2rem 0 .5rem }
.facts { display: flex; flex-wrap: wrap; gap: 1rem; margin: 1rem 0 }
.fact { border: 1px solid #d5dde5; border-radius: .5rem; padding: .6rem 1rem; min-width: 7rem }
.fact b { display: block; font-size: 1.5rem } .fact span { color: #5a6b7b; font-size: .85rem }
svg { max-width: 100%; height: auto } code { background: #f1f4f7; padding: 0 .25rem; overflow-wrap: anywhere }
.good { color: #1a7f4b } .bad { color: #b3261e }
"""
BLUE, ORANGE, RED, GREY = "#2f6f9f", "#d98324", "#b3261e", "#c9d3dc"


def write_page(path: Path, played: Sequence[Played], evidence: Evidence, report: dict[str, Any]) -> None:
    """Write the page."""
    audit = report["audit"]
    facts = [
        (f"{report['accuracy']:.1%}", "accuracy on 1,000 products"),
        (f"{report['rps']:,.0f}/s", "requests, one Python client"),
        (f"{report['p50_ms']:.1f} ms", "p50 over TLS"),
        (f"{report['p99_ms']:.1f} ms", "p99 over TLS"),
        (f"{audit['size']:,}", "records in the log"),
    ]
    boxes = "".join(f'<div class="fact"><b>{value}</b><span>{text}</span></div>' for value, text in facts)
    first = audit["tamper_findings"][0] if audit["tamper_findings"] else "nothing"
    body = f"""
<h1>Stockade: what the demo did</h1>
<p>An unmodified Triton client sent {report["requests"]:,} requests over TLS in a process of its own. Every answer left
after its record was on disk.</p>
<div class="facts">{boxes}</div>
<h2>What the client waited for</h2>{latencies(played[0])}
<h2>What the evidence screen said</h2>
<p>Calibrated so that at most 1 % of honest images are flagged. Flagged images are answered and recorded; the farthest
are refused.</p>{verdicts(played)}
<h2>What was refused, and why</h2>{refusals(report["refused"])}
<h2>The audit log</h2>
<p>Verified offline with nothing but the public key: {mark(ok=audit["verified"], good="verified", bad="NOT VERIFIED")}.
Root <code>{audit["root"]}</code>.</p>
<p>Then one byte was flipped in a copy ({html.escape(evidence.flipped)}):
{mark(ok=audit["tamper_detected"], good="found", bad="NOT FOUND")}, <code>{html.escape(first)}</code>.</p>
"""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>Stockade demo</title><style>{STYLE}</style>{body}'
    )


def mark(*, ok: bool, good: str, bad: str) -> str:
    """Return a word in the colour it deserves."""
    return f'<b class="{"good" if ok else "bad"}">{good if ok else bad}</b>'


def latencies(products: Played) -> str:
    """Plot how long the client waited for each of the honest images."""
    figure, axes = canvas(2.6)
    axes.hist(products.latencies_ms, bins=60, color=BLUE)
    axes.set(xlabel="milliseconds from request to answer, 32 in flight", ylabel="requests")
    return svg(figure)


def verdicts(played: Sequence[Played]) -> str:
    """Plot the share of rows that were flagged and refused, scene by scene."""
    shown = [one for one in played if one.scene.foreign or one is played[0]][::-1]
    figure, axes = canvas(0.45 * len(shown) + 0.9)
    totals = [max(1, sum(one.verdicts.values())) for one in shown]
    titles = [one.scene.title for one in shown]
    left = [0.0] * len(shown)
    for verdict, colour in (("pass", GREY), ("flag", ORANGE), ("refuse", RED)):
        widths = [100 * one.verdicts[verdict] / total for one, total in zip(shown, totals, strict=True)]
        axes.barh(
            titles,
            widths,
            left=left,
            color=colour,
            label={"pass": "passed", "flag": "flagged", "refuse": "refused"}[verdict],
        )
        left = [start + width for start, width in zip(left, widths, strict=True)]
    for row, one in enumerate(shown):
        axes.text(101, row, f"{caught(one):.1%} caught", va="center", fontsize=9)
    axes.set(xlabel="% of rows", xlim=(0, 118))
    axes.legend(ncols=3, loc="upper center", bbox_to_anchor=(0.45, 1.22), frameon=False, fontsize=9)
    return svg(figure)


def refusals(refused: dict[str, int]) -> str:
    """Plot the refusals by reason."""
    figure, axes = canvas(0.4 * max(1, len(refused)) + 0.7)
    bars = axes.barh(list(refused)[::-1], list(refused.values())[::-1], color=BLUE)
    axes.bar_label(bars, padding=4, fontsize=9)
    axes.set(xlabel="requests")
    axes.margins(x=0.1)
    return svg(figure)


def canvas(height: float) -> tuple[Any, Any]:
    """Return a figure of the page's width and its axes. matplotlib loads here, when a page is made."""
    from matplotlib.figure import Figure  # noqa: PLC0415  `stockade --help` stays fast

    figure = Figure(figsize=(9, height), layout="constrained")
    axes = figure.subplots()
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def svg(figure: Any) -> str:
    """Return a figure as an element of the page."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg")
    text = buffer.getvalue()
    return text[text.index("<svg") :]
