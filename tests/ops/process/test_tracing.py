"""Spans of ended calls: what they say, when they are lost, and that nobody waits for them."""

import json
import logging
import subprocess
import sys
import threading
from dataclasses import fields, replace

import pytest
from opentelemetry.sdk.trace.export import SpanExportResult
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from ops.process import tracing
from ops.process.tracing import EndedCall, SpanSender, otlp_exporter, span_factory

TRACE = "0af7651916cd43dd8448eb211c80319c"
ABOVE = "b7ad6b7169203331"
CALL = EndedCall(
    trace_id=TRACE,
    span_id=0x1000,
    parent_span_id=ABOVE,
    in_stream=False,
    method="inference.GRPCInferenceService/ModelInfer",
    start_ns=1_000_000,
    end_ns=9_000_000,
    stages=[("auth", 1_000_000, 2_000_000), ("decode", 4_000_000, 5_000_000)],
    request_id="ab" * 16,
    status="OK",
    outcome="served",
    reason="OK",
    model="kiosk",
    version="1",
    audit_index=7,
)
SPANS_PER_CALL = 1 + len(CALL.stages)
spans_of = span_factory({"service.name": "stockade"})


def test_a_call_is_one_span_with_a_child_for_each_stage():
    whole, *stages = spans_of(CALL)
    assert whole.name == "inference.GRPCInferenceService/ModelInfer"
    assert whole.kind is SpanKind.SERVER
    assert (whole.start_time, whole.end_time) == (1_000_000, 9_000_000)
    assert (whole.context.trace_id, whole.context.span_id) == (int(TRACE, 16), 0x1000)
    assert (whole.parent.span_id, whole.parent.is_remote) == (int(ABOVE, 16), True)
    assert [(stage.name, stage.start_time, stage.end_time) for stage in stages] == CALL.stages
    assert {stage.parent.span_id for stage in stages} == {0x1000}
    assert {stage.context.trace_id for stage in stages} == {int(TRACE, 16)}
    assert len({span.context.span_id for span in (whole, *stages)}) == SPANS_PER_CALL
    assert all(span.context.trace_flags.sampled and span.context.is_valid for span in (whole, *stages))
    assert {span.resource.attributes["service.name"] for span in (whole, *stages)} == {"stockade"}


def test_a_span_says_this_and_no_more():
    whole, *stages = spans_of(CALL)
    assert whole.attributes == {
        "rpc.system.name": "grpc",
        "rpc.method": "inference.GRPCInferenceService/ModelInfer",
        "rpc.response.status_code": "OK",
        "stockade.request.id": "ab" * 16,
        "stockade.outcome": "served",
        "stockade.reason": "OK",
        "stockade.model.name": "kiosk",
        "stockade.model.version": "1",
        "stockade.audit.index": 7,
    }
    assert [dict(stage.attributes) for stage in stages] == [{}, {}]


def test_a_call_has_no_field_for_what_must_not_leave():
    names = {field.name for field in fields(EndedCall)}
    assert not names & {"peer", "principal", "tenant", "credential", "body", "headers", "client_id"}


def test_a_call_that_got_nowhere_names_no_method_model_or_index():
    (whole,) = spans_of(
        replace(CALL, method="", stages=[], model="", version="", audit_index=None, parent_span_id=None)
    )
    assert whole.name == whole.attributes["rpc.method"] == "_OTHER"
    assert whole.parent is None
    assert not {name for name in whole.attributes if "model" in name or "audit" in name}


def test_a_message_of_a_stream_is_inside_our_own_span():
    whole = spans_of(replace(CALL, in_stream=True))[0]
    assert whole.kind is SpanKind.INTERNAL
    assert whole.parent.is_remote is False


@pytest.mark.parametrize(
    ("status", "is_error"),
    [
        ("OK", False),
        ("INVALID_ARGUMENT", False),
        ("UNAVAILABLE", True),
        ("INTERNAL", True),
    ],
)
def test_a_span_is_an_error_when_the_server_is_to_blame(status, is_error):
    whole = spans_of(replace(CALL, status=status))[0]
    assert (whole.status.status_code is StatusCode.ERROR) is is_error
    assert whole.attributes.get("error.type") == (status if is_error else None)


