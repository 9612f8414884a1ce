"""A training run that is stopped on its way and goes on from its checkpoint."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest


class Stopped(Exception):
    """Somebody stopped the run."""


def stopped_and_resumed(run: Callable[..., Any], checkpoint: Path, at: int) -> tuple[Any, list[int]]:
    """Stop a run at a step and run it again. Returns what came of it, and the steps that were taken the second time."""

    def stop(done: int, _total: int) -> None:
        if done == at:
            raise Stopped

    with pytest.raises(Stopped):
        run(checkpoint=checkpoint, on_step=stop)
    steps: list[int] = []
    return run(checkpoint=checkpoint, on_step=lambda done, _total: steps.append(done)), steps
