"""What a model has done since the process started (the numbers of ModelStatistics), and how long a request will take.

Counts are kept by the batch threads under a lock that is held for a few additions; readers get a consistent copy.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING

from gateway import errors

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from gateway.state import Item

SMOOTHING = 0.1  # weight of the newest batch in the running means
BATCH_SIZES_MAX = 256  # distinct batch sizes that are told apart; larger ones count as the largest


@dataclass(frozen=True, slots=True)
class Spent:
    """How often something happened, and how many nanoseconds it took in all."""

    count: int = 0
    ns: int = 0

    def plus(self, count: int, ns: int) -> Spent:
        """Return the sum."""
        return Spent(self.count + count, self.ns + ns)


@dataclass(frozen=True, slots=True)
class Totals:
    """The figures of one model version; `stages` by the names of InferStatistics."""

    last_inference_unix_ms: int
    rows: int
    batches: int
    stages: Mapping[str, Spent]
    batch_infer: Mapping[int, Spent]


STAGES = ("success", "fail", "queue", "compute_input", "compute_infer", "compute_output")


class ModelCounters:
    """The totals of one model version."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._batch_id = 0
        self._batches = 0
        self._rows = 0
        self._last_unix_ms = 0
        self._stages = dict.fromkeys(STAGES, Spent())
        self._batch_infer: dict[int, Spent] = {}

    def next_batch(self) -> int:
        """Return the number of a new batch."""
        with self._lock:
            self._batch_id += 1
            return self._batch_id

    def ran(self, wall_ns: int, requests: int, rows: int, stages_ns: Mapping[str, int]) -> None:
        """Count one run of the model; `stages_ns` holds what it spent on screen, infer and harden."""
        size = min(rows, BATCH_SIZES_MAX)
        with self._lock:
            self._batches += 1
            self._rows += rows
            self._last_unix_ms = wall_ns // 1_000_000
            for stage, ns in zip(("compute_input", "compute_infer", "compute_output"), stages_ns.values(), strict=True):
                self._stages[stage] = self._stages[stage].plus(requests, ns)
            self._batch_infer[size] = self._batch_infer.get(size, Spent()).plus(1, stages_ns["infer"])

    def ended(self, items: Sequence[Item], taken_ns: int, now_ns: int) -> None:
        """Count the requests of one batch by how they ended, each with its whole time since it was queued."""
        served = [item for item in items if item.record.kind == "served"]
        served_ns = sum([now_ns - item.queued_ns for item in served])
        all_ns = sum([now_ns - item.queued_ns for item in items])
        queued_ns = sum([taken_ns - item.queued_ns for item in items])
        with self._lock:
            self._stages["success"] = self._stages["success"].plus(len(served), served_ns)
            self._stages["fail"] = self._stages["fail"].plus(len(items) - len(served), all_ns - served_ns)
            self._stages["queue"] = self._stages["queue"].plus(len(items), queued_ns)

    def totals(self) -> Totals:
        """Return a consistent copy."""
        with self._lock:
            return Totals(self._last_unix_ms, self._rows, self._batches, dict(self._stages), dict(self._batch_infer))


class ServiceTime:
    """How long a request will take that arrives now: a running mean a batch, and a running mean a row.

    Deliberately optimistic: a request is refused only when even the expected time does not fit before its deadline.
    """

    def __init__(self) -> None:
        self._batch_ns = 0.0
        self._row_ns = 0.0

    def observe(self, batch_ns: int, rows: int) -> None:
        """Take in one finished batch, from the moment a thread took it until its records were durable."""
        self._batch_ns += SMOOTHING * (batch_ns - self._batch_ns)
        self._row_ns += SMOOTHING * (batch_ns / rows - self._row_ns)

    def expected_ns(self, rows_waiting: int) -> int:
        """Return the expected time of a request behind `rows_waiting` rows."""
        return int(self._batch_ns + self._row_ns * rows_waiting)

    def require(self, left_ns: int, rows_waiting: int) -> None:
        """Raise DeadlinePassed or DeadlineUnmeetable when `left_ns` nanoseconds are not enough."""
        if left_ns <= 0:
            raise errors.DeadlinePassed
        if left_ns < self.expected_ns(rows_waiting):
            raise errors.DeadlineUnmeetable
