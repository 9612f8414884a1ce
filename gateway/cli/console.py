"""What verbs say at the terminal: results on standard output, everything else on standard error."""

from __future__ import annotations

import json
import sys

from rich.console import Console
from rich.markup import escape

__all__ = ["EX_NO", "EX_UNUSABLE", "err", "fail", "out", "print_json", "terminal"]

EX_NO = 1
"""Done, and the answer is no."""
EX_UNUSABLE = 2
"""Wrong usage, or something that cannot be used or is not there."""

out = Console(soft_wrap=True, highlight=False)
terminal = Console(highlight=False)
"""Standard output, wrapped where the terminal ends."""
err = Console(stderr=True, soft_wrap=True, highlight=False)


def fail(problem: object, code: int = EX_UNUSABLE) -> int:
    """Say what is wrong, on standard error, and return the exit code for it."""
    from gateway.config.document import unusable  # noqa: PLC0415  it loads pydantic

    text = unusable(problem) if isinstance(problem, OSError) else str(problem)
    err.print(f"[red]stockade:[/red] {escape(text)}")
    return code


def print_json(value: object) -> None:
    """Print a value for machines."""
    sys.stdout.write(json.dumps(value, indent=2, default=str) + "\n")
