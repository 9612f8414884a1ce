"""The engine whose model runs on other servers: what it sends, what it believes, and what it does when they fail."""

from __future__ import annotations

import contextlib
import datetime as dt
import os
import socket
import threading
from concurrent.futures import ThreadPoolExecutor

import grpc
import numpy as np
import onnx.utils
import pytest

from gateway.config.engine import OipModel, OipTls
from gateway.models.upstream import UpstreamEngine
from gateway.tools.init.pki import new_authority
from serving.engines.inprocess import InProcessEngine
from serving.errors import BackendFailed, BackendTimedOut, BackendUnavailable, GraphRejected
from tests.gateway.oip_server import OipServer, inputs_of, refuses, reply_of, settings, until
from tests.serving.tiny import CLASSES, remote_bundle, tiny_bundle, tiny_graph

SECRET = "the secret is 0.25"


def model(inputs):
    rows = len(inputs["image"])
    means = inputs["image"].reshape(rows, -1).mean(axis=1, dtype=np.float32)
    return {"probabilities": np.repeat(means[:, None], CLASSES, axis=1)}


def images(*values):
    return {"image": np.stack([np.full((28, 28), value, np.float32) for value in values])}


@pytest.fixture
def server():
    made = OipServer(model)
    yield made
    made.stop()


@pytest.fixture
def second():
    made = OipServer(model)
    yield made
    made.stop()


@pytest.fixture
def engine_on():
    with contextlib.ExitStack() as stack:

        def make(*servers, bundle=None, **more):
            addresses = [each if isinstance(each, str) else each.address for each in servers]
            engine = UpstreamEngine(bundle or remote_bundle(), settings(*addresses, **more))
            stack.callback(engine.close)
            return engine

        yield make


def closed_port():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{taken.getsockname()[1]}"


def test_sends_names_and_rows_and_nothing_of_whoever_asked(server, engine_on):
    outputs = engine_on(server).infer(images(0.25, 0.5))
    np.testing.assert_array_equal(outputs["probabilities"], [[0.25] * 3, [0.5] * 3])
    (request,) = server.seen
    assert (request.model_name, request.model_version, request.id) == ("tiny-there", "3", "")
    assert not request.parameters
    assert [(tensor.name, tensor.datatype, [*tensor.shape]) for tensor in request.inputs] == [
        ("image", "FP32", [2, 28, 28])
    ]
    assert [output.name for output in request.outputs] == ["probabilities"]
    assert server.metadata[0].keys() == {"user-agent"}


def test_the_configuration_has_the_last_word_on_what_the_model_is_called(server, engine_on):
    engine_on(server, models={"tiny": OipModel(name="other", version="")}).infer(images(0.5))
    assert (server.seen[0].model_name, server.seen[0].model_version) == ("other", "")


def test_a_bundle_that_names_no_other_model_is_called_as_it_is_here(server, engine_on):
    engine_on(server, bundle=remote_bundle(upstream={"name": "tiny"})).infer(images(0.5))
    assert (server.seen[0].model_name, server.seen[0].model_version) == ("tiny", "")


@pytest.mark.parametrize(("rows", "calls"), [(4, [4]), (5, [4, 1]), (9, [4, 4, 1])])
def test_a_batch_becomes_as_many_calls_as_the_server_wants(server, engine_on, rows, calls):
    values = [row / 16 for row in range(rows)]
    outputs = engine_on(server, rows_max=4).infer(images(*values))
    np.testing.assert_array_equal(outputs["probabilities"][:, 0], values)
    assert [request.inputs[0].shape[0] for request in server.seen] == calls


def test_servers_take_turns(server, second, engine_on):
    engine = engine_on(server, second)
    for _ in range(4):
        engine.infer(images(0.5))
    assert (len(server.seen), len(second.seen)) == (2, 2)


@pytest.mark.parametrize("code", [grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED])
def test_what_nobody_answered_is_asked_once_more(server, engine_on, code):
    engine = engine_on(server)
    server.replies = [refuses(code)]
    assert engine.infer(images(0.5))["probabilities"][0, 0] == 0.5
    assert len(server.seen) == 2


@pytest.mark.parametrize(("retries", "asked"), [(0, 1), (1, 2), (3, 4)])
def test_then_it_is_unavailable(server, engine_on, retries, asked):
    engine = engine_on(server, retries=retries)
    server.replies = [refuses(grpc.StatusCode.UNAVAILABLE)] * 9
    with pytest.raises(BackendUnavailable) as gone:
        engine.infer(images(0.5))
    assert len(server.seen) == asked
    assert gone.value.remark == f"no server took the request, asked {asked} times"
    assert SECRET not in str(gone.value)


