"""A real gateway sends what it did to a real OTLP/gRPC collector: whose child it was, how long it took, no secret."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc
import pytest
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from tests.e2e.caller import INFER, Reply, calling, images, infer_body
from tests.e2e.running import Running, entries_of, serving, until
from tests.e2e.site import Site, copy_site

TRACE, ABOVE = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
PLANTED = "planted-7c1f"
BEFORE_BODY = ["auth", "admit"]
STAGES = [*BEFORE_BODY, "decode", "queue", "infer", "screen", "harden", "audit"]


class Collector(trace_service_pb2_grpc.TraceServiceServicer):
    """Keeps the bytes and the spans of every export, or refuses them."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.raw: list[bytes] = []
        self.spans: list[tuple[dict[str, Any], Span]] = []  # with the attributes of the process they come from
        self.refuses = False

    def Export(self, request, context):  # noqa: N802  the name in the protocol
        if self.refuses:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, "not today")
        with self.lock:
            self.raw.append(request.SerializeToString())
            for group in request.resource_spans:
                process = said(group.resource.attributes)
                self.spans += [(process, span) for scope in group.scope_spans for span in scope.spans]
        return trace_service_pb2.ExportTraceServiceResponse()

    def call(self, request_id: str) -> Span:
        """The one span of a request."""
        found = [span for _, span in self.spans if said(span.attributes).get("stockade.request.id") == request_id]
        assert len(found) == 1, found
        return found[0]

    def children(self, parent: Span) -> list[Span]:
        return [span for _, span in self.spans if span.parent_span_id == parent.span_id]


def said(attributes) -> dict[str, Any]:
    return {one.key: getattr(one.value, one.value.WhichOneof("value")) for one in attributes}


