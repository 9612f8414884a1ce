"""The scorecard: results.json for machines, one page with its plots inside, and one document, for people."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from defenses.lab.scorecard import Verdict, as_json, judge, rows_of
from defenses.lab.targets import TARGETS
from gateway.tools.lab.markdown import document
from gateway.tools.lab.page import page

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from defenses.lab.trial import Line


def write_report(lines: Sequence[Line], directory: Path) -> tuple[list[Path], int]:
    """Write the files; returns them, and how many targets are missed.

    Raises:
        OSError: the disk said no.
    """
    rows = rows_of(line.trial for line in lines)
    met = judge(TARGETS, rows)
    results = as_json(rows, met)
    directory.mkdir(parents=True, exist_ok=True)
    files = [directory / "results.json", directory / "index.html", directory / "README.md"]
    files[0].write_text(json.dumps(results, indent=1, sort_keys=True) + "\n")
    spent = {(line.experiment, line.trial.seed): line.seconds for line in lines}
    files[1].write_text(page(rows, met, seconds=sum(spent.values())))
    files[2].write_text(document(rows, met))
    return files, sum(one.verdict is Verdict.MISSED for one in met)