def test_a_server_that_is_not_there_is_passed_over(server, engine_on):
    engine = engine_on(closed_port(), server)
    for _ in range(4):
        engine.infer(images(0.5))
    assert len(server.seen) == 4


def test_nobody_there(engine_on):
    engine = engine_on(closed_port(), closed_port())
    with pytest.raises(BackendUnavailable):
        engine.infer(images(0.5))
    until(lambda: not engine.ready())


@pytest.mark.parametrize("code", ["INVALID_ARGUMENT", "RESOURCE_EXHAUSTED", "INTERNAL", "NOT_FOUND", "UNAUTHENTICATED"])
def test_a_refusal_is_asked_once_and_quoted_by_its_code_alone(server, engine_on, code):
    engine = engine_on(server)
    server.replies = [refuses(grpc.StatusCode[code], SECRET)]
    with pytest.raises(BackendFailed) as failed:
        engine.infer(images(0.5))
    assert len(server.seen) == 1
    assert failed.value.remark == f"a server said {code}"
    assert SECRET not in str(failed.value)


def test_a_silent_server_is_waited_for_until_the_timeout_and_asked_once(server, engine_on):
    engine = engine_on(server, call_timeout="1s")

    def hang(request, context):
        server.gone.wait(30)
        return b""

    server.replies = [hang]
    with pytest.raises(BackendTimedOut) as late:
        engine.infer(images(0.5))
    assert late.value.timeout_ms == 1000
    assert len(server.seen) == 1
    assert engine.infer(images(0.5))["probabilities"][0, 0] == 0.5


def test_a_batch_that_goes_in_parts_has_one_timeout_for_all(server, engine_on):
    engine = engine_on(server, call_timeout="1s", rows_max=1)

    def slow(request, _context):
        server.gone.wait(0.4)
        return reply_of(request, model(inputs_of(request))).SerializeToString()

    server.replies = [slow] * 12
    with pytest.raises(BackendTimedOut):
        engine.infer(images(*[0.5] * 12))
    assert len(server.seen) < 12


class Cut:
    """A wire to a server that can be cut: a process that is killed looks like this from outside."""

    def __init__(self, address):
        self._host, _, self._port = address.rpartition(":")
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self._ends = []
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        with contextlib.suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                far = socket.create_connection((self._host, int(self._port)))
                self._ends += [near, far]
                for one, other in ((near, far), (far, near)):
                    threading.Thread(target=self._copy, args=(one, other), daemon=True).start()

    def _copy(self, one, other):
        with contextlib.suppress(OSError):
            while data := one.recv(65_536):
                other.sendall(data)

    def cut(self):
        with contextlib.suppress(OSError):  # a thread is in accept
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for end in self._ends:
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()


def test_a_server_that_dies_during_a_call(server, second, engine_on):
    wire = Cut(server.address)
    engine = engine_on(wire.address, second)
    entered = threading.Event()

    def die(request, context):
        entered.set()
        server.gone.wait(30)
        return b""

    server.replies = [die] * 2
    with ThreadPoolExecutor(1) as pool:
        while not entered.is_set():  # whose turn it is, is its own business
            answer = pool.submit(engine.infer, images(0.5))
            until(lambda call=answer: entered.is_set() or call.done())
        wire.cut()
        assert answer.result(30)["probabilities"][0, 0] == 0.5  # by the second one
    alone = engine_on(wire.address)
    with pytest.raises(BackendUnavailable):
        alone.infer(images(0.5))


def test_one_of_two_servers_goes_down_under_load_and_nobody_notices(server, second, engine_on):
    engine = engine_on(server, second)

    def ask(number):
        if number == 100:
            server.stop()
        return float(engine.infer(images(number / 512))["probabilities"][0, 0])

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(ask, range(400)))
    assert answers == [number / 512 for number in range(400)]
    assert len(server.seen) > 10
    assert len(second.seen) > 250


def changed(change):
    """A reply that is right but for one thing."""

    def reply(request, context):
        good = reply_of(request, model(inputs_of(request)))
        change(good)
        return good.SerializeToString()

    return reply


def clear_outputs(reply):
    del reply.outputs[:]
    del reply.raw_output_contents[:]


def replace_raw(raw):
    def change(reply):
        reply.raw_output_contents[0] = raw

    return change


def set_shape(*shape):
    def change(reply):
        reply.outputs[0].shape[:] = shape

    return change


