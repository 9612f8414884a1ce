"""What runs a model: the one plug-in point of serving."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from numpy.typing import NDArray


class Engine(Protocol):
    """Runs one bundle.

    Contract, checked for every implementation by tests/contracts/test_engine.py:

    - `infer` takes every input the manifest declares, C-contiguous, of the declared dtype and shape, with the same
      number of rows (the leading axis) in each, at least one. The caller has checked them; an engine need not.
    - It returns every output the manifest declares, by name, with the same number of rows in the same order, as
      arrays the caller owns. The rows of a batch do not influence each other (within 1e-5, absolute).
    - It blocks. It may be called from several threads at once, and calls do not wait for each other.
    - It never changes its inputs.
    - It raises `BackendFailed` when the run fails, also for inputs that break the first rule, and `EngineClosed` after
      `close`; nothing else.
    - `ready` is true from construction until `close`, unless the backend is known to be gone. It never blocks.
    - `close` may be called twice, and while `infer` runs: running calls finish.
    """

    def infer(self, inputs: Mapping[str, NDArray[Any]], /) -> Mapping[str, NDArray[Any]]:
        """Return the declared outputs for these rows."""
        ...

    def ready(self) -> bool:
        """Say whether `infer` can be expected to work now."""
        ...

    def close(self) -> None:
        """Refuse further calls and release what is held."""
        ...
