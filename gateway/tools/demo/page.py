"""The demo's page: one HTML file with its plots inside, to open in a browser or to send to somebody."""

from __future__ import annotations

import html
from typing import TYPE_CHECKING, Any

from gateway.tools.demo.plots import bars, histogram, shares
from gateway.tools.demo.report import easier, tally

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from gateway.tools.demo.report import Played

STYLE = """
:root { color-scheme: light dark; --ink: #1b2733; --faint: #5a6b7b; --line: #d5dde5; --page: #fff; --code: #f1f4f7;
  --blue: #2f6f9f; --orange: #d98324; --red: #b3261e; --grey: #c9d3dc; --good: #1a7f4b; --bad: #b3261e }
@media (prefers-color-scheme: dark) { :root { --ink: #dfe6ee; --faint: #9aaabb; --line: #33414f; --page: #12181f;
  --code: #1f2a35; --blue: #5aa2d6; --orange: #e0933c; --red: #d9534a; --grey: #46566a; --good: #4cc38a;
  --bad: #f0776e } }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; color: var(--ink);
  background: var(--page) }
h1 { font-size: 1.6rem } h2 { font-size: 1.15rem; margin: 2rem 0 .5rem }
.facts { display: grid; grid-template-columns: repeat(auto-fit, minmax(8.2rem, 1fr)); gap: .7rem; margin: 1rem 0 }
.fact { border: 1px solid var(--line); border-radius: .5rem; padding: .5rem .8rem }
.fact b { display: block; font-size: 1.35rem; white-space: nowrap }
.fact span, .note { color: var(--faint); font-size: .85rem }
svg { width: 100%; height: auto } code { background: var(--code); padding: 0 .25rem; overflow-wrap: anywhere }
.narrow { display: none }
@media (max-width: 640px) { .wide { display: none } .narrow { display: block } }
.good { color: var(--good) } .bad { color: var(--bad) }
"""


def write_page(path: Path, played: Sequence[Played], report: dict[str, Any]) -> None:
    """Write the page."""
    audit = report["audit"]
    facts = [
        (f"{report['accuracy']:.1%}", "accuracy on 1,000 products"),
        (f"{report['accuracy_whole_test_set']:.1%}", "on the whole test set"),
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
<p class="note">{easier(report)}</p>
<h2>What the client waited for</h2>
<p>From request to answer, 32 of the 1,000 products in flight.</p>
{histogram(played[0].latencies_ms, "milliseconds", "requests")}
<h2>What the evidence screen said</h2>
<p>Calibrated so that at most 1 % of honest images are flagged. Flagged images are answered and recorded; the farthest
are refused. Beside each bar: the share that was flagged or refused.</p>
{verdicts(played, report)}
<h2>What was refused, and why</h2>
{bars(report["refused"], "requests")}
<h2>The audit log</h2>
<p>{tally(report)}</p>
<p>Verified offline with nothing but the public key: {mark(ok=audit["verified"], good="verified", bad="NOT VERIFIED")}.
Root <code>{audit["root"]}</code>.</p>
<p>Then one byte was flipped in a copy ({html.escape(audit["flipped"])}):
{mark(ok=audit["tamper_detected"], good="found", bad="NOT FOUND")}, <code>{html.escape(first)}</code>.</p>
"""
    head = '<meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>Stockade demo</title>'
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f'<!doctype html><html lang="en">{head}<style>{STYLE}</style>{body}')


def mark(*, ok: bool, good: str, bad: str) -> str:
    """Return a word in the colour it deserves."""
    return f'<b class="{"good" if ok else "bad"}">{good if ok else bad}</b>'


def verdicts(played: Sequence[Played], report: dict[str, Any]) -> str:
    """Plot the share of rows that were flagged and refused, scene by scene."""
    titles, rows = {one.scene.name: one.scene.title for one in played}, {}
    for name, found in report["screens"].items():
        flagged, refused = (100 * found[verdict] / max(1, found["rows"]) for verdict in ("flagged", "refused"))
        rows[titles[name]] = (100 - flagged - refused, flagged, refused)
    return shares(rows, [f"{found['caught_share']:.1%}" for found in report["screens"].values()], "% of rows")
