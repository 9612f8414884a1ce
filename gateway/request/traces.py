"""From records to traces: which calls are traced, and when each of their stages was.

Rules:
- The flag of the caller's `traceparent` decides; without one, the trace id does, against the share in the
  configuration. A caller who has not said who he is decides nothing: his calls are sampled by their own ids.
- A call without a `traceparent` has its request id as its trace id; a message of a stream is a child of the stream.
- A record holds how long its stages took. They are laid end to end, from its start and again from the moment its body
  was there, because the wait for a body has no length of its own. Inside a batch that is exact to microseconds.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from gateway.auth.principal import PUBLIC
from gateway.config.document import ConfigRejected
from ops.metrics.gateway import CODES
from ops.process.tracing import EndedCall, SpanSender, installed, otlp_exporter, span_factory

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gateway.config.config import Config, Tracing
    from gateway.request.record import Record, Site
    from ops.metrics import Metrics
    from ops.process.logging import Log

MISSING_EXTRA = "needs the extra `otel`; run `pip install 'stockade[otel]'`, or remove `tracing`"
BEFORE_BODY = ("auth", "admit")
AFTER_BODY = ("decode", "limits", "queue", "infer", "screen", "harden", "audit")


class Traces:
    """Hands the calls that are to be traced to what sends them. `share` is of the calls whose callers do not say."""

    def __init__(self, sender: SpanSender, share: float) -> None:
        self._sender = sender
        self._below = round(share * 2**64)

    def ended(self, records: Sequence[Record]) -> None:
        """Calls, or messages of streams, are over."""
        for record in records:
            if self.wants(record):
                self._sender.send(call_of(record))

    def wants(self, record: Record) -> bool:
        """Say whether a call is traced."""
        if record.principal is None or record.principal is PUBLIC:
            return int.from_bytes(record.id_bytes[8:]) < self._below
        if record.parent is not None:
            return record.parent.sampled
        return int.from_bytes((record.stream_id or record.id_bytes)[8:]) < self._below

    def close(self) -> None:
        """Send what is waiting. Blocks."""
        self._sender.close()


def call_of(record: Record) -> EndedCall:
    """Return what a trace says of a call. A method that is not one of ours is not named: it is the caller's text."""
    parent = record.parent
    trace_id = parent.trace_id if parent is not None else (record.stream_id or record.id_bytes).hex()
    above = parent.span_id if parent is not None else None
    if record.stream_id is not None:
        above = record.stream_id[:8].hex()
    timings_us = dict(record.timings_us)  # a batch may still be writing into that of a caller who hung up
    end_ns = record.time_ns + 1000 * timings_us["total"]
    body_ns = record.time_ns + record.body_ns - record.started_ns
    return EndedCall(
        trace_id=trace_id,
        span_id=int.from_bytes(record.id_bytes[:8]),
        parent_span_id=above,
        in_stream=record.in_stream,
        method=record.method[1:] if record.right else "",
        start_ns=record.time_ns,
        end_ns=end_ns,
        stages=[
            *laid(BEFORE_BODY, timings_us, record.time_ns, end_ns),
            *laid(AFTER_BODY, timings_us, body_ns, end_ns),
        ],
        request_id=record.id,
        status=CODES[record.status],
        outcome=record.kind,
        reason=record.reason,
        model=record.model_name,
        version=record.model_version,
        audit_index=record.audit_index,
    )


def laid(names: Sequence[str], timings_us: dict[str, int], start_ns: int, end_ns: int) -> list[tuple[str, int, int]]:
    """Return the stages that a call went through, one after the other, none past its end."""
    stages = []
    start_ns = min(start_ns, end_ns)
    for name in names:
        spent_us = timings_us.get(name)
        if spent_us is not None:
            until_ns = min(start_ns + 1000 * spent_us, end_ns)
            stages.append((name, start_ns, until_ns))
            start_ns = until_ns
    return stages


def require_tracing(config: Config) -> None:
    """Raise ConfigRejected when traces are configured and cannot be made."""
    if config.tracing is not None and not installed():
        raise ConfigRejected([f"tracing: {MISSING_EXTRA}"])


def open_traces(config: Tracing, site: Site, metrics: Metrics, log: Log) -> Traces:
    """Start sending traces of this process."""

    def dropped(spans: int) -> None:
        metrics.spans_dropped(spans)
        log("spans-dropped", level="warning", count=spans)

    resource = {"service.name": "stockade", "service.version": site.build, "service.instance.id": site.gateway}
    sender = SpanSender(otlp_exporter(config.otlp_endpoint), span_factory(resource), dropped)
    return Traces(sender, config.sample)
