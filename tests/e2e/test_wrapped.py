"""A model that somebody brought, wrapped by one command, behind a real gateway with its screen in force."""

from __future__ import annotations

import numpy as np
import pytest
from safetensors.numpy import save

from gateway.cli.main import main
from stockade.open_inference.grpc_service_pb2 import ModelInferRequest
from tests.e2e.caller import calling
from tests.e2e.running import serving
from tests.e2e.site import make_site
from tests.serving.train.foreign_models import WIDTH, blobs, model, trained


def offer(policy):
    policy["models"]["risk"] = {
        "serve": "1",
        "outputs": ["probabilities"],
        "screens": {"evidence": {"mode": "enforce", "flag": 0.05, "refuse": 0.01}},
    }
    policy["roles"]["predictor"][0]["models"].append("risk")


@pytest.fixture(scope="module")
def running(tmp_path_factory):
    place = tmp_path_factory.mktemp("wrapped")
    site = make_site(place / "site", policy=offer)
    (place / "theirs.onnx").write_bytes(model())
    (place / "sample.safetensors").write_bytes(save({"x": blobs()[0]}))
    words = [place / "theirs.onnx", "--sample", place / "sample.safetensors", "--as", "risk/1", "--classes", "a,b,c,d"]
    words += ["--out", site.directory / "bundles", "--signing-key", site.directory / "keys/own.key"]
    assert main(["models", "wrap", *map(str, words)]) == 0
    site.change_config(lambda document: document["bundles"]["trusted_keys"].append("keys/own.pub"))
    with serving(site) as found:
        yield found


def ask(running, rows):
    request = ModelInferRequest(model_name="risk", raw_input_contents=[rows.tobytes()])
    request.inputs.add(name="x", datatype="FP32", shape=rows.shape)
    with calling(running.site, running.facts["data"], running.site.bearer("plenty")) as one:
        return one.infer(request.SerializeToString())


def test_it_answers_as_it_did_where_it_came_from(running):
    rows = blobs(3_000, seed=5)[0]
    answered = 0
    for start in range(20):
        reply = ask(running, rows[start : start + 1])
        if reply.reason == "OK":
            answered += 1
            wanted = trained().predict_proba(rows[start : start + 1])
            np.testing.assert_allclose(reply.output("probabilities"), wanted, atol=1e-4)
    assert answered >= 17


def test_what_is_unlike_the_sample_is_refused_and_recorded(running):
    odd = np.random.default_rng(0).normal(0, 8, (1, WIDTH)).astype(np.float32)
    reply = ask(running, odd)
    assert reply.reason == "INPUT_REJECTED"
    (screen,) = running.entry(reply.request_id)["screens"]
    assert (screen["name"], screen["verdict"]) == ("evidence", "refuse")
