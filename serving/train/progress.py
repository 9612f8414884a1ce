"""How far a training run is, on the terminal."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

OnStep = Callable[[int, int], None]
"""Told after a step: how many are done, of how many."""


@contextmanager
def shown_steps(console: Console) -> Iterator[Callable[[str], OnStep]]:
    """Yield what begins a bar of this name, and returns who is told of its steps."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console) as progress:

        def shown(what: str) -> OnStep:
            task = progress.add_task(what, total=None)
            return lambda done, total: progress.update(task, completed=done, total=total)

        yield shown
