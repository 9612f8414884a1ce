"""An engine before another one: what the first cannot take now, the second answers."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from numpy.typing import NDArray

from serving.engine import Engine
from serving.errors import BackendUnavailable

__all__ = ["FallbackEngine"]

_log = logging.getLogger(__name__)


class FallbackEngine:
    """Implements `serving.engine.Engine` over two engines of the same bundle.

    The first is asked each time, so it is used again as soon as it can be. A call that timed out is not passed on: it
    may be at work still, and its caller's time is spent.
    """

    def __init__(self, first: Engine, second: Engine) -> None:
        self._first = first
        self._second = second

    def infer(self, inputs: Mapping[str, NDArray[Any]], /) -> Mapping[str, NDArray[Any]]:
        """Return the declared outputs; see `Engine`."""
        try:
            return self._first.infer(inputs)
        except BackendUnavailable as gone:
            _log.warning("answered by the fallback: %s", gone)
            return self._second.infer(inputs)

    def ready(self) -> bool:
        """True while one of them is."""
        return self._first.ready() or self._second.ready()

    def close(self) -> None:
        """Close both."""
        self._first.close()
        self._second.close()
