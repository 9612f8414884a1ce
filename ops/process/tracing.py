"""Calls that have ended, as OpenTelemetry spans, sent to an OTLP/gRPC collector in the background.

Nothing is traced while a call runs: it is handed over when it is over, with the times of its stages, and becomes one
span with a child for each stage.

Rules:
- What leaves is what `EndedCall` has fields for. It has none for a peer, a principal, a header or a payload.
- `SpanSender.send` neither waits nor raises. What finds the queue full, or what the collector does not take, is
  dropped and counted.
- The thread wakes up once in EXPORT_EVERY_S and sends what is waiting then, so the queue's size is also the most calls
  that are traced in that time: callers who set the sampled flag cannot make tracing cost more than that.
- This is the only module that knows OpenTelemetry (the extra `otel`), and it is imported when tracing is opened.
"""

from __future__ import annotations

import logging
from collections import deque
from dataclasses import dataclass
from itertools import count
from threading import Event, Thread
from types import MappingProxyType
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from opentelemetry.sdk.trace import ReadableSpan
    from opentelemetry.sdk.trace.export import SpanExporter

    SpansOf = Callable[["EndedCall"], list[ReadableSpan]]

QUEUE_CALLS_MAX = 512
CALLS_PER_EXPORT = 64  # about 500 spans, 150 KB: collectors take messages of 4 MB
EXPORT_EVERY_S = 1.0
EXPORT_TIMEOUT_S = 5.0
FLUSH_S = 2.0
ABANDON_S = 1.0
SERVER_FAULTS = frozenset(
    {"UNKNOWN", "DEADLINE_EXCEEDED", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS"}
)  # the codes that make a server's span an error: OpenTelemetry's conventions for gRPC
UNKNOWN_METHOD = "_OTHER"  # the same conventions: a name that the caller made up is not repeated
NOTHING: Mapping[str, str | int] = MappingProxyType({})


class TraceParent(NamedTuple):
    """The caller's span (W3C Trace Context, section 3.2): ids in lower-case hex, never all zeros."""

    trace_id: str
    span_id: str
    sampled: bool


@dataclass(frozen=True, slots=True)
class EndedCall:
    """One finished call. Times are nanoseconds since 1970; a stage is (name, start, end) and lies inside the call.

    `span_id` is 64 random bits, of which the stages vary the last few for their own. `method` is the full gRPC name
    without its leading slash, empty for a method that is not known; `status` the name of the gRPC code. `in_stream`
    says that the parent is our own span of a stream.
    """

    trace_id: str
    span_id: int
    parent_span_id: str | None
    in_stream: bool
    method: str
    start_ns: int
    end_ns: int
    stages: Sequence[tuple[str, int, int]]
    request_id: str
    status: str
    outcome: str
    reason: str
    model: str
    version: str
    audit_index: int | None


def installed() -> bool:
    """Say whether the extra `otel` is there."""
    try:
        import opentelemetry.exporter.otlp.proto.grpc.trace_exporter
        import opentelemetry.sdk.trace  # noqa: F401  whether it can be imported is the question
    except ImportError:
        return False
    return True


def otlp_exporter(endpoint: str) -> SpanExporter:
    """Return what sends spans to `endpoint`, such as "http://127.0.0.1:4317"; https means TLS. Connects lazily."""
    from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter

    library = logging.getLogger("opentelemetry")  # it would write to standard error, which is the structured log
    library.propagate = False
    library.addHandler(logging.NullHandler())
    return OTLPSpanExporter(endpoint=endpoint, insecure=endpoint.startswith("http://"), timeout=EXPORT_TIMEOUT_S)


def span_factory(resource: Mapping[str, str]) -> SpansOf:
    """Return the function that turns a call into its spans. `resource` says which process they come from.

    The spans are built as what exporters take, not through a tracer: they are over before we know of them.
    """
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import ReadableSpan
    from opentelemetry.sdk.util.instrumentation import InstrumentationScope
    from opentelemetry.trace import SpanContext, SpanKind, Status, StatusCode, TraceFlags

    process, scope = Resource(dict(resource)), InstrumentationScope("stockade")
    sampled = TraceFlags(TraceFlags.SAMPLED)

    def spans_of(call: EndedCall) -> list[ReadableSpan]:
        trace_id = int(call.trace_id, 16)
        ids = count()

        def span(
            name: str,
            parent: SpanContext | None,
            times: tuple[int, int],
            *,
            kind: SpanKind = SpanKind.INTERNAL,
            status: StatusCode = StatusCode.UNSET,
            attributes: Mapping[str, str | int] = NOTHING,
        ) -> ReadableSpan:
            return ReadableSpan(
                name=name,
                context=SpanContext(trace_id, call.span_id ^ next(ids), is_remote=False, trace_flags=sampled),
                parent=parent,
                resource=process,
                attributes=attributes,
                kind=kind,
                status=Status(status),
                start_time=times[0],
                end_time=times[1],
                instrumentation_scope=scope,
            )

        above = None
        if call.parent_span_id is not None:
            above = SpanContext(trace_id, int(call.parent_span_id, 16), not call.in_stream, sampled)
        whole = span(
            call.method or UNKNOWN_METHOD,
            above,
            (call.start_ns, call.end_ns),
            kind=SpanKind.INTERNAL if call.in_stream else SpanKind.SERVER,
            status=StatusCode.ERROR if call.status in SERVER_FAULTS else StatusCode.UNSET,
            attributes=attributes_of(call),
        )
        return [whole, *(span(stage, whole.context, (start, end)) for stage, start, end in call.stages)]

    return spans_of


def attributes_of(call: EndedCall) -> dict[str, str | int]:
    """Return all that a span says of its call."""
    told: dict[str, str | int] = {
        "rpc.system.name": "grpc",
        "rpc.method": call.method or UNKNOWN_METHOD,
        "rpc.response.status_code": call.status,
        "stockade.request.id": call.request_id,
        "stockade.outcome": call.outcome,
        "stockade.reason": call.reason,
    }
    if call.status in SERVER_FAULTS:
        told["error.type"] = call.status
    if call.model:
        told["stockade.model.name"], told["stockade.model.version"] = call.model, call.version
    if call.audit_index is not None:
        told["stockade.audit.index"] = call.audit_index
    return told


class SpanSender:
    """Sends spans from a thread of its own.

    Args:
        exporter: where they go. It may block; nobody waits for it but the thread.
        spans_of: what a call becomes.
        on_dropped: called from the thread, at most once a wake-up, with how many spans were lost since the last time.
    """

    def __init__(self, exporter: SpanExporter, spans_of: SpansOf, on_dropped: Callable[[int], None]) -> None:
        self._exporter = exporter
        self._spans_of = spans_of
        self._on_dropped = on_dropped
        self._waiting: deque[EndedCall] = deque()
        self._crowded_out = 0  # written by the sender of calls alone, as the two below by the thread alone
        self._failed = 0
        self._told = 0
        self._stopping = Event()
        self._thread = Thread(target=self._run, name="span-sender", daemon=True)
        self._thread.start()

    def send(self, call: EndedCall) -> None:
        """Queue a call. From one thread only: the event loop's."""
        if len(self._waiting) >= QUEUE_CALLS_MAX:
            self._crowded_out += 1 + len(call.stages)
        else:
            self._waiting.append(call)

    def close(self) -> None:
        """Send what is waiting, for FLUSH_S at most; what is left then is dropped. Blocks; send nothing afterwards."""
        self._stopping.set()
        self._thread.join(FLUSH_S)
        self._exporter.shutdown()  # also ends an export that is still waiting for its collector
        self._thread.join(ABANDON_S)

    def _run(self) -> None:
        stopping = False
        while not stopping:
            stopping = self._stopping.wait(EXPORT_EVERY_S)
            self._export(len(self._waiting))

    def _export(self, calls: int) -> None:
        from opentelemetry.sdk.trace.export import SpanExportResult

        for first in range(0, calls, CALLS_PER_EXPORT):
            batch = [self._waiting.popleft() for _ in range(min(CALLS_PER_EXPORT, calls - first))]
            spans = [span for call in batch for span in self._spans_of(call)]
            try:
                taken = self._exporter.export(spans) is SpanExportResult.SUCCESS
            except Exception:  # noqa: BLE001  whatever it is, the spans are lost and nothing else
                taken = False
            if not taken:
                self._failed += len(spans)
        lost = self._crowded_out + self._failed - self._told
        if lost:
            self._told += lost
            self._on_dropped(lost)
