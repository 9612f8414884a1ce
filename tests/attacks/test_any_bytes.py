"""Whatever bytes come as a message: a known refusal or an answer, each recorded, and the server goes on."""

from __future__ import annotations

import grpc
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.edge.methods import data_methods
from gateway.edge.service import Unary
from tests.e2e.caller import STREAM, calling, infer_body
from tests.e2e.running import until

EXPECTED = {
    "OK",
    "MESSAGE_MALFORMED",
    "TENSOR_INVALID",
    "ARGUMENT_INVALID",
    "MODEL_UNKNOWN",
    "REQUEST_TOO_LARGE",
    "INPUT_REJECTED",
}
UNARY = sorted(path for path, method in data_methods(reflection=True).items() if isinstance(method, Unary))
EXAMPLES = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])

good = infer_body(id="any")


@pytest.fixture(scope="module")
def caller(stand):
    certificate = (stand.site.read("clients/operator.tls.crt"), stand.site.read("clients/operator.tls.key"))
    with calling(stand.site, stand.facts["data_mtls"], certificate=certificate) as found:
        yield found


@EXAMPLES
@given(path=st.sampled_from(UNARY), body=st.binary(max_size=200))
def test_random_bytes_to_every_method(caller, path, body):
    reply = caller.ask(path, body)
    assert reply.reason in EXPECTED, (path, reply)


@EXAMPLES
@given(at=st.integers(0, len(good) - 1), change=st.binary(min_size=1, max_size=8), drop=st.integers(0, 64))
def test_a_good_request_with_a_few_bytes_changed(caller, at, change, drop):
    reply = caller.infer(good[:at] + change + good[at + drop :])
    assert reply.reason in EXPECTED, reply


@EXAMPLES
@given(keep=st.integers(0, len(good)))
def test_a_good_request_cut_short(caller, keep):
    assert caller.infer(good[:keep]).reason in EXPECTED


@pytest.mark.parametrize("depth", [10, 99, 100, 101, 10_000])
def test_messages_inside_messages(caller, depth):
    """Fields of unknown groups and of InferParameter maps nest as deep as the bytes go."""
    nested = b""
    for _ in range(depth):
        nested = b"\x0a" + length(len(nested)) + nested
        if len(nested) > 1_000_000:
            break
    assert caller.infer(b"\x22" + length(len(nested)) + nested).reason in EXPECTED
    assert caller.infer(b"\x9b\x06" * depth + b"\x9c\x06" * depth).reason in EXPECTED


def length(value: int) -> bytes:
    out = b""
    while value >= 128:
        out += bytes([value % 128 + 128])
        value //= 128
    return out + bytes([value])


@settings(EXAMPLES, max_examples=25)
@given(bodies=st.lists(st.one_of(st.just(good), st.binary(max_size=60)), max_size=12))
def test_random_bytes_in_a_stream(caller, bodies):
    replies = list(caller.stream(bodies, method=STREAM))
    assert len(replies) == len(bodies)


def test_afterwards_everything_has_a_record_and_nothing_failed_inside(stand, caller):
    last = caller.infer(good)
    assert last.code is grpc.StatusCode.OK
    until(lambda: last.request_id in {entry["id"] for entry in stand.entries()}, "not published")
    reasons = {entry.get("reason") for entry in stand.entries()}
    assert "MODEL_ERROR" not in reasons
    assert [event for event in stand.events() if event["event"] == "request-failed"] == []
