"""The clickstream's bundle behind a real gateway: next events for everybody, embeddings for marketing alone."""

from __future__ import annotations

import shutil

import grpc
import numpy as np
import pytest
from safetensors.numpy import load_file

from gateway.tools.samples import bundles_directory
from serving.bundles.bundle import load_bundle
from serving.engines.inprocess import InProcessEngine
from stockade.open_inference.grpc_service_pb2 import ModelInferRequest
from tests.e2e.caller import calling
from tests.e2e.running import serving
from tests.e2e.site import make_site

BUNDLE = bundles_directory() / "clickstream/1"
IDS = load_file(bundles_directory() / "samples/ecom-1000.safetensors")["ids"].astype(np.int64)


def offer(policy):
    """Two outputs, one of them reserved, behind the screen; `rival` is in marketing, `plenty` is not."""
    policy["models"]["clickstream"] = {
        "serve": "1",
        "outputs": ["probabilities", "embedding"],
        "reserved": {"embedding": ["marketing"]},
        "screens": {"evidence": {"mode": "enforce", "flag": 0.01, "refuse": 0.001}},
    }
    policy["roles"]["predictor"][0]["models"].append("clickstream")
    policy["roles"]["marketing"] = [{"methods": ["ModelInfer"], "models": ["clickstream"]}]
    policy["principals"]["rival"]["roles"] = ["marketing"]


@pytest.fixture(scope="module")
def running(tmp_path_factory):
    site = make_site(tmp_path_factory.mktemp("clicks") / "site", policy=offer)
    shutil.copytree(BUNDLE, site.directory / "bundles/clickstream/1")
    with serving(site) as found:
        yield found


def body(ids, *outputs: str) -> bytes:
    request = ModelInferRequest(model_name="clickstream")
    request.inputs.add(name="events", datatype="INT64", shape=ids.shape)
    request.raw_input_contents.append(np.ascontiguousarray(ids).tobytes())
    for name in outputs:
        request.outputs.add(name=name)
    return request.SerializeToString()


@pytest.fixture
def ask(running):
    def ask(caller: str, ids, *outputs: str):
        with calling(running.site, running.facts["data"], running.site.bearer(caller)) as one:
            return one.infer(body(ids, *outputs))

    return ask


def test_the_next_event_is_everybodys_and_the_embedding_marketings(ask):
    engine = InProcessEngine(load_bundle(BUNDLE, [bundles_directory() / "stockade-release.pub"]))
    wanted = engine.infer({"events": IDS[:16]})
    marketing, other = ask("rival", IDS[:16]), ask("plenty", IDS[:16])
    assert [output.name for output in other.message.outputs] == ["probabilities"]
    np.testing.assert_allclose(other.output("probabilities"), wanted["probabilities"], atol=1e-6)
    np.testing.assert_allclose(marketing.output("embedding"), wanted["embedding"], atol=1e-6)


def test_an_embedding_without_the_right_and_an_output_that_nobody_has_are_refused_alike(ask):
    for name in ("embedding", "latent"):
        refused = ask("plenty", IDS[:1], name)
        assert (refused.code, refused.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "TENSOR_INVALID")


@pytest.mark.parametrize("wrong", [-1, 21], ids=["below", "above"])
def test_ids_outside_the_declared_range_are_refused(ask, wrong):
    ids = IDS[:2].copy()
    ids[1, -1] = wrong
    assert ask("plenty", ids).reason == "TENSOR_INVALID"


def test_what_no_visitor_clicks_is_refused_and_the_record_says_by_what(running, ask):
    robots = np.random.default_rng(0).integers(2, 21, (200, 32))
    ended = [ask("plenty", robots[row : row + 1]) for row in range(20)]
    refused = [reply for reply in ended if reply.reason == "INPUT_REJECTED"]
    assert refused
    (screen,) = running.entry(refused[0].request_id)["screens"]
    assert (screen["name"], screen["verdict"]) == ("evidence", "refuse")
