"""Where the recorder reports what it does; `ops.metrics` keeps it."""

from collections.abc import Mapping
from typing import Protocol


class RecorderMetrics(Protocol):
    """Called from the committing thread, and must not block."""

    def durable(self, kinds: Mapping[str, int], tree_size: int, time_s: float) -> None:
        """A group became durable: entries by kind, the tree's size with them, when (seconds since 1970)."""

    def published(self, size: int, time_s: float) -> None:
        """A checkpoint of this size became public; called from the publishing thread."""

    def epoch(self, number: int, *, tree_size: int, public_size: int) -> None:
        """Records go to this epoch from now on; so many of its entries are durable, so many public. Nothing is due."""

    def epoch_begun(self, when: str) -> None:
        """A next epoch has its first entry: "serving", or only at the "start"."""

    def epoch_failed(self) -> None:
        """There was no room to close an epoch, or the recorder ends between two."""

    def epoch_due(self, since_s: float) -> None:
        """The next epoch should have begun then (seconds since 1970); 0: it is not due."""
