"""An engine before another one: what the first cannot take now, the second answers."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import Any

from numpy.typing import NDArray

from serving.engines.engine import Engine
from serving.errors import BackendUnavailable


class FallbackEngine:
    """Implements `serving.engines.engine.Engine` over two engines of the same bundle.

    The first is asked each time, so it is used again as soon as it can be. A call that timed out is not passed on: it
    may be at work still, and its caller's time is spent.
    """

    def __init__(self, first: Engine, second: Engine, changed: Callable[[BackendUnavailable | None], None]) -> None:
        """`changed` is called with why the first takes nothing, once, and with None when it answers again."""
        self.first = first
        self._second = second
        self._changed = changed
        self._lock = threading.Lock()  # guards what follows, and the order in which changes are told
        self._away = False
        self._taken = 0

    def infer(self, inputs: Mapping[str, NDArray[Any]], /) -> Mapping[str, NDArray[Any]]:
        """Return the declared outputs; see `Engine`."""
        try:
            outputs = self.first.infer(inputs)
        except BackendUnavailable as gone:
            self._see(gone)
            outputs = self._second.infer(inputs)
            with self._lock:
                self._taken += 1
            return outputs
        if self._away:
            self._see(None)
        return outputs

    def ready(self) -> bool:
        """True while one of them is."""
        return any(self.each_ready())

    def each_ready(self) -> tuple[bool, bool]:
        """Say of each whether it is ready: while the first is not, `ready` does not show it."""
        return self.first.ready(), self._second.ready()

    def taken(self) -> int:
        """Return how many batches the second has answered since this was last asked."""
        with self._lock:
            taken, self._taken = self._taken, 0
        return taken

    def close(self) -> None:
        """Close both."""
        self.first.close()
        self._second.close()

    def _see(self, gone: BackendUnavailable | None) -> None:
        with self._lock:
            if (gone is not None) != self._away:
                self._away = gone is not None
                self._changed(gone)
