"""What every measurement does with its report: `--report` writes it, `--json` prints it, else people see a table."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from gateway.tools.terminal import print_json, terminal

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable

    from rich.console import Console


def hand_over(report: dict[str, Any], options: argparse.Namespace, show: Callable[[Console], None]) -> None:
    """Write and print a report as the options say; `show` prints it for people."""
    if options.report:
        options.report.parent.mkdir(parents=True, exist_ok=True)
        options.report.write_text(json.dumps(report, indent=2) + "\n")
    if options.json:
        print_json(report)
    else:
        show(terminal)
