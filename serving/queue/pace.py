"""How fast rows have been served lately, and so when a full queue will have room again."""

from __future__ import annotations

RETRY_MS_UNKNOWN = 100  # the hint before the first batch has been timed
RETRY_MS_MAX = 10_000
_WEIGHT = 0.125  # of the newest batch in the moving average


class Pace:
    """A moving average of the time per row. Batches that run side by side each count as if alone."""

    def __init__(self) -> None:
        self._ns_per_row = 0.0

    def observe(self, batch_ns: int, rows: int) -> None:
        """Take in one finished batch."""
        per_row = batch_ns / rows
        self._ns_per_row += (per_row - self._ns_per_row) * (_WEIGHT if self._ns_per_row else 1.0)

    def retry_after_ms(self, rows: int, *, threads: int = 1) -> int:
        """Return when `rows` waiting rows will have been served, in whole milliseconds from 1 up."""
        if not self._ns_per_row:
            return RETRY_MS_UNKNOWN
        return min(RETRY_MS_MAX, max(1, int(rows * self._ns_per_row / threads / 1e6)))
