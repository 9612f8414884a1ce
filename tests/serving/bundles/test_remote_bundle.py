"""Bundles of models that run elsewhere: as signed as any other, and without a graph."""

from __future__ import annotations

import numpy as np
import pytest

from serving.bundles.bundle import assemble, load_bundle
from serving.engines.inprocess import outputs_of
from serving.errors import BundleRejected, GraphRejected, Rejection
from serving.train.pack import tensor_bytes
from tests.serving.tiny import CLASSES, WIDTH, remote_bundle, remote_sealed, tiny_graph, trusted, write

OUTPUTS = [
    {"name": "probabilities", "datatype": "FP32", "shape": [-1, CLASSES]},
    {"name": "energy", "datatype": "FP32", "shape": [-1]},
]
GRAPH = {"encoder.onnx": tiny_graph()}
ENCODED = {"outputs": OUTPUTS, "graphs": {"encoder": "encoder.onnx"}, "roles": {"encoder": ["energy"]}}


def test_it_holds_a_manifest_and_a_signature(tmp_path):
    sealed = remote_sealed()
    assert sealed.keys() == {"manifest.json", "model.sig"}
    (tmp_path / "key.pub").write_bytes(public())
    bundle = load_bundle(write(sealed, tmp_path / "tiny/1"), [tmp_path / "key.pub"])
    assert (bundle.graphs, bundle.calibration) == ({}, {})
    assert bundle.manifest["upstream"] == {"name": "tiny-there", "version": "3"}


def public():
    from serving.train.pack import public_pem
    from tests.serving.tiny import signing_key

    return public_pem(signing_key())


def test_where_it_runs_is_signed():
    sealed = remote_sealed()
    sealed["manifest.json"] = sealed["manifest.json"].replace(b"tiny-there", b"evil-there")
    with pytest.raises(BundleRejected) as rejected:
        assemble(sealed, (trusted(),))
    assert rejected.value.reason is Rejection.DIGEST


def test_with_an_encoder_and_a_calibration():
    files = GRAPH | {"calibration.safetensors": tensor_bytes({"scores": np.linspace(0, 1, 5)})}
    bundle = remote_bundle(files, calibration="calibration.safetensors", **ENCODED)
    assert bundle.graphs.keys() == {"encoder"}
    assert bundle.calibration.keys() == {"scores"}


@pytest.mark.parametrize(
    ("files", "change", "problem"),
    [
        ({}, {"upstream": {"name": ""}}, "elsewhere is empty"),
        ({}, {"upstream": {"name": "x" * 256}}, "or too long"),
        ({}, {"upstream": {"name": "x", "version": "x" * 256}}, "or too long"),
        ({}, {"upstream": {"name": "x", "rows_max": -1}}, "less than no rows"),
        ({}, {"upstream": {"name": "x", "address": "evil:1"}}, "format 1"),
        ({}, {"upstream": {}}, "format 1"),
        ({}, {"upstream": None}, "graphs are missing"),
        (GRAPH, {"graphs": {"dense": "encoder.onnx"}}, "a graph other than its encoder"),
        (GRAPH, {**ENCODED, "roles": {}}, "not there together"),
        ({}, {**ENCODED, "graphs": {}}, "not there together"),
        (GRAPH, {**ENCODED, "roles": {"encoder": ["probabilities", "energy"]}}, "computes every output"),
        (GRAPH, {**ENCODED, "graphs": {"encoder": "other.onnx"}}, "not listed"),
        ({}, {"weights": "weights.safetensors"}, "not listed"),
        ({}, {"calibration": "calibration.bin"}, "not safetensors"),
    ],
)
def test_each_rule(files, change, problem):
    with pytest.raises(BundleRejected) as rejected:
        remote_bundle(files, **change)
    assert rejected.value.reason is Rejection.MANIFEST
    assert problem in rejected.value.problem


def test_names_at_their_limit():
    longest = {"name": "x" * 255, "version": "y" * 255, "rows_max": 0}
    assert remote_bundle(upstream=longest).manifest["upstream"] == longest


@pytest.mark.parametrize("datatype", ["UINT16", "UINT32", "UINT64", "BYTES"])
def test_datatypes_that_others_run(datatype):
    bundle = remote_bundle(inputs=[{"name": "x", "datatype": datatype, "shape": [-1, 2]}])
    assert bundle.inputs[0].datatype == datatype


def test_what_a_graph_puts_out():
    found = {spec.name: (spec.datatype, spec.shape) for spec in outputs_of(tiny_graph(), "tiny")}
    assert found["energy"] == ("FP32", (-1,))
    assert found["latent"] == ("FP32", (-1, WIDTH))
    with pytest.raises(GraphRejected, match="tiny"):
        outputs_of(b"not onnx", "tiny")
