"""Nearest prototypes of the kiosk behind a real gateway: for who may have them, when asked, and for nobody else."""

from __future__ import annotations

import json

import grpc
import numpy as np
import pytest
from safetensors.numpy import load_file

from gateway.cli.main import main
from gateway.samples import bundles_directory, sample_images
from tests.e2e.caller import calling, infer_request
from tests.e2e.running import serving
from tests.e2e.site import make_site

BUNDLE = bundles_directory() / "kiosk/1"
NAMES = ("prototypes", "prototype_distances")
VERSION = "99"


def offer(policy):
    """`rival` may have prototypes, `plenty` may not."""
    policy["models"]["kiosk"] = {"serve": VERSION, "reserved": {name: ["support"] for name in NAMES}}
    policy["roles"]["support"] = [{"methods": ["ModelInfer"], "models": ["kiosk"]}]
    policy["principals"]["rival"]["roles"] = ["support"]


@pytest.fixture(scope="module")
def running(tmp_path_factory):
    site = make_site(tmp_path_factory.mktemp("prototypes") / "site", policy=offer)
    words = ["--data", sample_images(), "--version", VERSION, "--out", site.directory / "bundles"]
    words += ["--signing-key", site.directory / "keys/own.key"]
    assert main(["models", "prototypes", str(BUNDLE), *map(str, words)]) == 0
    site.change_config(lambda document: document["bundles"]["trusted_keys"].append("keys/own.pub"))
    with serving(site) as found:
        yield found


def ask(running, caller, images, *outputs):
    request = infer_request(images, model="kiosk")
    for name in outputs:
        request.outputs.add(name=name)
    with calling(running.site, running.facts["data"], running.site.bearer(caller)) as one:
        return one.infer(request.SerializeToString())


def images():
    return load_file(sample_images())["images"][:8].astype(np.float32) / np.float32(255)


def test_who_may_have_them_and_asks_gets_exemplars_of_the_predicted_class(running):
    reply = ask(running, "rival", images(), "probabilities", "prototypes", "prototype_distances")
    bundle = running.site.directory / "bundles/kiosk" / VERSION
    labels = load_file(bundle / "prototypes.safetensors")["labels"]
    places = np.frombuffer(reply.message.raw_output_contents[1], np.int64).reshape(8, 3)
    distances = reply.output("prototype_distances")
    assert (labels[places[:, 0]] == reply.output("probabilities").argmax(axis=1)).mean() >= 0.75
    assert (np.diff(distances, axis=1) >= 0).all()
    rows = json.loads((bundle / "manifest.json").read_text())["data"]["prototypes"]["rows"]
    assert len(rows) == len(labels) == 30


def test_a_version_without_prototypes_is_served_beside(running):
    request = infer_request(images(), model="kiosk")
    request.model_version = "1"
    with calling(running.site, running.facts["data"], running.site.bearer("rival")) as one:
        assert one.infer(request.SerializeToString()).reason == "OK"


def test_nobody_gets_them_unasked_and_others_not_even_asked(running):
    unasked = ask(running, "rival", images())
    assert not {output.name for output in unasked.message.outputs} & set(NAMES)
    assert "probabilities" in {output.name for output in unasked.message.outputs}
    for name in NAMES:
        refused = ask(running, "plenty", images(), name)
        assert (refused.code, refused.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "TENSOR_INVALID")
