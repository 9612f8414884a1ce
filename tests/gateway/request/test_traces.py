"""Which calls are traced, whose children they are, and when each of their stages was."""

import pytest

from gateway.auth.principal import PUBLIC, Principal
from gateway.config.config import Tracing
from gateway.config.document import ConfigRejected
from gateway.config.load import parse_config
from gateway.edge.headers import read_headers, trace_parent
from gateway.request import traces
from gateway.request.record import Record
from gateway.request.traces import Traces, call_of, require_tracing
from ops.process.tracing import TraceParent

INFER = "/inference.GRPCInferenceService/ModelInfer"
TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
TIME_NS, STARTED_NS = 1_800_000_000_000_000_000, 5_000_000_000
SOMEBODY = Principal("shop", "tenant", "standard", 0, frozenset(), "shop-1", "api_key", None)


class Sent(list):
    """Where calls go, in memory."""

    send = list.append

    def close(self):
        self.closed = True


def record(id_bytes=b"\x11" * 16, *, parent=None, principal=SOMEBODY, right="ModelInfer", **timings_us):
    made = Record(id_bytes, INFER, right, "0" * 64, TIME_NS, STARTED_NS)
    made.principal, made.parent = principal, parent
    made.timings_us = {"total": 1000} | timings_us
    return made


@pytest.mark.parametrize(
    ("header", "parent"),
    [
        (f"00-{TRACE}-{SPAN}-01", TraceParent(TRACE, SPAN, sampled=True)),
        (f"00-{TRACE}-{SPAN}-00", TraceParent(TRACE, SPAN, sampled=False)),
        (f"00-{TRACE}-{SPAN}-ff", TraceParent(TRACE, SPAN, sampled=True)),
        (f"00-{TRACE}-{SPAN}-fe", TraceParent(TRACE, SPAN, sampled=False)),
        (f"00-{'0' * 32}-{SPAN}-01", None),
        (f"00-{TRACE}-{'0' * 16}-01", None),
        (f"01-{TRACE}-{SPAN}-01", None),
        (f"00-{TRACE}-{SPAN}-1", None),
        (f"00-{TRACE}-{SPAN}-01-x", None),
        (f"00-{TRACE.upper()}-{SPAN}-01", None),
        (f"00-{TRACE}-{SPAN}-01\n", None),
        ("", None),
    ],
)
def test_a_traceparent(header, parent):
    assert trace_parent(header) == parent
    assert read_headers([("traceparent", header)])[0].parent == parent


@pytest.mark.parametrize("share", [0.0, 1.0])
@pytest.mark.parametrize("sampled", [True, False])
def test_the_flag_of_a_known_caller_decides(share, sampled):
    sent = Sent()
    Traces(sent, share).ended([record(parent=TraceParent(TRACE, SPAN, sampled))])
    assert len(sent) == sampled


@pytest.mark.parametrize("principal", [None, PUBLIC])
@pytest.mark.parametrize("share", [0.0, 1.0])
@pytest.mark.parametrize("sampled", [True, False])
def test_the_flag_of_a_stranger_decides_nothing(share, sampled, principal):
    sent = Sent()
    Traces(sent, share).ended([record(parent=TraceParent(TRACE, SPAN, sampled), principal=principal)])
    assert len(sent) == share


@pytest.mark.parametrize(
    ("tail", "share", "wanted"),
    [
        ("0000000000000000", 0.0, False),
        ("3fffffffffffffff", 0.25, True),
        ("4000000000000000", 0.25, False),
        ("ffffffffffffffff", 1.0, True),
    ],
)
def test_without_a_traceparent_the_id_decides(tail, share, wanted):
    assert Traces(Sent(), share).wants(record(b"\xff" * 8 + bytes.fromhex(tail))) is wanted


def test_messages_are_sampled_with_their_stream():
    message = record(b"\xff" * 16)
    message.in_stream, message.stream_id = True, bytes(16)
    assert Traces(Sent(), 0.25).wants(message)
    message.stream_id = b"\xff" * 16
    message.id_bytes = bytes(16)
    assert not Traces(Sent(), 0.25).wants(message)


def test_a_call_of_its_own_has_its_request_id_as_trace_id():
    call = call_of(record())
    assert (call.trace_id, call.request_id) == ("11" * 16, "11" * 16)
    assert call.span_id == int("11" * 8, 16)
    assert call.parent_span_id is None


def test_a_call_with_a_traceparent_is_a_child_of_it():
    call = call_of(record(parent=TraceParent(TRACE, SPAN, sampled=True)))
    assert (call.trace_id, call.parent_span_id, call.in_stream) == (TRACE, SPAN, False)


@pytest.mark.parametrize("parent", [None, TraceParent(TRACE, SPAN, sampled=True)])
def test_a_message_is_a_child_of_its_stream(parent):
    stream, message = record(b"\x22" * 16, parent=parent), record(parent=parent)
    message.in_stream, message.stream_id = True, stream.id_bytes
    above, below = call_of(stream), call_of(message)
    assert below.trace_id == above.trace_id == (TRACE if parent else "22" * 16)
    assert (int(below.parent_span_id, 16), below.in_stream) == (above.span_id, True)


def test_stages_begin_at_the_start_and_where_the_body_was_there():
    made = record(auth=10, admit=20, decode=5, queue=6, infer=100, screen=7, harden=8, audit=300)
    made.body_ns = STARTED_NS + 400_000
    call = call_of(made)
    assert (call.start_ns, call.end_ns) == (TIME_NS, TIME_NS + 1_000_000)
    told = [(name, (start - TIME_NS) / 1000, (end - TIME_NS) / 1000) for name, start, end in call.stages]
    assert told == [
        ("auth", 0, 10),
        ("admit", 10, 30),
        ("decode", 400, 405),
        ("queue", 405, 411),
        ("infer", 411, 511),
        ("screen", 511, 518),
        ("harden", 518, 526),
        ("audit", 526, 826),
    ]


def test_no_stage_ends_after_its_call():
    made = record(auth=10, decode=5, audit=990, total=900)
    made.body_ns = STARTED_NS + 400_000
    call = call_of(made)
    assert call.stages[-1][2] == call.end_ns
    assert all(call.start_ns <= start <= end <= call.end_ns for _, start, end in call.stages)


def test_a_refused_call_has_the_stages_it_went_through():
    assert [name for name, *_ in call_of(record(auth=10)).stages] == ["auth"]


def test_every_stage_of_the_metrics_has_a_place():
    from ops.metrics.gateway import STAGES

    assert {*traces.BEFORE_BODY, *traces.AFTER_BODY, "total"} == set(STAGES)


def test_a_method_that_is_not_ours_is_not_named():
    assert call_of(record(right="")).method == ""
    assert call_of(record()).method == INFER[1:]


def test_closing_closes_what_sends():
    sent = Sent()
    Traces(sent, 1.0).close()
    assert sent.closed


def test_a_missing_extra_is_named_at_the_start(tmp_path, monkeypatch):
    from tests.gateway.config.test_config import MINIMAL

    monkeypatch.setattr(traces, "installed", lambda: False)
    config = parse_config(MINIMAL, tmp_path / "stockade.yaml")
    require_tracing(config)
    tracing = Tracing(otlp_endpoint="http://127.0.0.1:4317")
    with pytest.raises(ConfigRejected, match=r"^tracing: needs the extra `otel`; run `pip install 'stockade\[otel\]'`"):
        require_tracing(config.model_copy(update={"tracing": tracing}))