def values(*numbers):
    return np.array(numbers, np.float32).tobytes()


MISFITS = {
    "no output": (clear_outputs, "outputs[probabilities] is missing"),
    "another name": (lambda reply: setattr(reply.outputs[0], "name", "odds"), "outputs[probabilities] is missing"),
    "a name twice": (
        lambda reply: (reply.outputs.append(reply.outputs[0]), reply.raw_output_contents.append(values(0, 0, 0))),
        "outputs[1].name stands here for the second time",
    ),
    "another datatype": (lambda reply: setattr(reply.outputs[0], "datatype", "FP64"), "datatype is not the declared"),
    "a row less": (set_shape(1, 3), "shape is not the number of rows"),
    "a row more": (set_shape(3, 3), "shape is not the number of rows"),
    "a column less": (set_shape(2, 2), "shape is not the number of rows"),
    "no rows": (set_shape(3), "shape is not the number of rows"),
    "negative": (set_shape(-2, -3), "shape is not the number of rows"),
    "too few bytes": (replace_raw(values(0, 0, 0, 0, 0)), "has a length that does not agree"),
    "too many bytes": (replace_raw(values(*[0] * 7)), "has a length that does not agree"),
    "a NaN": (replace_raw(values(0, 0, 0, 0, 0, np.nan)), "holds a NaN or an infinity"),
    "an infinity": (replace_raw(values(-np.inf, 0, 0, 0, 0, 0)), "holds a NaN or an infinity"),
    "raw contents too many": (lambda reply: reply.raw_output_contents.append(b""), "one entry per output"),
    "another model": (lambda reply: setattr(reply, "model_name", "foreign"), "model_name is not the one"),
    "another version": (lambda reply: setattr(reply, "model_version", "4"), "model_version is not the one"),
}


@pytest.mark.parametrize(("change", "said"), MISFITS.values(), ids=MISFITS)
def test_a_reply_that_does_not_fit_the_manifest_is_not_believed(server, engine_on, change, said):
    engine = engine_on(server)
    server.replies = [changed(change)]
    with pytest.raises(BackendFailed) as failed:
        engine.infer(images(0.25, 0.5))
    assert said in failed.value.remark
    assert len(server.seen) == 1
    assert engine.infer(images(0.5))["probabilities"][0, 0] == 0.5


def test_a_declared_range_holds_for_answers_too(server, engine_on):
    outputs = [{"name": "probabilities", "datatype": "FP32", "shape": [-1, CLASSES], "low": 0.0, "high": 1.0}]
    engine = engine_on(server, bundle=remote_bundle(outputs=outputs))
    server.replies = [changed(replace_raw(values(0, 0, 1))), changed(replace_raw(values(0, 0, 1.01)))]
    assert engine.infer(images(0.5))["probabilities"].max() == 1
    with pytest.raises(BackendFailed, match="above the declared range"):
        engine.infer(images(0.5))


@pytest.mark.parametrize("body", [b"\xff", b"\x0a\x05ab", b"\x00"], ids=["tag", "cut", "zero"])
def test_what_is_no_message(server, engine_on, body):
    engine = engine_on(server)
    server.replies = [lambda request, context: body]
    with pytest.raises(BackendFailed, match="not a message"):
        engine.infer(images(0.5))


def test_a_reply_of_many_empty_tensors_is_refused_before_it_is_read(server, engine_on):
    engine = engine_on(server)
    server.replies = [lambda request, context: b"\x2a\x00" * 40_000]  # two bytes each, of eighty in memory
    with pytest.raises(BackendFailed, match="within the limits"):
        engine.infer(images(0.5))


def test_a_reply_at_the_limit_and_one_byte_past_it(server, engine_on):
    engine = engine_on(server, reply_max="4KiB")

    def padded(size):
        def change(reply):
            reply.id = "x" * (size - reply.ByteSize() - 3)
            assert reply.ByteSize() == size

        return changed(change)

    server.replies = [padded(4096), padded(4097)]
    assert engine.infer(images(0.5))["probabilities"][0, 0] == 0.5
    with pytest.raises(BackendFailed) as failed:
        engine.infer(images(0.5))
    assert failed.value.remark == "a server said RESOURCE_EXHAUSTED"


def test_more_outputs_than_asked_for_are_passed_over(server, engine_on):
    engine = engine_on(server)
    server.replies = [
        lambda request, context: reply_of(
            request, {"more": np.full((1, 2), np.nan, np.float32), **model(inputs_of(request))}
        ).SerializeToString()
    ]
    assert engine.infer(images(0.5)).keys() == {"probabilities"}


