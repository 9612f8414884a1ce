"""What a model has done since the process started (the numbers of ModelStatistics), and how long a request will take.

Counts are kept by the batch threads under a lock that is held for a few additions; readers get a consistent copy.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

from gateway import errors

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


SMOOTHING = 0.1  # weight of the newest batch in the running means
HALF_LIFE_NS = 1_000_000_000


@dataclass(slots=True)
class Totals:
    """Counts and summed nanoseconds of one model version, as ModelStatistics defines them."""

    batches: int = 0
    requests: int = 0
    failures: int = 0
    rows: int = 0
    last_unix_ms: int = 0
    queue_ns: int = 0
    screen_ns: int = 0
    infer_ns: int = 0
    failure_ns: int = 0
    hits: int = 0
    hit_ns: int = 0


class Ended(Protocol):
    """A request of a batch that has ended: when it was queued, and whether it was answered."""

    queued_ns: int

    @property
    def served(self) -> bool: ...


class ModelCounters:
    """The totals of one model version."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._totals = Totals()
        self._batch_id = 0

    def next_batch(self) -> int:
        """Return the number of a new batch."""
        with self._lock:
            self._batch_id += 1
            return self._batch_id

    def ran(self, wall_ns: int, rows: int, stages_ns: Mapping[str, int]) -> None:
        """Count one run of the model; `stages_ns` holds what it spent on screen, infer and harden."""
        with self._lock:
            totals = self._totals
            totals.batches += 1
            totals.rows += rows
            totals.last_unix_ms = wall_ns // 1_000_000
            totals.screen_ns += stages_ns["screen"] + stages_ns["harden"]
            totals.infer_ns += stages_ns["infer"]

    def ended(self, items: Sequence[Ended], taken_ns: int, now_ns: int) -> None:
        """Count the requests of one batch by how they ended."""
        failed = [item for item in items if not item.served]
        with self._lock:
            totals = self._totals
            totals.requests += len(items) - len(failed)
            totals.failures += len(failed)
            totals.queue_ns += sum([taken_ns - item.queued_ns for item in items])
            totals.failure_ns += sum([now_ns - item.queued_ns for item in failed])

    def repeated(self, spent_ns: int) -> None:
        """Count a request that was answered from the cache, and how long that took."""
        with self._lock:
            self._totals.requests += 1
            self._totals.hits += 1
            self._totals.hit_ns += spent_ns

    def totals(self) -> Totals:
        """Return a consistent copy."""
        with self._lock:
            return replace(self._totals)


class ServiceTime:
    """How long a request will take that arrives now: a running mean a batch, and a running mean a row.

    Deliberately optimistic: a request is refused only when even the expected time does not fit before its deadline.
    A mean is worth half as much after each second without a batch, so a model that was slow once is tried again, also
    when all that is asked has a deadline. Times are nanoseconds of the monotonic clock.
    """

    def __init__(self) -> None:
        self._batch_ns = 0.0
        self._row_ns = 0.0
        self._observed_ns = 0

    def observe(self, batch_ns: int, rows: int, now_ns: int) -> None:
        """Take in one finished batch, from the moment it was taken until its records were durable."""
        self._batch_ns += SMOOTHING * (batch_ns - self._batch_ns)
        self._row_ns += SMOOTHING * (batch_ns / rows - self._row_ns)
        self._observed_ns = now_ns

    def expected_ns(self, rows_waiting: int, now_ns: int) -> int:
        """Return the expected time of a request that `rows_waiting` rows go before, one batch after another."""
        faded = 0.5 ** (max(0, now_ns - self._observed_ns) / HALF_LIFE_NS)
        return int((self._batch_ns + self._row_ns * rows_waiting) * faded)

    def require(self, left_ns: int, rows_waiting: int, now_ns: int) -> None:
        """Raise DeadlinePassed or DeadlineUnmeetable when `left_ns` nanoseconds are not enough."""
        if left_ns <= 0:
            raise errors.DeadlinePassed
        if left_ns < self.expected_ns(rows_waiting, now_ns):
            raise errors.DeadlineUnmeetable
