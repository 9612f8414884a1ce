"""What verbs say at the terminal: results on standard output, everything else on standard error.

Much of it was written by others: entries of a log, names of files beside one, what a server answers. On these consoles
no text does anything but be read.
"""

from __future__ import annotations

import json
import sys
from datetime import UTC, datetime
from functools import wraps
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from rich.text import Text

    Run = Callable[[Any], int]

EX_NO = 1
"""Done, and the answer is no."""
EX_UNUSABLE = 2
"""Wrong usage, or something that cannot be used or is not there."""


class SafeConsole(Console):
    """A console that writes out, as Python does, what a terminal would obey or not show: controls, directions, gaps."""

    def render_str(self, text: str, **how: Any) -> Text:
        """See `Console`."""
        return super().render_str("".join(map(_shown, text)), **how)


def _shown(char: str) -> str:
    return char if char.isprintable() or char in "\n\t" else char.encode("unicode_escape").decode()


out = SafeConsole(soft_wrap=True, highlight=False)
terminal = SafeConsole(highlight=False)
"""Standard output, wrapped where the terminal ends."""
err = SafeConsole(stderr=True, soft_wrap=True, highlight=False)


def fail(problem: object, code: int = EX_UNUSABLE) -> int:
    """Say what is wrong, on standard error, and return the exit code for it."""
    from gateway.config.document import unusable  # noqa: PLC0415  it loads pydantic

    text = unusable(problem) if isinstance(problem, OSError) else str(problem)
    err.print(f"[red]stockade:[/red] {escape(text)}")
    return code


def guarded(no: tuple[type[Exception], ...], unusable: tuple[type[Exception], ...]) -> Callable[[Run], Run]:
    """Return a decorator of what runs a command: these exceptions, and OSError, are said in a sentence.

    Exit codes: 1 for those of `no`; 2 for the others.
    """
    problems: tuple[type[Exception], ...] = (*unusable, OSError)

    def decorate(run: Run) -> Run:
        @wraps(run)
        def call(options: Any) -> int:
            try:
                return run(options)
            except no as problem:
                return fail(problem, EX_NO)
            except problems as problem:
                return fail(problem)

        return call

    return decorate


def print_json(value: object) -> None:
    """Print a value for machines."""
    sys.stdout.write(json.dumps(value, indent=2, default=str) + "\n")


def clock(unix_ns: int) -> str:
    """Return a moment as tables show it, UTC; nothing for none."""
    return datetime.fromtimestamp(unix_ns / 1e9, UTC).strftime("%Y-%m-%d %H:%M:%SZ") if unix_ns else ""


def table(title: str, *columns: str) -> Table:
    """Return an empty table for cells of several lines: a line of words is folded where it must be, an id never is."""
    made = Table(title=title, title_justify="left", pad_edge=False)
    for column in columns:
        made.add_column(column, overflow="fold")
    return made


def counted(counts: Mapping[str, int]) -> str:
    """Return counts by name, the largest first, a line each."""
    return "\n".join(f"{count:,} {escape(name)}" for name, count in sorted(counts.items(), key=lambda one: -one[1]))