def test_typed_contents_are_read_too(engine_on):
    server = OipServer(model, typed=True)
    try:
        outputs = engine_on(server).infer(images(0.25, 0.5))
    finally:
        server.stop()
    np.testing.assert_array_equal(outputs["probabilities"], [[0.25] * 3, [0.5] * 3])


@pytest.mark.parametrize("typed", [False, True], ids=["raw", "typed"])
def test_text_goes_both_ways(engine_on, typed):
    inputs = [{"name": "text", "datatype": "BYTES", "shape": [-1, 2]}]
    outputs = [{"name": "upper", "datatype": "BYTES", "shape": [-1, 2]}]

    def upper(given):
        flat = [part.upper() for part in given["text"].ravel()]
        shouted = np.empty(len(flat), object)
        shouted[:] = flat
        return {"upper": shouted.reshape(given["text"].shape)}

    server = OipServer(upper, typed=typed)
    text = np.array([[b"a", b""], ["ä".encode(), b"bc"], [b"\x00", b"d" * 300]], object)
    try:
        engine = engine_on(server, bundle=remote_bundle(inputs=inputs, outputs=outputs), rows_max=2)
        answer = engine.infer({"text": text})["upper"]
    finally:
        server.stop()
    assert answer.dtype == object
    assert answer.tolist() == [[b"A", b""], ["ä".encode(), b"BC"], [b"\x00", b"D" * 300]]


def encoder():
    return onnx.utils.Extractor(onnx.load_from_string(tiny_graph())).extract_model(["image"], ["latent", "energy"])


def test_what_the_encoder_computes_is_not_asked_of_the_server(server, engine_on):
    whole = tiny_bundle()
    names = ("probabilities", "latent", "energy")
    declared = [dict(zip(("name", "datatype", "shape"), (spec.name, spec.datatype, spec.shape), strict=True))
                for spec in whole.outputs if spec.name in names]  # fmt: skip
    roles = {"prediction": ["probabilities"], "encoder": ["latent", "energy"]}
    bundle = remote_bundle(
        {"encoder.onnx": encoder().SerializeToString()},
        outputs=declared,
        roles=roles,
        graphs={"encoder": "encoder.onnx"},
    )
    given = images(0.25, 0.5, 0.75)
    answer = engine_on(server, bundle=bundle, rows_max=2).infer(given)
    alone = InProcessEngine(whole).infer(given)
    assert tuple(answer) == names
    np.testing.assert_array_equal(answer["probabilities"][:, 0], [0.25, 0.5, 0.75])
    for name in ("latent", "energy"):
        np.testing.assert_allclose(answer[name], alone[name], rtol=0, atol=1e-5)
    assert {output.name for request in server.seen for output in request.outputs} == {"probabilities"}


def test_an_encoder_that_is_not_as_declared_stops_the_start(server):
    declared = [
        {"name": "probabilities", "datatype": "FP32", "shape": [-1, CLASSES]},
        {"name": "latent", "datatype": "FP32", "shape": [-1, 99]},
    ]
    bundle = remote_bundle(
        {"encoder.onnx": encoder().SerializeToString()},
        outputs=declared,
        roles={"encoder": ["latent"]},
        graphs={"encoder": "encoder.onnx"},
    )
    with pytest.raises(GraphRejected, match="latent"):
        UpstreamEngine(bundle, settings(server.address))


def test_a_model_that_runs_elsewhere_does_not_run_here():
    with pytest.raises(GraphRejected, match="runs on another server"):
        InProcessEngine(remote_bundle())


def test_ready_follows_what_the_servers_say(server, second, engine_on, monkeypatch):
    monkeypatch.setattr("gateway.models.dial.PROBE_EVERY_S", 0.01)
    engine = engine_on(server, second)
    assert engine.ready()
    server.ready = False
    asked = second.probes
    until(lambda: second.probes > asked + 2)
    assert engine.ready()
    for _ in range(3):
        engine.infer(images(0.5))
    assert not server.seen, "who is not ready comes last"
    second.ready = False
    until(lambda: not engine.ready())
    assert engine.infer(images(0.5)), "asked all the same"
    server.ready = True
    until(engine.ready)


def test_a_server_that_dies_is_missed_without_a_call(server, engine_on, monkeypatch):
    monkeypatch.setattr("gateway.models.dial.PROBE_EVERY_S", 0.01)
    engine = engine_on(server)
    until(lambda: server.probes)
    assert engine.ready()
    server.stop()
    until(lambda: not engine.ready())


