"""What an account sees over gRPC: answers in order, why a row was refused, and a gateway that is not there."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import grpc
import numpy as np
import pytest

from defenses.lab.attack import Reason, Refused
from gateway.tools.lab import oracle as oracle_module
from gateway.tools.lab.oracle import METHOD, GatewayGone, GrpcOracle
from stockade.open_inference import grpc_service_pb2 as pb


class Service:
    """Answers a row by the word that its first number is a place in; keeps what it was sent."""

    def __init__(self, words) -> None:
        self.words, self.seen = words, []

    def infer(self, request, context):
        row = np.frombuffer(request.raw_input_contents[0], np.float32)
        told = dict(context.invocation_metadata())
        self.seen.append((row, told))
        word = self.words[int(row[0])]
        if callable(word):
            word = word(told)
        if isinstance(word, tuple):
            code, details = word
            context.abort(code, details)
        context.set_trailing_metadata((("x-stockade-verdict", word),))
        reply = pb.ModelInferResponse()
        reply.outputs.add(name="other")
        reply.outputs.add(name="probabilities")
        reply.raw_output_contents.extend([b"", np.array([row[1], 1 - row[1]], np.float32).tobytes()])
        return reply


@pytest.fixture
def asked(monkeypatch):
    """Return a function from words to an oracle over a server that says them."""
    monkeypatch.setattr(oracle_module, "PAUSE_S", 0.0)
    open_things = []

    def start(*words):
        service = Service(words)
        handler = grpc.unary_unary_rpc_method_handler(
            service.infer, pb.ModelInferRequest.FromString, pb.ModelInferResponse.SerializeToString
        )
        server = grpc.server(ThreadPoolExecutor(4))
        _, service_name, method = METHOD.split("/")
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service_name, {method: handler}),))
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        channel = grpc.insecure_channel(f"127.0.0.1:{port}")
        open_things.append((server, channel))
        made = GrpcOracle(channel, ["one", "two"], model="kiosk", version="2", tensor="image", classes=2)
        return SimpleNamespace(oracle=made, service=service)

    yield start
    for server, channel in open_things:
        channel.close()
        server.stop(None).wait()


def rows(*numbers):
    return np.array(numbers, np.float32)


def test_many_rows_come_back_in_order(asked):
    there = asked("allow")
    shares = np.linspace(0, 1, 300, dtype=np.float32)
    answers = there.oracle.ask(np.stack([np.zeros(300, np.float32), shares], 1), account=1)
    np.testing.assert_array_equal(answers.probabilities[:, 0], shares)
    assert answers.labels.tolist() == [int(share < 0.5) for share in shares]
    assert answers.acted is not None
    assert not answers.acted.any()
    assert {told["authorization"] for _, told in there.service.seen} == {"Bearer two"}


@pytest.mark.parametrize("verdict", ["flag", "harden", "neighbour", "top1"])
def test_what_was_done_is_told(asked, verdict):
    answers = asked("allow", verdict).oracle.ask(rows([0, 1], [1, 1]))
    assert answers.acted is not None
    assert answers.acted.tolist() == [False, True]
    assert answers.answered.all()


@pytest.mark.parametrize(
    ("code", "details", "reason"),
    [
        (grpc.StatusCode.PERMISSION_DENIED, "[INPUT_REJECTED] The input was not accepted.", Reason.REFUSED),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, "[RATE_LIMITED] ...", Reason.RATE_LIMITED),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, "[PROOF_OF_WORK_WANTED] ...", Reason.PROOF_OF_WORK),
        (grpc.StatusCode.INVALID_ARGUMENT, "[TENSOR_INVALID] ...", Reason.INVALID),
    ],
)
def test_why_a_row_is_refused(asked, code, details, reason):
    there = asked("allow", (code, details))
    with pytest.raises(Refused) as refused:
        there.oracle.ask(rows([1, 0]))
    assert refused.value.reason is reason
    answers = there.oracle.ask(rows([1, 0], [0, 1]))
    assert answers.answered.tolist() == [False, True]
    assert answers.labels.tolist() == [-1, 0]
    assert np.isnan(answers.probabilities[0]).all()


def test_a_gateway_that_is_away_for_a_moment_is_asked_again(asked):
    tries = []
    away = (grpc.StatusCode.UNAVAILABLE, "[DRAINING] ...")
    there = asked(lambda told: tries.append(1) or ("allow" if len(tries) > 2 else away))
    assert there.oracle.ask(rows([0, 1])).answered.all()


@pytest.mark.parametrize(
    "code", [grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.INTERNAL, grpc.StatusCode.UNAUTHENTICATED]
)
def test_a_gateway_that_is_gone_is_no_defense(asked, code):
    with pytest.raises(GatewayGone, match=code.name):
        asked((code, "[WHATEVER] ...")).oracle.ask(rows([0, 1]))


def test_bounds(asked):
    there = asked("allow")
    with pytest.raises(ValueError, match="0 rows"):
        there.oracle.ask(np.empty((0, 2), np.float32))
    with pytest.raises(IndexError):
        there.oracle.ask(rows([0, 1]), account=2)