@contextmanager
def collecting() -> Iterator[tuple[Collector, str]]:
    collector = Collector()
    server = grpc.server(ThreadPoolExecutor(2))
    trace_service_pb2_grpc.add_TraceServiceServicer_to_server(collector, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield collector, f"http://127.0.0.1:{port}"
    finally:
        server.stop(None).wait()


@dataclass(slots=True)
class Seen:
    """What was asked of the gateway, and what the collector had when it was over."""

    site: Site
    collector: Collector
    replies: dict[str, Reply] = field(default_factory=dict)
    stream_id: str = ""

    def span(self, name: str) -> Span:
        return self.collector.call(self.replies[name].request_id)


def traceparent(flags: str) -> tuple[str, str]:
    return "traceparent", f"00-{TRACE}-{ABOVE}-{flags}"


def traced_site(made: Site, path, endpoint: str, share: float) -> Site:
    site = copy_site(made, path)
    site.change_config(lambda document: document.update(tracing={"otlp_endpoint": endpoint, "sample": share}))
    return site


@pytest.fixture(scope="module")
def seen(made_site, tmp_path_factory) -> Iterator[Seen]:
    """Everything is asked first and the gateway stopped, which sends what is waiting."""
    with collecting() as (collector, endpoint):
        site = traced_site(made_site, tmp_path_factory.mktemp("sites") / "traced", endpoint, 1.0)
        seen = Seen(site, collector)
        with serving(site) as running:
            ask(running, seen)
        yield seen


def ask(running: Running, seen: Seen) -> None:
    site, replies = seen.site, seen.replies
    key = site.bearer("plenty")
    planted = ("x-planted", PLANTED), ("x-api-key-hint", PLANTED)
    with calling(site, running.facts["data"]) as caller:
        replies["sampled"] = caller.ask(INFER, infer_body(id=PLANTED), metadata=(*key, *planted, traceparent("01")))
        replies["unsampled"] = caller.ask(INFER, infer_body(), metadata=(*key, traceparent("00")))
        replies["alone"] = caller.ask(INFER, infer_body(images()[:2]), metadata=key)
        replies["by token"] = caller.ask(INFER, infer_body(), metadata=(("authorization", f"Bearer {site.token()}"),))
        replies["invalid"] = caller.ask(INFER, infer_body(images()[:1, :27]), metadata=key)
        stranger = ("authorization", f"Bearer {PLANTED}.{PLANTED * 4}")
        replies["stranger"] = caller.ask(INFER, infer_body(), metadata=(stranger, traceparent("00")))
        replies["nowhere"] = caller.ask(f"/{PLANTED}/Method", b"", metadata=key)
        replies["no model"] = caller.ask(INFER, infer_body(model=PLANTED, version=PLANTED), metadata=key)
        stream = caller.stream([infer_body(), infer_body()], metadata=(*key, traceparent("01")))
        assert len(list(stream)) == 2
        seen.stream_id = dict(stream.trailing_metadata())["x-request-id"]


def test_a_request_is_a_span_below_its_callers(seen):
    span, reply = seen.span("sampled"), seen.replies["sampled"]
    assert (span.trace_id.hex(), span.parent_span_id.hex()) == (TRACE, ABOVE)
    assert (span.name, span.kind) == (INFER[1:], Span.SPAN_KIND_SERVER)
    assert said(span.attributes) == {
        "rpc.system.name": "grpc",
        "rpc.method": INFER[1:],
        "rpc.response.status_code": "OK",
        "stockade.request.id": reply.request_id,
        "stockade.outcome": "served",
        "stockade.reason": "OK",
        "stockade.model.name": "kiosk",
        "stockade.model.version": "1",
        "stockade.audit.index": int(reply.trailers["x-stockade-audit-index"]),
    }


def test_its_stages_are_spans_below_it_with_the_times_of_its_record(seen):
    """In the order of a request, none overlapping, each as long as the audit log says it took."""
    span, request_id = seen.span("sampled"), seen.replies["sampled"].request_id
    (entry,) = [entry for entry in entries_of(seen.site) if entry["id"] == request_id]
    stages = seen.collector.children(span)
    assert [stage.name for stage in stages] == STAGES
    assert {stage.trace_id for stage in stages} == {span.trace_id}
    assert {stage.kind for stage in stages} == {Span.SPAN_KIND_INTERNAL}
    took_us = {stage.name: (stage.end_time_unix_nano - stage.start_time_unix_nano) // 1000 for stage in stages}
    recorded = {name: spent for name, spent in entry["timings_us"].items() if name != "total"}
    assert recorded.items() <= took_us.items()
    assert set(took_us) - set(recorded) == {"audit"}  # how long the record took is not in the record
    assert took_us["audit"] > 0
    assert span.start_time_unix_nano == int(entry["time_ns"]) == stages[0].start_time_unix_nano
    times = [time for stage in stages for time in (stage.start_time_unix_nano, stage.end_time_unix_nano)]
    assert times == sorted(times)
    assert times[-1] <= span.end_time_unix_nano


def test_an_unsampled_request_is_no_span(seen):
    assert not [
        span
        for _, span in seen.collector.spans
        if said(span.attributes).get("stockade.request.id") == seen.replies["unsampled"].request_id
    ]
    assert seen.replies["unsampled"].code is grpc.StatusCode.OK


def test_without_a_traceparent_the_request_id_is_the_trace_id(seen):
    span = seen.span("alone")
    assert span.trace_id.hex() == seen.replies["alone"].request_id
    assert span.parent_span_id == b""
    assert [stage.name for stage in seen.collector.children(span)] == STAGES


def test_messages_are_spans_below_the_span_of_their_stream(seen):
    stream = seen.collector.call(seen.stream_id)
    assert (stream.trace_id.hex(), stream.parent_span_id.hex()) == (TRACE, ABOVE)
    below = seen.collector.children(stream)
    messages = [span for span in below if span.attributes]
    assert [span.name for span in below if not span.attributes] == BEFORE_BODY
    assert [message.name for message in messages] == [stream.name] * 2
    assert {message.trace_id for message in messages} == {stream.trace_id}
    for message in messages:
        assert [stage.name for stage in seen.collector.children(message)] == STAGES[2:]


@pytest.mark.parametrize(
    ("name", "outcome", "reason", "stages"),
    [
        ("invalid", "refused", "TENSOR_INVALID", BEFORE_BODY),
        ("no model", "refused", "MODEL_UNKNOWN", BEFORE_BODY),
        ("stranger", "refused", "CREDENTIAL_INVALID", []),
        ("nowhere", "refused", "METHOD_UNIMPLEMENTED", ["auth"]),
    ],
)
def test_a_refusal_says_why_and_how_far_it_came(seen, name, outcome, reason, stages):
    span, reply = seen.span(name), seen.replies[name]
    told = said(span.attributes)
    assert (told["stockade.outcome"], told["stockade.reason"], reply.reason) == (outcome, reason, reason)
    assert told["rpc.response.status_code"] == reply.code.name
    assert "stockade.model.name" not in told or name == "invalid"
    assert [stage.name for stage in seen.collector.children(span)] == stages
    assert (span.status.code == Status.STATUS_CODE_ERROR) is (reply.code is grpc.StatusCode.UNIMPLEMENTED)


def test_the_process_says_who_it_is(seen):
    for process, _ in seen.collector.spans:
        assert process.keys() == {"service.name", "service.version", "service.instance.id"}
        assert process["service.name"] == "stockade"
        assert process["service.instance.id"].endswith("/worker-0")


def test_no_secret_caller_or_payload_reaches_the_collector(seen):
    """The bytes as they came, against all that was sent to the gateway and all that it holds."""
    sent = b"".join(seen.collector.raw)
    secrets = [key.partition(".")[2] for key in seen.site.keys.values()]
    secrets += [seen.site.read(path).hex() for path in ("keys/pepper", "keys/payload-master.key")]
    callers = ["plenty", "token-user", "127.0.0.1", "ipv4:", "eyJ", "authorization", "Bearer"]
    assert [text for text in (*secrets, *callers, PLANTED) if text.encode() in sent] == []
    assert any(pixels := images()[0, 14].tobytes())
    assert pixels not in sent
    assert b"kiosk" in sent  # it is the right haystack


def test_a_collector_that_refuses_costs_spans_and_no_request(made_site, tmp_path):
    with collecting() as (collector, endpoint):
        collector.refuses = True
        site = traced_site(made_site, tmp_path / "refused", endpoint, 1.0)
        with serving(site) as running, calling(site, running.facts["data"], site.bearer("plenty")) as caller:
            assert caller.infer(infer_body()).code is grpc.StatusCode.OK
            until(
                lambda: running.counted("stockade_trace_spans_dropped_total") == 1 + len(STAGES), "nothing was counted"
            )
            assert caller.infer(infer_body()).code is grpc.StatusCode.OK
        lines = running.errors.read_text().splitlines()
        assert [line for line in lines if not line.startswith("{")] == []  # the library writes nothing of its own
        dropped = [event for event in running.events() if event["event"] == "spans-dropped"]
        assert [event["count"] for event in dropped] == [1 + len(STAGES)] * 2  # the second at the drain
