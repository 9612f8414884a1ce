"""A gateway in front of a real MLServer and a real Triton, from `stockade models adopt` to a log that verifies.

The servers are those that the benchmarks compare with (`make bench-peers`), each in an environment of its own. Each
runs the kiosk and answers with the probabilities alone; the encoder, and so the screen, run in the gateway.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import grpc
import numpy as np
import pytest

from gateway.cli.main import main
from gateway.tools.bench import peers
from gateway.tools.bench.runner import Launch
from gateway.tools.bench.runner import Running as Peer
from gateway.tools.bench.runner import running as peer_running
from gateway.tools.bench.targets import TARGETS, Place
from gateway.tools.samples import bundles_directory
from serving.bundles.bundle import load_bundle
from serving.engines.inprocess import InProcessEngine
from stockade.open_inference import grpc_service_pb2 as pb
from tests.e2e.caller import Caller, calling, images, infer_body, labels
from tests.e2e.running import Running, entries_of, serving, until, verified
from tests.e2e.site import Site, copy_site

READY = "/inference.GRPCInferenceService/ModelReady"
BY_HAND = ("--input", "image:FP32:-1,28,28", "--output", "probabilities:FP32:-1,10", "--version", "1")
ADVICE = {"mlserver": BY_HAND, "triton": ()}  # MLServer says of its models what their settings say: here nothing
ROWS_MAX = {"mlserver": 0, "triton": 64}
CALL_TIMEOUT_S = 3
PATIENCE_S = 60.0


@dataclass(slots=True)
class Server:
    """A server of its own, which can be started again on the same port."""

    launch: Launch
    held: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)
    peer: Peer | None = None

    def start(self) -> None:
        self.held.close()
        self.peer = self.held.enter_context(peer_running(self.launch, infer_body()))

    def pids(self) -> set[int]:
        assert self.peer is not None
        return {*self.peer.tree.living()}

    def signal(self, number: int) -> None:
        """To it and all it started."""
        for pid in self.pids():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)


@dataclass(slots=True)
class Front:
    """A gateway in front of a server, and what it said to whom."""

    site: Site
    gateway: Running
    caller: Caller
    server: Server
    told: list[tuple[str, str]] = field(default_factory=list)

    def ask(self, body: bytes, **more):
        reply = self.caller.infer(body, **more)
        if "x-request-id" in reply.trailers:
            self.told.append((reply.request_id, reply.reason))
        return reply

    def ready(self) -> bool:
        asked = pb.ModelReadyRequest(name="kiosk").SerializeToString()
        return pb.ModelReadyResponse.FromString(self.caller.ask(READY, asked).body).ready


@pytest.fixture(scope="module", params=["mlserver", "triton"])
def name(request):
    if problem := peers.missing(peers.default_root(), request.param):
        pytest.skip(problem)
    return request.param


@pytest.fixture(scope="module")
def front(name, made_site, tmp_path_factory):
    directory = tmp_path_factory.mktemp(name)
    site = copy_site(made_site, directory / "site")
    for bundle in ("kiosk", "tiny"):
        shutil.rmtree(site.directory / "bundles" / bundle)
    place = Place(directory / "peer", bundles_directory(), peers.default_root(), None)
    with contextlib.ExitStack() as stack:
        server = Server(TARGETS[name].launch(place))
        stack.callback(server.held.close)
        server.start()
        address = f"127.0.0.1:{server.launch.endpoint.port}"
        adopt(site, address, *ADVICE[name])
        site.change_config(lambda document: put_before(document, address))
        site.change_policy(without_tiny)
        gateway = stack.enter_context(serving(site))
        caller = stack.enter_context(calling(site, gateway.facts["data"], site.bearer("plenty")))
        yield Front(site, gateway, caller, server)


def adopt(site, address, *more):
    kiosk = bundles_directory() / "kiosk/1"
    done = main([
        "models", "adopt", "--server", address, "--model", "kiosk", *more,
        "--out", str(site.directory / "bundles"), "--signing-key", str(site.directory / "keys/own.key"),
        "--encoder", str(kiosk / "model.onnx"), "--calibration", str(kiosk / "calibration.safetensors"),
    ])  # fmt: skip
    assert done == 0


def put_before(document, address):
    document["bundles"]["trusted_keys"] = ["keys/own.pub"]
    oip = {"addresses": [address], "call_timeout": f"{CALL_TIMEOUT_S}s"}
    document["engine"] |= {"kind": "oip", "oip": oip}


def without_tiny(document):
    del document["models"]["tiny"]
    document["models"]["kiosk"].pop("harden", None)
    for role in document["roles"].values():
        for grant in role:
            if grant.get("models") == ["tiny"]:
                grant["models"] = ["kiosk"]


@pytest.fixture(scope="module")
def alone():
    """The kiosk in this process."""
    trusted = bundles_directory() / "stockade-release.pub"
    engine = InProcessEngine(load_bundle(bundles_directory() / "kiosk/1", [trusted]))
    yield engine
    engine.close()


def test_what_the_server_says_of_the_model_became_the_bundle(front, name):
    bundle = load_bundle(front.site.directory / "bundles/kiosk/1", [front.site.directory / "keys/own.pub"])
    assert bundle.manifest["upstream"] == {"name": "kiosk", "version": "1", "rows_max": ROWS_MAX[name]}
    assert bundle.manifest["training"]["adopted"]["server"]["name"] == name
    assert bundle.inputs[0].shape == (-1, 28, 28)
    assert bundle.manifest["roles"]["encoder"] == ["logits", "latent", "energy", "mahalanobis", "residual"]


def test_answers_are_those_of_the_model_also_in_batches(front, alone):
    chosen = images()[:240]
    bodies = [infer_body(chosen[start : start + 3]) for start in range(0, len(chosen), 3)]
    with ThreadPoolExecutor(16) as pool:
        replies = list(pool.map(front.ask, bodies))
    assert {reply.code for reply in replies} <= {grpc.StatusCode.OK, grpc.StatusCode.PERMISSION_DENIED}
    answered = [number for number, reply in enumerate(replies) if reply.code is grpc.StatusCode.OK]
    assert len(answered) > len(replies) * 0.9, "screens refuse one honest row in a thousand"
    expected = alone.infer({"image": chosen})["probabilities"].reshape(-1, 3, 10)
    found = np.stack([replies[number].output("probabilities") for number in answered])
    np.testing.assert_allclose(found, expected[answered], rtol=0, atol=1e-5)
    right = found.argmax(axis=2) == labels()[:240].reshape(-1, 3)[answered]
    assert right.mean() > 0.8


def test_more_rows_than_a_call_takes(front, alone):
    chosen = np.repeat(images()[:1], 130, axis=0)
    found = front.ask(infer_body(chosen)).output("probabilities")
    expected = alone.infer({"image": chosen})["probabilities"]
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)


def test_the_screen_reads_the_encoder_and_refuses_what_is_foreign(front):
    noise = np.random.default_rng(7).random((1, 28, 28), np.float32)
    assert front.ask(infer_body(noise)).reason == "INPUT_REJECTED"


def test_a_server_that_is_silent_and_comes_back(front):
    """Triton's frontend races with a call that was cancelled, and may end by a SIGSEGV: then it is started again."""
    stopped = front.server.pids()
    front.server.signal(signal.SIGSTOP)
    try:
        assert front.ask(infer_body()).reason == "BACKEND_TIMED_OUT"
        until(lambda: not front.ready(), "a silent server is still said to be ready", PATIENCE_S)
    finally:
        front.server.signal(signal.SIGCONT)

    def is_back() -> bool:
        if stopped - front.server.pids():
            front.server.start()
            stopped.clear()
        return front.ready() and front.ask(infer_body()).code is grpc.StatusCode.OK

    until(is_back, "it was not seen to be back", 2 * PATIENCE_S)


def test_a_server_that_is_killed(front):
    """The last of the calls; what follows looks at the log."""
    front.server.signal(signal.SIGKILL)
    reply = front.ask(infer_body())
    assert (reply.code, reply.reason) == (grpc.StatusCode.UNAVAILABLE, "BACKEND_UNAVAILABLE")
    assert reply.trailers["grpc-retry-pushback-ms"] == "1000"
    until(lambda: not front.ready(), "a dead server is still said to be ready", PATIENCE_S)
    assert front.gateway.stop() == 0


def test_each_call_is_recorded_once_and_the_log_verifies(front):
    assert verified(front.site).exit_code == 0
    entries = [entry for entry in entries_of(front.site) if entry.get("method", "").endswith("/ModelInfer")]
    assert Counter((entry["id"], entry["reason"]) for entry in entries) == dict.fromkeys(front.told, 1)
    assert {entry["model"]["engine"] for entry in entries} == {"oip"}
    reasons = Counter(entry["reason"] for entry in entries)
    assert {"BACKEND_TIMED_OUT", "BACKEND_UNAVAILABLE"} <= reasons.keys()
    assert all(entry["screens"][0]["name"] == "evidence" for entry in entries if entry["reason"] == "OK")
