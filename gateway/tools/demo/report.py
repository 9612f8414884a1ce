"""The demo's results: as JSON for machines, as tables for a terminal."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.table import Table

from gateway.tools.demo.scenes import Scene
from ops.audit.verify.report import OK, TAMPERED, Report

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Console


@dataclass(slots=True)
class Played:
    """What came of one scene. Latencies in milliseconds; verdicts as the gateway counted them, by row."""

    scene: Scene
    seconds: float = 0.0
    latencies_ms: list[float] = field(default_factory=list)
    answered: int = 0
    correct: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    verdicts: Counter[str] = field(default_factory=Counter)

    def note(self, line: dict[str, Any]) -> None:
        """Take in one line of the client."""
        if "seconds" in line:
            self.seconds = line["seconds"]
        elif "details" in line:
            self.refused[line["details"].removeprefix("[").partition("]")[0]] += 1
        else:
            self.answered += 1
            self.latencies_ms.append(line["ms"])
            labels = self.scene.labels
            self.correct += bool(labels is not None and labels[line["number"]] == line["class"])


@dataclass(frozen=True, slots=True)
class Evidence:
    """What the log says: verified as it stands, and with one byte flipped in a copy; entries by what they are of."""

    whole: Report
    tampered: Report
    flipped: str
    records: dict[str, int]


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
        "screens": {one.scene.name: screened(one) for one in played if one.scene.foreign or one is products},
        "audit": {
            "size": evidence.whole.size,
            "records": evidence.records,
            "root": evidence.whole.root,
            "verified": evidence.whole.exit_code == OK,
            "tamper_detected": evidence.tampered.exit_code == TAMPERED,
            "flipped": evidence.flipped,
            "tamper_findings": [f"{finding.what}: {finding.where}" for finding in evidence.tampered.findings[:5]],
        },
        "seconds": round(seconds, 1),
    }


def screened(one: Played) -> dict[str, float]:
    """Return what a screen said of a scene's rows: `caught_share` of them it flagged or refused."""
    rows, flagged, refused = one.verdicts.total(), one.verdicts["flag"], one.verdicts["refuse"]
    caught = round((flagged + refused) / rows, 4) if rows else 0.0
    return {"rows": rows, "flagged": flagged, "refused": refused, "caught_share": caught}


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


def show(played: Sequence[Played], report: dict[str, Any], console: Console) -> None:
    """Print the results as tables that fit a terminal of 80 columns."""
    served = [f"{report['accuracy']:.1%}", f"{report['rps']:,.0f}"]
    served += [f"{report['p50_ms']:.1f} ms", f"{report['p99_ms']:.1f} ms"]
    title = "1,000 product images from an unmodified tritonclient, over TLS"
    console.print(table(title, ["accuracy", "requests/s", "p50", "p99"], [served], left=()))
    console.print(easier(report))
    titles, screens, refusals = {one.scene.name: one.scene.title for one in played}, [], []
    for name, found in report["screens"].items():
        counts = (
            found["rows"],
            found["rows"] - found["flagged"] - found["refused"],
            found["flagged"],
            found["refused"],
        )
        screens.append([titles[name], *map(str, counts), f"{found['caught_share']:.1%}"])
    headings = ["shown to the model", "rows", "passed", "flagged", "refused", "caught"]
    console.print(table("What the evidence screen said", headings, screens))
    for one in played[1:]:
        if not one.scene.foreign:
            reasons = ", ".join(f"{count} {reason}" for reason, count in one.refused.most_common())
            refusals.append([one.scene.title, str(len(one.scene.images)), str(one.answered), reasons])
    console.print(table("What was refused, and why", ["who", "sent", "answered", "refused"], refusals, left=(0, 3)))
    audit = report["audit"]
    verdict = "[green]verified[/green]" if audit["verified"] else "[red]NOT VERIFIED[/red]"
    console.print(f"Audit log: {audit['size']:,} records, {verdict}, root {audit['root'][:16]}...")
    console.print(tally(report))
    found = "[green]found[/green]" if audit["tamper_detected"] else "[red]NOT FOUND[/red]"
    first = "".join(f": {finding}" for finding in audit["tamper_findings"][:1])
    console.print(f"One byte flipped in a copy ({audit['flipped']}): {found}{first}")


def table(title: str, headings: Sequence[str], rows: Sequence[Sequence[str]], left: Sequence[int] = (0,)) -> Table:
    """Return a table whose figures stand at the right; `left` are the columns of words."""
    made = Table(title=title, title_justify="left")
    for place, heading in enumerate(headings):
        made.add_column(heading, justify="left" if place in left else "right")
    for row in rows:
        made.add_row(*row)
    return made
