"""No version is served without the proof that the policy asks for, and the log says who vouched for what."""

from __future__ import annotations

import json
import signal

import grpc

from stockade.open_inference import grpc_service_pb2 as pb
from tests.e2e.caller import calling, infer_body
from tests.e2e.promoting import MODEL, add_model, add_version, approve, digest, evaluate, evidence_of, models
from tests.e2e.running import serving, until, verified
from tests.e2e.site import copy_site

LOAD = "/inference.GRPCInferenceService/RepositoryModelLoad"


def told(running, version: str) -> list[dict]:
    """What the log says of a version, but that it was loaded."""
    return [
        entry
        for entry in running.entries()
        if (entry["kind"], entry.get("name"), entry.get("version")) == ("model", MODEL, version)
        and entry["action"] in {"promoted", "rejected"}
    ]


def answering(caller) -> str:
    """The digest of the version that answers."""
    reply = caller.infer(infer_body(model=MODEL))
    assert reply.reason == "OK"
    return reply.trailers["x-stockade-model-digest"]


def serve_version(site, running, version: str) -> None:
    """The next revision of the policy has this version in `serve`; the gateway is told to look now."""
    site.change_policy(lambda policy: policy["models"][MODEL].update(serve=version))
    running.process.send_signal(signal.SIGHUP)


def refusals(running) -> list[str]:
    return [event["problem"] for event in running.events() if event["event"] == "policy-refused"]


def test_a_version_is_refused_until_two_of_three_have_approved_it(made_site, tmp_path):
    site = copy_site(made_site, tmp_path / "site")
    add_model(site)
    with serving(site) as running, calling(site, running.facts["data"], site.bearer("rival")) as caller:
        until(lambda: told(running, "1") and told(running, "2"), "the log does not say what is proven at the start")
        assert [(e["action"], e["exempt"]) for e in told(running, "1")] == [("promoted", True)]
        assert [(e["action"], e["reason"]) for e in told(running, "2")] == [
            ("rejected", "has no evaluation; `stockade models evaluate` makes one")
        ]
        assert caller.infer(infer_body(model=MODEL, version="2")).reason == "MODEL_UNKNOWN"

        serve_version(site, running, "2")  # unapproved
        until(lambda: len(refusals(running)) == 1, "the policy was not refused")
        assert "models.shelf.serve: version '2' may not be served: has no evaluation" in refusals(running)[0]
        until(lambda: len(told(running, "2")) == 2, "the log does not say that it was refused")
        assert answering(caller) == digest(site, "1")

        assert evaluate(site, "2", "--against", "1") == 0
        assert approve(site, "2", "alice") == 0
        assert approve(site, "2", "mallory") == 1
        serve_version(site, running, "2")
        until(lambda: len(refusals(running)) == 2, "one approval was enough")
        assert "has 1 of 2 approvals (alice)" in refusals(running)[1]

        assert approve(site, "2", "carol") == 0
        serve_version(site, running, "2")
        until(lambda: answering(caller) == digest(site, "2"), "two approvals were not enough")
        until(lambda: told(running, "2")[-1]["action"] == "promoted", "the log does not say who approved it")
        entry = told(running, "2")[-1]
        assert (entry["approvers"], entry["digest"]) == (["alice", "carol"], digest(site, "2"))
        assert "override" not in entry

        add_version(site, "3")
        third = evidence_of(site, "3")
        refused = caller.ask(LOAD, load_body("3"))
        assert (refused.code, refused.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "MODEL_NOT_LOADED")
        until(lambda: told(running, "3"), "the log does not say that the load was refused")
        assert told(running, "3")[0]["request"] == refused.request_id
        assert (evaluate(site, "3"), approve(site, "3", "bob"), approve(site, "3", "carol")) == (0, 0, 0)
        good = (third / "evaluation.json").read_bytes()
        (third / "evaluation.json").write_bytes(edited(good))
        assert caller.ask(LOAD, load_body("3")).reason == "MODEL_NOT_LOADED"
        until(lambda: len(told(running, "3")) == 2, "the log does not say that the evaluation was edited")
        assert "edited after it was signed" in told(running, "3")[1]["reason"]
        serve_version(site, running, "3")
        until(lambda: len(refusals(running)) == 3, "an edited evaluation was believed")
        assert answering(caller) == digest(site, "2")
        (third / "evaluation.json").write_bytes(good)
        assert caller.ask(LOAD, load_body("3")).reason == "OK"
        assert models(site, "rollback", f"{MODEL}/1", "--key", str(site.directory / "keys/policy.key")) == 0
        until(lambda: answering(caller) == digest(site, "1"), "the policy did not go back")
    assert verified(site).exit_code == 0


def load_body(version: str) -> bytes:
    request = pb.RepositoryModelLoadRequest(model_name=MODEL)
    request.parameters["version"].string_param = version
    return request.SerializeToString()


def edited(evaluation: bytes) -> bytes:
    """Half a percent better than it was."""
    found = json.loads(evaluation)
    found["metrics"]["accuracy"]["low"] += 0.005
    return json.dumps(found, sort_keys=True, separators=(",", ":")).encode() + b"\n"
