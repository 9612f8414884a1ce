"""How much the fault tests do: a look in `make test`, the whole of it in `make test-faults` (STOCKADE_FAULTS=full)."""

import os
from typing import TypeVar

FULL = os.environ.get("STOCKADE_FAULTS") == "full"
SEED = int(os.environ.get("STOCKADE_FAULTS_SEED", "1"))

_T = TypeVar("_T")


def effort(look: _T, full: _T) -> _T:
    """What a test does now: `look` or `full`."""
    return full if FULL else look
