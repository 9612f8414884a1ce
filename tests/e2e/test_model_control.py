"""Models go out of service and come back while the gateway runs: everywhere or nowhere, and it stays so."""

from __future__ import annotations

import threading
from contextlib import contextmanager
from hashlib import sha256

import grpc
import pytest
from grpc_health.v1 import health_pb2

from stockade.open_inference import grpc_service_pb2 as pb
from tests.e2e.caller import calling, infer_body
from tests.e2e.running import serving, until
from tests.e2e.site import copy_site
from tests.serving.tiny import tiny_sealed, write

SERVICE = "/inference.GRPCInferenceService/"
CALLERS = 8  # connections, which spread over the workers


@pytest.fixture
def site(made_site, tmp_path):
    site = copy_site(made_site, tmp_path / "site")
    site.change_config(lambda document: document.update(workers=2))
    return site


def body(message, version: str = "", **fields) -> bytes:
    made = message(**fields)
    if version:
        made.parameters["version"].string_param = version
    return made.SerializeToString()


def load(caller, model: str = "tiny", version: str = ""):
    request = body(pb.RepositoryModelLoadRequest, version, model_name=model)
    return caller.ask(SERVICE + "RepositoryModelLoad", request)


def unload(caller, model: str = "tiny", version: str = ""):
    request = body(pb.RepositoryModelUnloadRequest, version, model_name=model)
    return caller.ask(SERVICE + "RepositoryModelUnload", request)


def index(caller) -> dict[tuple[str, str], tuple[str, str]]:
    reply = pb.RepositoryIndexResponse.FromString(caller.ask(SERVICE + "RepositoryIndex").body)
    return {(model.name, model.version): (model.state, model.reason) for model in reply.models}


def health(caller, service: str = "") -> int:
    asked = health_pb2.HealthCheckRequest(service=service).SerializeToString()
    return health_pb2.HealthCheckResponse.FromString(caller.ask("/grpc.health.v1.Health/Check", asked).body).status


def answers(site, running, **fields) -> set[str]:
    """What callers on connections of their own are told."""
    seen = set()
    for _ in range(CALLERS):
        with calling(site, running.facts["data"], site.bearer("rival")) as caller:
            seen.add(caller.infer(infer_body(model="tiny", **fields)).reason)
    return seen


def model_entries(running) -> list[tuple[str, str, str]]:
    """What the log says of `tiny` since the start said that it is there."""
    entries = [entry for entry in running.entries() if (entry["kind"], entry.get("name")) == ("model", "tiny")]
    return [(entry["action"], entry["version"], entry.get("request", "")) for entry in entries]


@contextmanager
def rival(site, running):
    with calling(site, running.facts["data"], site.bearer("rival")) as caller:
        yield caller


def test_what_is_taken_out_of_service_stays_out_until_it_is_loaded(site):
    with serving(site) as running, rival(site, running) as caller:
        assert answers(site, running) == {"OK"}
        gone = unload(caller)
        assert pb.RepositoryModelUnloadResponse.FromString(gone.body).isUnloaded
        assert answers(site, running) == {"MODEL_UNLOADED"}
        assert index(caller)["tiny", "1"] == ("UNAVAILABLE", "unloaded")
        assert (health(caller), health(caller, "tiny")) == (
            health_pb2.HealthCheckResponse.SERVING,
            health_pb2.HealthCheckResponse.NOT_SERVING,
        )
        with calling(site, running.facts["data"], site.bearer("kiosk-7")) as other:
            assert other.infer(infer_body()).reason == "OK"
        kill_worker(running)
        assert answers(site, running) == {"MODEL_UNLOADED"}
        until(lambda: model_entries(running)[1:] == [("unloaded", "1", gone.request_id)], "the log does not say so")
        request = running.entry(gone.request_id)
        assert (request["method"], request["model"]["name"]) == (SERVICE + "RepositoryModelUnload", "tiny")
    with serving(site) as running, rival(site, running) as caller:
        assert answers(site, running) == {"MODEL_UNLOADED"}
        until(
            lambda: model_entries(running)[2:] == [("unloaded", "1", "")], "the log does not say that it is still out"
        )
        back = load(caller)
        assert pb.RepositoryModelLoadResponse.FromString(back.body) == pb.RepositoryModelLoadResponse(
            model_name="tiny", isLoaded=True
        )
        assert answers(site, running) == {"OK"}
        assert index(caller)["tiny", "1"] == ("READY", "")
        until(lambda: model_entries(running)[3:] == [("loaded", "1", back.request_id)], "the log does not say so")
        assert load(caller).reason == "OK"  # it is there already: nothing happens