@pytest.mark.parametrize(
    ("answers", "ready"),
    [
        (lambda context: context.abort(grpc.StatusCode.UNIMPLEMENTED, "no such method"), True),
        (lambda context: context.abort(grpc.StatusCode.NOT_FOUND, "no such model"), False),
        (lambda context: context.abort(grpc.StatusCode.UNKNOWN, "what MLServer says of a model it has not"), False),
        (lambda context: b"\xff", False),
    ],
    ids=["no such question", "no such model", "unknown", "garbage"],
)
def test_what_counts_as_ready(engine_on, monkeypatch, answers, ready):
    monkeypatch.setattr("gateway.models.dial.PROBE_EVERY_S", 0.01)

    class Odd(OipServer):
        def _ready(self, body, context):
            self.probes += 1
            return answers(context)

    server = Odd(model)
    try:
        engine = engine_on(server)
        until(lambda: server.probes > 2)
        assert engine.ready() is ready
    finally:
        server.stop()


def test_close_does_not_wait_for_a_silent_probe(engine_on):
    class Silent(OipServer):
        def _ready(self, body, context):
            self.probes += 1
            self.gone.wait(30)
            return b""

    server = Silent(model)
    try:
        engine = engine_on(server)
        until(lambda: server.probes)
        engine.close()
        assert not engine._servers._watcher.is_alive()
    finally:
        server.stop()


def test_a_token_is_sent_and_read_again(server, engine_on, tmp_path, monkeypatch):
    monkeypatch.setattr("gateway.models.dial.PROBE_EVERY_S", 0.01)
    token = tmp_path / "token"
    token.write_text("first\n")
    engine = engine_on(server, token=token)
    engine.infer(images(0.5))
    assert server.metadata[-1]["authorization"] == "Bearer first"
    token.unlink()
    asked = server.probes
    until(lambda: server.probes > asked + 2)
    engine.infer(images(0.5))
    assert server.metadata[-1]["authorization"] == "Bearer first"
    token.write_text("second")

    def renewed():
        engine.infer(images(0.5))
        return server.metadata[-1]["authorization"] == "Bearer second"

    until(renewed)


@pytest.mark.parametrize("text", ["", "two words", "é", "x" * 16_385], ids=["empty", "space", "letter", "long"])
def test_a_file_without_a_token_stops_the_start(server, tmp_path, text):
    token = tmp_path / "token"
    token.write_text(text)
    with pytest.raises(OSError, match="does not hold a bearer token"):
        UpstreamEngine(remote_bundle(), settings(server.address, token=token))


@pytest.fixture(scope="module")
def authority():
    return new_authority("Upstream", dt.datetime.now(dt.UTC).replace(microsecond=0), os.urandom)


def written(directory, **files):
    for name, data in files.items():
        (directory / name).write_bytes(data)
    return {name: directory / name for name in files}


def test_tls_with_a_client_certificate(engine_on, authority, tmp_path):
    own, client = authority.server(["upstream.test"]), authority.client("gateway", "spiffe://test/gateway")
    credentials = grpc.ssl_server_credentials([(own.key, own.certificate)], authority.credential.certificate, True)
    server = OipServer(model, credentials=credentials)
    other = new_authority("Other", dt.datetime.now(dt.UTC).replace(microsecond=0), os.urandom)
    files = written(
        tmp_path,
        ca=authority.credential.certificate,
        certificate=client.certificate,
        key=client.key,
        other=other.credential.certificate,
    )
    shown = {"certificate": files["certificate"], "key": files["key"]}
    try:
        good = OipTls(ca=files["ca"], server_name="upstream.test", **shown)
        assert engine_on(server, tls=good).infer(images(0.5))["probabilities"][0, 0] == 0.5
        for bad in (
            OipTls(ca=files["other"], server_name="upstream.test", **shown),
            OipTls(ca=files["ca"], server_name="elsewhere.test", **shown),
            OipTls(ca=files["ca"], server_name="upstream.test"),
            None,
        ):
            with pytest.raises((BackendUnavailable, BackendTimedOut)):
                engine_on(server, tls=bad, call_timeout="5s").infer(images(0.5))
    finally:
        server.stop()
    assert len(server.seen) == 1


def test_no_proxy_of_the_environment_comes_between(server, engine_on, monkeypatch):
    monkeypatch.setenv("http_proxy", f"http://{closed_port()}")
    assert engine_on(server).infer(images(0.5))["probabilities"][0, 0] == 0.5
