"""From records to metrics and traces, in one go for all calls that ended in the same turn of the event loop.

Writing a metric costs microseconds; under load many calls end together, and their series are mostly the same. Calls are
counted on the event loop, batches in the worker thread that ran them.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from gateway.judgement import VERDICTS
from ops.metrics import RequestDone

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Sequence

    from gateway.judgement import Judgement
    from gateway.record import Record
    from gateway.state import Item, ModelRules
    from gateway.traces import Traces
    from ops.metrics import Metrics


class Tally:
    """Between the pipeline and the metrics, and the traces if there are any."""

    def __init__(self, metrics: Metrics, loop: asyncio.AbstractEventLoop, traces: Traces | None = None) -> None:
        self._metrics = metrics
        self._traces = traces
        self._loop = loop
        self._started: Counter[str] = Counter()
        self._ended: list[Record] = []
        self._due = False

    def started(self, method: str) -> None:
        """A call has begun."""
        self._started[method] += 1
        self._schedule()

    def ended(self, record: Record) -> None:
        """A call, or a message of a stream, is over."""
        self._ended.append(record)
        self._schedule()

    def credential_refused(self, method: str, reason: str) -> None:
        """A caller could not prove who he is. `method` is the kind of credential that was tried."""
        self._metrics.auth_failed(method, reason)

    def batch(
        self, items: Sequence[Item], rules: ModelRules, judgement: Judgement, scores: Sequence[float], compute_ns: int
    ) -> None:
        """A batch has run. `scores` holds the probability of the top class of each row."""
        model = rules.served.bundle.name
        rows: Counter[str] = Counter()
        for item in items:
            rows[item.record.caller().priority_class] += item.request.rows
        self._metrics.batch_done(
            model,
            rows,
            compute_us=compute_ns // 1000,
            cost_per_row=rules.cost_per_row,
            waiting_rows=rules.served.batcher.queued_rows,
        )
        self._metrics.answered(model, scores)
        for name, verdicts, p_values in judgement.rows:
            counted = Counter(verdicts.tolist())
            by_name = {VERDICTS[verdict]: count for verdict, count in counted.items()}
            self._metrics.screen_done(model, name, by_name, p_values.tolist())

    def _schedule(self) -> None:
        if not self._due:
            self._due = True
            self._loop.call_soon(self.flush)

    def flush(self) -> None:
        """Write everything that has come together."""
        self._due = False
        started, self._started = self._started, Counter()
        ended, self._ended = self._ended, []
        self._metrics.rpcs_started(started)
        self._metrics.requests_done([done_of(record) for record in ended])
        if self._traces is not None:
            self._traces.ended(ended)
        decided: Counter[tuple[str, str]] = Counter()
        for record in ended:
            if record.rate is not None:
                priority_class = record.caller().priority_class
                decided[priority_class, "admit" if record.rate.admitted else "refuse"] += 1
        self._metrics.limits_decided(decided)


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
