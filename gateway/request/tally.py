"""From records to metrics and traces, in one go for all calls that ended within the last moment.

Writing a metric costs microseconds; under load many calls end together, and their series are mostly the same. So what
happens is noted, and written FLUSH_EVERY_S later. A worker that is killed takes the counts of that moment with it: the
audit log, not the metrics, is what nothing may be missing from.

Calls are counted on the event loop, batches wherever they run.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from gateway.request.drifts import Drifts
from gateway.request.judgement import VERDICTS
from ops.metrics import BatchesDone, RequestDone

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Mapping, Sequence

    from gateway.models.rules import ModelRules
    from gateway.request.item import Item
    from gateway.request.judgement import Judgement
    from gateway.request.outgoing import KeptBack
    from gateway.request.record import Record
    from gateway.request.traces import Traces
    from ops.metrics import Metrics

FLUSH_EVERY_S = 0.05


class BatchRun(NamedTuple):
    """A batch that has run. `scores` holds the probability of the top class of each row, float (rows,)."""

    rules: ModelRules
    rows: dict[str, int]
    inputs: Mapping[str, np.ndarray[Any, Any]]
    judgement: Judgement
    scores: np.ndarray[Any, Any]
    compute_ns: int
    kept_back: KeptBack | None = None


class Tally:
    """Between the pipeline and the metrics, and the traces if there are any."""

    def __init__(self, metrics: Metrics, loop: asyncio.AbstractEventLoop, traces: Traces | None = None) -> None:
        self._metrics = metrics
        self._traces = traces
        self._loop = loop
        self._started: dict[str, int] = {}
        self._ended: list[Record] = []
        self._batches: list[BatchRun] = []
        self._repeated: dict[tuple[str, str], int] = {}
        self._due = False
        self.drifts = Drifts()

    def started(self, method: str) -> None:
        """A call has begun."""
        self._started[method] = self._started.get(method, 0) + 1
        self._schedule()

    def ended(self, record: Record) -> None:
        """A call, or a message of a stream, is over."""
        self._ended.append(record)
        self._schedule()

    def credential_refused(self, method: str, reason: str) -> None:
        """A caller could not prove who he is. `method` is the kind of credential that was tried."""
        self._metrics.auth_failed(method, reason)

    def unrecorded(self) -> None:
        """A call has ended unanswered and its record could not be written."""
        self._metrics.audit_dropped(1)

    def batch(
        self,
        items: Sequence[Item],
        rules: ModelRules,
        inputs: Mapping[str, np.ndarray[Any, Any]],
        judgement: Judgement,
        scores: np.ndarray[Any, Any],
        *,
        compute_ns: int,
        kept_back: KeptBack | None = None,
    ) -> None:
        """A batch has run; it is written with the calls in it, which end later. From any thread."""
        rows: dict[str, int] = {}
        for item in items:
            name = item.record.caller().priority_class
            rows[name] = rows.get(name, 0) + item.request.rows
        self._batches.append(BatchRun(rules, rows, inputs, judgement, scores, compute_ns, kept_back))

    def feedback(self, judged: Sequence[tuple[str, str, str]]) -> None:
        """Labels came: (model, disposition, reason) of each."""
        self._metrics.feedback.items(judged)

    def repeated(self, model: str, priority_class: str, cost: int) -> None:
        """A request was charged, and answered without the model; it is counted as any other when it ends."""
        charged = model, priority_class
        self._repeated[charged] = self._repeated.get(charged, 0) + cost

    def _schedule(self) -> None:
        if not self._due:
            self._due = True
            self._loop.call_later(FLUSH_EVERY_S, self.flush)

    def flush(self) -> None:
        """Write everything that has come together."""
        self._due = False
        started, self._started = self._started, {}
        ended, self._ended = self._ended, []
        self._metrics.rpcs_started(started)
        self._metrics.requests_done([done_of(record) for record in ended])
        self._metrics.release.answered(
            [
                (record.model_name, record.model_version, record.timings_us.get("total", 0))
                for record in ended
                if record.rows and record.kind == "served"
            ]
        )
        if self._traces is not None:
            self._traces.ended(ended)
        decided: Counter[tuple[str, str]] = Counter()
        for record in ended:
            if record.rate is not None:
                priority_class = record.caller().priority_class
                decided[priority_class, "admit" if record.rate.admitted else "refuse"] += 1
        self._metrics.limits_decided(decided)
        if self._repeated:
            charged, self._repeated = self._repeated, {}
            self._metrics.models.cost_charged(charged)
        self._write_batches()

    def _write_batches(self) -> None:
        """Write the batches that have run, those under the same rules together."""
        batches, self._batches = self._batches, []
        by_rules: dict[ModelRules, list[BatchRun]] = {}
        for batch in batches:
            by_rules.setdefault(batch.rules, []).append(batch)
        for rules, alike in by_rules.items():
            model = rules.served.bundle.name
            self._metrics.models.batches_done(model, batches_of(rules, alike))
            scores = np.concatenate([batch.scores for batch in alike])
            self._metrics.models.answered(model, scores.tolist())
            for batch in alike:
                self._metrics.models.account_steps(model, batch.judgement.steps)
            for effect, count in kept_back_of(alike).items():
                self._metrics.models.kept_back(model, effect, count)
            judgements, inputs = [batch.judgement for batch in alike], [batch.inputs for batch in alike]
            self.drifts.observe(rules, judgements, scores, inputs)
            for name, (verdicts_of, p_values_of) in judged_by_screen(alike).items():
                verdicts = Counter(np.concatenate(verdicts_of).tolist())
                p_values = np.concatenate(p_values_of).tolist()
                self._metrics.screens.judged(model, name, {VERDICTS[each]: n for each, n in verdicts.items()}, p_values)


def judged_by_screen(alike: Sequence[BatchRun]) -> dict[str, tuple[list[Any], list[Any]]]:
    """Return the verdicts and the p-values of each screen, those of rows and those of accounts, batch by batch."""
    found: dict[str, tuple[list[Any], list[Any]]] = {}
    for batch in alike:
        for name, verdicts, p_values in (*batch.judgement.rows, *batch.judgement.account_rows):
            of_screen = found.setdefault(name, ([], []))
            of_screen[0].append(verdicts)
            of_screen[1].append(p_values)
    return found


def kept_back_of(alike: Sequence[BatchRun]) -> Counter[str]:
    """Return of how many rows the policy kept something back."""
    found: Counter[str] = Counter()
    for batch in alike:
        if batch.kept_back is not None:
            found.update(batch.kept_back.counts())
    return found


def batches_of(rules: ModelRules, alike: Sequence[BatchRun]) -> BatchesDone:
    """Return what the metrics want to know of batches under the same rules; a batch's time is shared out by rows."""
    rows: Counter[str] = Counter()
    compute_us: dict[str, float] = {}
    sizes = [sum(batch.rows.values()) for batch in alike]
    for batch, size in zip(alike, sizes, strict=True):
        rows.update(batch.rows)
        for name, share in batch.rows.items():
            compute_us[name] = compute_us.get(name, 0.0) + batch.compute_ns / 1000 * share / size
    cost = {name: count * rules.cost_per_row for name, count in rows.items()}
    return BatchesDone(sizes, cost, compute_us, rules.served.batcher.queued_rows)


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
