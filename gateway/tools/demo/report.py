"""The demo's results: as JSON for machines, as tables for a terminal."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.table import Table

from ops.audit.verify.report import OK, TAMPERED

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Console

    from gateway.tools.demo.play import Evidence, Played


def as_json(played: Sequence[Played], evidence: Evidence, measured: float, seconds: float) -> dict[str, Any]:
    """Return everything that was measured. Latencies in milliseconds, seen by the client over TLS.

    `measured` is the accuracy of the model on the whole test set.
    """
    products = played[0]
    refused: Counter[str] = Counter()
    for one in played:
        refused += one.refused
    return {
        "accuracy": products.correct / len(products.scene.images),
        "accuracy_whole_test_set": measured,
        "requests": sum(len(one.scene.images) for one in played),
        "rps": round(len(products.scene.images) / products.seconds, 1),
        "p50_ms": round(float(np.percentile(products.latencies_ms, 50)), 3),
        "p99_ms": round(float(np.percentile(products.latencies_ms, 99)), 3),
        "refused": dict(sorted(refused.items())),
        "screens": {
            one.scene.name: {
                "rows": sum(one.verdicts.values()),
                "flagged": one.verdicts["flag"],
                "refused": one.verdicts["refuse"],
                "caught_share": round(caught(one), 4),
            }
            for one in played
            if one.scene.foreign or one is products
        },
        "audit": {
            "size": evidence.whole.size,
            "records": asdict(evidence.records),
            "root": evidence.whole.root,
            "verified": evidence.whole.exit_code == OK,
            "tamper_detected": evidence.tampered.exit_code == TAMPERED,
            "flipped": evidence.flipped,
            "tamper_findings": [f"{finding.what}: {finding.where}" for finding in evidence.tampered.findings[:5]],
        },
        "seconds": round(seconds, 1),
    }


def caught(one: Played) -> float:
    """Return the share of a scene's rows that a screen flagged or refused."""
    rows = sum(one.verdicts.values())
    return (one.verdicts["flag"] + one.verdicts["refuse"]) / rows if rows else 0.0


def easier(report: dict[str, Any]) -> str:
    """Say what the accuracy of the demo is not."""
    sample = "The 1,000 are the first 100 test images of each class, and easier than the rest"
    return f"{sample}: on all 10,000 the model was measured at {report['accuracy_whole_test_set']:.1%}."


def tally(report: dict[str, Any]) -> str:
    """Say why there are as many records as there are."""
    audit, records = report["audit"], report["audit"]["records"]
    return (
        f"{report['requests']:,} requests, {audit['size']:,} records: {records['requests']:,} of one request each, "
        f"{records['sums']:,} that sum up {records['summed']:,} refusals which cost their callers nothing (no valid "
        f"credential; far over a limit), and {records['own']:,} of the gateway itself, such as its start."
    )


def show(played: Sequence[Played], evidence: Evidence, report: dict[str, Any], console: Console) -> None:
    """Print the results as tables that fit a terminal of 80 columns."""
    served = Table(title="1,000 product images from an unmodified tritonclient, over TLS", title_justify="left")
    for column in ("accuracy", "requests/s", "p50", "p99"):
        served.add_column(column, justify="right")
    served.add_row(
        f"{report['accuracy']:.1%}", f"{report['rps']:,.0f}", f"{report['p50_ms']:.1f} ms", f"{report['p99_ms']:.1f} ms"
    )
    console.print(served)
    console.print(easier(report))
    screens = Table("shown to the model", title="What the evidence screen said", title_justify="left")
    for column in ("rows", "passed", "flagged", "refused", "caught"):
        screens.add_column(column, justify="right")
    for one in played:
        if not one.scene.foreign and one is not played[0]:
            continue
        counts = [str(one.verdicts[verdict]) for verdict in ("pass", "flag", "refuse")]
        screens.add_row(one.scene.title, str(sum(one.verdicts.values())), *counts, f"{caught(one):.1%}")
    console.print(screens)
    refusals = Table("who", title="What was refused, and why", title_justify="left")
    refusals.add_column("sent", justify="right")
    refusals.add_column("answered", justify="right")
    refusals.add_column("refused")
    for one in played[1:]:
        if not one.scene.foreign:
            reasons = ", ".join(f"{count} {reason}" for reason, count in one.refused.most_common())
            refusals.add_row(one.scene.title, str(len(one.scene.images)), str(one.answered), reasons)
    console.print(refusals)
    whole, tampered = evidence.whole, evidence.tampered
    verdict = "[green]verified[/green]" if report["audit"]["verified"] else "[red]NOT VERIFIED[/red]"
    console.print(f"Audit log: {whole.size:,} records, {verdict}, root {whole.root[:16]}...")
    console.print(tally(report))
    found = "[green]found[/green]" if report["audit"]["tamper_detected"] else "[red]NOT FOUND[/red]"
    first = tampered.findings[0] if tampered.findings else None
    console.print(
        f"One byte flipped in a copy ({evidence.flipped}): {found}"
        + (f": {first.what} ({first.where})" if first is not None else "")
    )
