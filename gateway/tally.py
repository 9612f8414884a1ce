"""Counts what happened, in one go for all calls that ended in the same turn of the event loop.

Writing a metric costs microseconds; under load many calls end together, and their series are mostly the same.
Everything here runs on the event loop.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ops.metrics import RequestDone

if TYPE_CHECKING:
    import asyncio

    from gateway.record import Record
    from ops.metrics import Metrics


class Tally:
    """Between the pipeline and the metrics."""

    def __init__(self, metrics: Metrics, loop: asyncio.AbstractEventLoop) -> None:
        self._metrics = metrics
        self._loop = loop
        self._started: dict[str, int] = {}
        self._ended: list[Record] = []
        self._due = False

    def started(self, method: str) -> None:
        """A call has begun."""
        self._started[method] = self._started.get(method, 0) + 1
        self._schedule()

    def ended(self, record: Record) -> None:
        """A call, or a message of a stream, is over."""
        self._ended.append(record)
        self._schedule()

    def _schedule(self) -> None:
        if not self._due:
            self._due = True
            self._loop.call_soon(self.flush)

    def flush(self) -> None:
        """Write everything that has come together."""
        self._due = False
        started, self._started = self._started, {}
        ended, self._ended = self._ended, []
        for method, count in started.items():
            self._metrics.rpcs_started(method, count)
        self._metrics.requests_done([done_of(record) for record in ended])


def done_of(record: Record) -> RequestDone:
    """Return what the metrics want to know of a record."""
    stages = record.timings_us
    return RequestDone(
        method="" if record.in_stream else record.method,
        code=record.status,
        model=record.model_name,
        version=record.model_version,
        outcome=record.kind,
        reason=record.reason,
        total_us=stages.get("total", 0),
        stages_us=tuple((stage, spent) for stage, spent in stages.items() if stage != "total"),
    )
