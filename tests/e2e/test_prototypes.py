"""Nearest prototypes of the committed bundles behind a gateway: for who may have them, when asked, and nobody else."""

from __future__ import annotations

import shutil

import grpc
import numpy as np
import pytest
from safetensors.numpy import load_file

from gateway.tools.samples import bundles_directory
from stockade.open_inference.grpc_service_pb2 import ModelInferRequest
from tests.e2e.caller import calling, images, infer_request, labels
from tests.e2e.running import serving
from tests.e2e.site import make_site

NAMES = ("prototypes", "prototype_distances")
NEAREST = 3
VERSIONS = {"kiosk": "3", "clickstream": "2"}
INPUTS = {"kiosk": ("image", "FP32"), "clickstream": ("events", "INT64")}
each_model = pytest.mark.parametrize("model", sorted(VERSIONS))


def offer(policy):
    """`rival` may have prototypes, `plenty` may not."""
    for model, version in VERSIONS.items():
        policy["models"][model] = {"serve": version, "reserved": {name: ["support"] for name in NAMES}}
    policy["roles"]["predictor"][0]["models"].append("clickstream")
    policy["roles"]["support"] = [{"methods": ["ModelInfer"], "models": sorted(VERSIONS)}]
    policy["principals"]["rival"]["roles"] = ["support"]


@pytest.fixture(scope="module")
def running(tmp_path_factory):
    site = make_site(tmp_path_factory.mktemp("prototypes") / "site", policy=offer)
    for model, version in VERSIONS.items():
        shutil.copytree(bundles_directory() / model / version, site.directory / "bundles" / model / version)
    with serving(site) as found:
        yield found


@pytest.fixture
def ask(running):
    def ask(caller, model, rows, *outputs):
        name, datatype = INPUTS[model]
        request = ModelInferRequest(model_name=model)
        request.inputs.add(name=name, datatype=datatype, shape=rows.shape)
        request.raw_input_contents.append(rows.tobytes())
        for output in outputs:
            request.outputs.add(name=output)
        with calling(running.site, running.facts["data"], running.site.bearer(caller)) as one:
            return one.infer(request.SerializeToString())

    return ask


def exemplars_of(model):
    return load_file(bundles_directory() / model / VERSIONS[model] / "prototypes.safetensors")


def places_in(reply):
    assert [output.name for output in reply.message.outputs] == list(NAMES)
    return np.frombuffer(reply.message.raw_output_contents[0], np.int64).reshape(-1, NEAREST)


@each_model
def test_who_may_have_them_and_asks_is_told_that_a_prototype_is_nearest_to_itself(ask, model):
    exemplars = exemplars_of(model)[INPUTS[model][0]]
    reply = ask("rival", model, exemplars, *NAMES)
    distances = reply.output("prototype_distances")
    assert places_in(reply)[:, 0].tolist() == list(range(len(exemplars)))
    assert distances[:, 0].max() < 1e-3
    assert (np.diff(distances, axis=1) >= 0).all()


def test_the_nearest_to_a_product_are_mostly_of_its_class(ask):
    places = places_in(ask("rival", "kiosk", images()[:100], *NAMES))
    assert (exemplars_of("kiosk")["labels"][places[:, 0]] == labels()[:100]).mean() > 0.75


def test_a_version_without_prototypes_is_served_beside(running):
    with calling(running.site, running.facts["data"], running.site.bearer("rival")) as one:
        assert one.infer(infer_request(version="1").SerializeToString()).reason == "OK"


@each_model
def test_nobody_gets_them_unasked_and_others_not_even_asked(ask, model):
    rows = exemplars_of(model)[INPUTS[model][0]][:1]
    given = {output.name for output in ask("rival", model, rows).message.outputs}
    assert "probabilities" in given
    assert not given & set(NAMES)
    for name in NAMES:
        refused = ask("plenty", model, rows, name)
        assert (refused.code, refused.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "TENSOR_INVALID")