def kill_worker(running) -> None:
    """kill -9 of one worker; returns when its successor serves."""
    running.kill("worker-0")
    until(
        lambda: [event["event"] for event in running.events()].count("serving") == 3, "the worker was not started again"
    )


def test_a_new_version_is_served_without_a_restart_and_without_a_refused_call(site):
    with serving(site) as running, rival(site, running) as caller:
        refused, stop = [], threading.Event()

        def call() -> None:
            with rival(site, running) as busy:
                while not stop.is_set():
                    reply = busy.infer(infer_body(model="tiny"))
                    if reply.reason != "OK":
                        refused.append(reply)

        busy = threading.Thread(target=call)
        busy.start()
        try:
            write(tiny_sealed("2"), site.directory / "bundles/tiny/2")
            assert answers(site, running, version="2") == {"MODEL_UNKNOWN"}
            assert load(caller).reason == "OK"
            assert answers(site, running, version="2") == {"OK"}
            write(tiny_sealed("3"), site.directory / "bundles/tiny/3")
            site.change_policy(lambda policy: policy["models"]["tiny"].update(serve="3"))  # which looks for it
            until(
                lambda: (
                    caller.infer(infer_body(model="tiny")).trailers.get("x-stockade-model-digest") == digest(site, "3")
                ),
                "the policy does not find the new bundle",
            )
            assert unload(caller, version="2").reason == "OK"
            assert answers(site, running, version="2") == {"MODEL_UNLOADED"}
            assert answers(site, running) == {"OK"}
        finally:
            stop.set()
            busy.join()
        assert refused == []
        until(
            lambda: (
                [entry[:2] for entry in model_entries(running)[1:]]
                == [("loaded", "2"), ("loaded", "3"), ("unloaded", "2")]
            ),
            "the log says something else",
        )


def digest(site, version: str) -> str:
    return sha256(site.read(f"bundles/tiny/{version}/manifest.json")).hexdigest()


def test_a_bundle_that_will_not_do_is_refused_and_everything_stays(site):
    with serving(site) as running, rival(site, running) as caller:
        directory = write(tiny_sealed("2"), site.directory / "bundles/tiny/2")
        (directory / "model.onnx").write_bytes(b"not what was signed")
        refused = load(caller)
        assert (refused.code, refused.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "MODEL_NOT_LOADED")
        (told,) = [event for event in running.events() if event["event"] == "model-not-loaded"]
        assert (told["request_id"], told["model"]) == (refused.request_id, "tiny")
        assert "digest" in told["problem"]
        assert answers(site, running) == {"OK"}
        kill_worker(running)  # a bundle that nobody loaded must not keep a worker from starting
        assert load(caller, version="1").reason == "OK"
        write(tiny_sealed("2"), directory)
        assert load(caller).reason == "OK"
        assert answers(site, running, version="2") == {"OK"}


def test_who_has_no_right_learns_nothing(stand):
    site = stand.site
    with calling(site, stand.facts["data"], site.bearer("kiosk-7")) as caller:
        assert {load(caller, "kiosk").reason, unload(caller, "kiosk").reason} == {"METHOD_FORBIDDEN"}
    with rival(site, stand) as caller:
        there, nowhere = unload(caller, "kiosk"), unload(caller, "nothing")
        assert (there.code, there.reason) == (grpc.StatusCode.NOT_FOUND, "MODEL_UNKNOWN")
        assert (nowhere.reason, nowhere.sentence) == (there.reason, there.sentence)
        assert unload(caller, "../tiny").reason == "MODEL_UNKNOWN"
        assert unload(caller, version="9").reason == "MODEL_UNKNOWN"
    with calling(site, stand.facts["data"], site.bearer("plenty")) as caller:
        assert caller.infer(infer_body()).reason == "OK"
