"""A gateway in front of another server: what clients get, what that server sees, what is recorded when it fails."""

from __future__ import annotations

import contextlib
import json
import time
from collections import Counter

import grpc
import numpy as np
import pytest

from stockade.open_inference import grpc_service_pb2 as pb
from tests.e2e.caller import Caller, calling, infer_body
from tests.e2e.running import entries_of, serving, verified
from tests.e2e.running import until as until_it_is
from tests.e2e.site import copy_site
from tests.gateway.oip_server import OipServer, refuses
from tests.gateway.rig import only_tiny
from tests.serving.tiny import CLASSES, remote_sealed, write

READY = "/inference.GRPCInferenceService/ModelReady"
METADATA = "/inference.GRPCInferenceService/ModelMetadata"
METADATA_REQUEST = pb.ModelMetadataRequest(name="tiny").SerializeToString()
ELSEWHERE = "open_inference_protocol"
MARK = "known-to-the-caller-alone"


def model(inputs):
    means = inputs["image"].reshape(len(inputs["image"]), -1).mean(axis=1, dtype=np.float32)
    return {"probabilities": np.stack([means, 1 - means, 0 * means], axis=1)}


def image(value, rows=1):
    return infer_body(np.full((rows, 28, 28), value, np.float32), model="tiny", id=MARK)


@pytest.fixture(scope="module")
def story(made_site, tmp_path_factory):
    """One gateway's life in front of one server: its site, the server, and how the calls ended by name."""
    site = copy_site(made_site, tmp_path_factory.mktemp("upstream") / "site")
    with contextlib.ExitStack() as stack:
        server = OipServer(model)
        stack.callback(server.stop)
        write(remote_sealed(version="2"), site.directory / "bundles/tiny/2")

        def policy(document):
            only_tiny(document)
            document["models"]["tiny"] = {"serve": "2", "harden": {"top_k": 1, "decimals": 1}}

        def config(document):
            oip = {"addresses": [server.address], "call_timeout": "1500ms", "rows_max": 4}
            document["engine"] |= {"kind": "oip", "oip": oip, "threads": 2}

        site.change_policy(policy)
        site.change_config(config)
        running = stack.enter_context(serving(site))
        caller = stack.enter_context(calling(site, running.facts["data"], site.bearer("plenty")))
        told = pb.ModelMetadataResponse.FromString(caller.ask(METADATA, METADATA_REQUEST).body)
        assert (told.platform, [output.name for output in told.outputs]) == (ELSEWHERE, ["probabilities"])
        repeating = stack.enter_context(repeats(site, running.facts["data"]))
        replies = dict(play(server, caller, Caller(repeating, caller.metadata)))
        assert running.stop() == 0
        yield site, server, replies


RETRIES = {  # as KServe's client has them, with shorter pauses
    "maxAttempts": 3,
    "initialBackoff": "0.1s",
    "maxBackoff": "1s",
    "backoffMultiplier": 2,
    "retryableStatusCodes": ["UNAVAILABLE"],
}


def repeats(site, address):
    """A channel that repeats what is UNAVAILABLE by itself, unless it is told not to."""
    policy = json.dumps({"methodConfig": [{"name": [{}], "retryPolicy": RETRIES}]})
    credentials = grpc.ssl_channel_credentials(site.read("tls/ca.crt"))
    options = [("grpc.use_local_subchannel_pool", 1), ("grpc.service_config", policy)]
    return grpc.secure_channel(address, credentials, options=options)


HEARD_OFF = []


def silent(request, context):
    """Say nothing for as long as somebody waits."""
    while context.is_active():
        time.sleep(0.01)
    HEARD_OFF.append("over")
    return b""