class Collector(InMemorySpanExporter):
    """In memory; `answer` says what becomes of an export, and `open` holds it up until it is set."""

    def __init__(self, answer=lambda: SpanExportResult.SUCCESS):
        super().__init__()
        self.answer = answer
        self.entered = threading.Event()
        self.open = threading.Event()
        self.open.set()

    def export(self, spans):
        self.entered.set()
        self.open.wait()
        super().export(spans)
        return self.answer()

    def shutdown(self):
        self.open.set()
        super().shutdown()


@pytest.fixture
def lost():
    return []


@pytest.fixture
def sender_to(lost):
    """Senders that wake up only when told to stop, so that a test decides when they send."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tracing, "EXPORT_EVERY_S", 3600.0)
        yield lambda collector: SpanSender(collector, spans_of, lost.append)


def test_what_is_waiting_is_sent_at_the_end(sender_to, lost):
    collector = Collector()
    sender = sender_to(collector)
    for number in range(tracing.CALLS_PER_EXPORT + 1):
        sender.send(replace(CALL, audit_index=number))
    sender.close()
    sent = [span.attributes["stockade.audit.index"] for span in collector.get_finished_spans() if span.attributes]
    assert sent == list(range(tracing.CALLS_PER_EXPORT + 1))
    assert lost == []


def test_it_sends_without_being_told(monkeypatch, lost):
    monkeypatch.setattr(tracing, "EXPORT_EVERY_S", 0.001)
    collector = Collector()
    sender = SpanSender(collector, spans_of, lost.append)
    sender.send(CALL)
    assert collector.entered.wait(60)
    sender.close()
    assert len(collector.get_finished_spans()) == SPANS_PER_CALL


def test_the_queue_is_bounded_at_its_limit_and_one_past(sender_to, lost):
    collector = Collector()
    sender = sender_to(collector)
    for _ in range(tracing.QUEUE_CALLS_MAX):
        sender.send(CALL)
    sender.send(CALL)
    sender.close()
    assert len(collector.get_finished_spans()) == tracing.QUEUE_CALLS_MAX * SPANS_PER_CALL
    assert lost == [SPANS_PER_CALL]


def raises():
    raise ConnectionError


@pytest.mark.parametrize("answer", [lambda: SpanExportResult.FAILURE, raises])
def test_what_the_collector_does_not_take_is_counted(sender_to, lost, answer):
    sender = sender_to(Collector(answer))
    sender.send(CALL)
    sender.close()
    assert lost == [SPANS_PER_CALL]


def test_a_collector_that_hangs_holds_up_nobody(monkeypatch, lost):
    """Calls are taken while an export hangs, and closing ends it."""
    monkeypatch.setattr(tracing, "EXPORT_EVERY_S", 0.001)
    monkeypatch.setattr(tracing, "FLUSH_S", 0.01)
    collector = Collector(lambda: SpanExportResult.FAILURE)
    collector.open.clear()
    sender = SpanSender(collector, spans_of, lost.append)
    sender.send(CALL)
    assert collector.entered.wait(60)
    for _ in range(tracing.QUEUE_CALLS_MAX + 1):
        sender.send(CALL)
    sender.close()
    assert sum(lost) == (tracing.QUEUE_CALLS_MAX + 2) * SPANS_PER_CALL


def test_a_collector_that_is_not_there_costs_spans_and_nothing_else(sender_to, lost, capfd, monkeypatch):
    monkeypatch.setattr(tracing, "FLUSH_S", 0.5)
    sender = sender_to(otlp_exporter("http://127.0.0.1:1"))
    sender.send(CALL)
    sender.close()
    assert lost == [SPANS_PER_CALL]
    assert capfd.readouterr() == ("", "")  # the library's own complaints would break the structured log
    assert logging.getLogger("opentelemetry").propagate is False


def test_nothing_is_imported_before_tracing_is_opened():
    program = "import json, sys, gateway.host.worker, gateway.host.serve; print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    modules = json.loads(done.stdout)
    assert "ops.process.tracing" in modules
    assert [name for name in modules if name.startswith("opentelemetry")] == []


def test_a_missing_extra_is_found_without_raising(monkeypatch):
    assert tracing.installed()
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.grpc.trace_exporter", None)
    assert not tracing.installed()
