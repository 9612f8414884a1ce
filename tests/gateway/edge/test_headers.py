"""What counts of a call's metadata, and that nothing else does."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.edge.headers import ENTRY_BYTES, TWICE, read_headers
from gateway.edge.stream import stream_shape

KNOWN = {
    "authorization",
    "x-api-key",
    "traceparent",
    "x-stockade-proof",
    "x-stockade-stream-format",
    "triton_grpc_error",
}
TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


def read(*metadata):
    return read_headers(metadata)[0]


def test_credentials_come_from_two_headers():
    headers = read(("authorization", "Bearer a.b"), ("x-api-key", "c.d"))
    assert (headers.presented().authorization, headers.presented().api_key) == ("Bearer a.b", "c.d")
    assert headers.presented(("spiffe://a/b",)).spiffe == ("spiffe://a/b",)


@pytest.mark.parametrize("name", ["authorization", "x-api-key"])
def test_a_credential_that_is_sent_twice_is_none_of_ours(name):
    headers = read((name, "plenty.secret"), (name, "plenty.secret"))
    assert TWICE in (headers.authorization, headers.api_key)


@given(st.lists(st.tuples(st.text(min_size=1).filter(lambda name: name not in KNOWN), st.text())))
def test_every_other_header_means_nothing(metadata):
    headers, size = read_headers(metadata)
    assert headers == read()
    assert not headers.has_credential()
    assert size == sum(len(name) + len(value) + ENTRY_BYTES for name, value in metadata)


@pytest.mark.parametrize(
    ("metadata", "kind"),
    [
        ((), "none"),
        ((("x-api-key", "a.b"),), "api_key"),
        ((("authorization", "Bearer a.b"),), "api_key"),
        ((("authorization", "Bearer a.b.c"),), "jwt"),
        ((("authorization", "Basic YTpi"),), "api_key"),
    ],
)
def test_the_kind_of_a_credential_goes_by_its_looks(metadata, kind):
    assert read(*metadata).credential_kind() == kind


def test_a_traceparent_gives_a_trace():
    assert read(("traceparent", f"00-{TRACE}-{SPAN}-01")).parent.trace_id == TRACE


@pytest.mark.parametrize(
    "value",
    [
        "",
        f"01-{TRACE}-{SPAN}-01",
        f"00-{'0' * 32}-{SPAN}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE.upper()}-{SPAN}-01",
        f"00-{TRACE[1:]}-{SPAN}-01",
        f"00-{TRACE}-{SPAN}-01-more",
        f"00-{TRACE}-{SPAN}-0",
    ],
)
def test_a_malformed_traceparent_gives_none(value):
    assert read(("traceparent", value)).parent is None


def test_a_proof_of_work_is_taken_as_it_is():
    assert read().proof == ""
    assert read(("x-stockade-proof", "1.2.3")).proof == "1.2.3"


def test_the_shape_of_a_stream_is_asked_for_in_metadata():
    triton = stream_shape(None, triton_grpc_error=False)
    assert read().stream == triton
    assert read(("triton_grpc_error", "false")).stream == triton
    assert read(("triton_grpc_error", "true")).stream == stream_shape(None, triton_grpc_error=True)
    assert read(("x-stockade-stream-format", "mlserver")).stream == stream_shape("mlserver", triton_grpc_error=False)