def play(server, caller, repeating):
    yield "answered", caller.infer(image(0.75))
    yield "many rows", caller.infer(image(0.25, rows=9))
    server.replies = [refuses(grpc.StatusCode.UNAVAILABLE)]
    yield "retried", caller.infer(image(0.75))
    server.replies = [refuses(grpc.StatusCode.INVALID_ARGUMENT, "the value was 0.333")]
    yield "refused there", caller.infer(image(0.333))
    server.replies = [lambda request, context: b"garbage"]
    yield "garbage", caller.infer(image(0.75))
    server.replies = [silent]
    yield "silent", repeating.infer(image(0.75))
    server.replies = [silent]
    yield "deadline", caller.infer(image(0.75), timeout=1)  # enough to get there, and less than the gateway waits
    until_it_is(lambda: HEARD_OFF == ["over"] * 2, "the server was not let go of")
    server.stop()
    until_it_is(lambda: not ready(caller), "the model is still said to be ready")
    yield "gone", caller.infer(image(0.75))


def ready(caller):
    asked = pb.ModelReadyRequest(name="tiny").SerializeToString()
    return pb.ModelReadyResponse.FromString(caller.ask(READY, asked).body).ready


def test_clients_get_what_the_server_answers_hardened_here(story):
    _, _, replies = story
    np.testing.assert_array_equal(replies["answered"].output("probabilities"), [[1, 0, 0]])  # of 0.75, 0.25, 0
    assert replies["answered"].message.model_version == "2"
    assert replies["many rows"].output("probabilities").shape == (9, CLASSES)
    assert replies["retried"].code is grpc.StatusCode.OK


def test_nothing_of_the_caller_reaches_the_server(story):
    site, server, _ = story
    assert [len(request.id) for request in server.seen] == [0] * len(server.seen)
    assert all(metadata.keys() == {"user-agent"} for metadata in server.metadata)
    seen = b"".join(request.SerializeToString() for request in server.seen)
    assert MARK.encode() not in seen
    assert site.keys["plenty"].encode() not in seen


ENDS = {
    "refused there": (grpc.StatusCode.INTERNAL, "MODEL_ERROR", "-1"),
    "garbage": (grpc.StatusCode.INTERNAL, "MODEL_ERROR", "-1"),
    "silent": (grpc.StatusCode.UNAVAILABLE, "BACKEND_TIMED_OUT", "-1"),
    "gone": (grpc.StatusCode.UNAVAILABLE, "BACKEND_UNAVAILABLE", "1000"),
}


@pytest.mark.parametrize(("name", "expected"), ENDS.items(), ids=ENDS)
def test_how_a_failure_looks(story, name, expected):
    reply = story[2][name]
    assert (reply.code, reply.reason, reply.trailers["grpc-retry-pushback-ms"]) == expected
    assert "0.333" not in reply.details


def test_the_server_is_asked_once_for_each_request_but_for_those_it_let_go(story):
    _, server, _ = story
    asked = Counter(round(float(np.frombuffer(seen.raw_input_contents[0], np.float32)[0]), 3) for seen in server.seen)
    assert asked[0.25] == 3  # nine rows, four at a time
    assert asked[0.333] == 1
    assert asked[0.75] == 1 + 2 + 1 + 1 + 1  # answered, retried, garbage, silent, deadline; gone was not there


def test_each_call_is_recorded_once_with_the_engine_and_the_log_verifies(story):
    site, _, replies = story
    assert verified(site).exit_code == 0
    entries = [entry for entry in entries_of(site) if entry.get("method", "").endswith("/ModelInfer")]
    assert len(entries) == len({entry["id"] for entry in entries}) == len(replies)
    assert {entry["model"]["engine"] for entry in entries} == {"oip"}
    assert {entry["model"]["version"] for entry in entries} == {"2"}
    by_id = {entry["id"]: entry for entry in entries}
    for name, reply in replies.items():
        if name != "deadline":  # gRPC ends that one by itself, and the client sees no trailers
            assert by_id[reply.request_id]["reason"] == reply.reason
    reasons = Counter(entry["reason"] for entry in entries)
    assert reasons["BACKEND_TIMED_OUT"] == 2, '"deadline" too: the server had all its time'
