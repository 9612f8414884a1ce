from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from serving.bundles.manifest import TensorSpec
from serving.engines.inprocess import InProcessEngine
from serving.errors import BackendFailed, GraphRejected
from tests.serving.tiny import tiny_bundle

ENGINE = InProcessEngine(tiny_bundle())


@given(
    arrays.arrays(
        np.float32, (3, 28, 28), elements=st.floats(width=32, allow_nan=False, allow_infinity=False), fill=st.just(0.5)
    )
)
@settings(max_examples=60, deadline=None)
def test_every_finite_input_gives_finite_outputs(image):
    for name, array in ENGINE.infer({"image": image}).items():
        assert np.isfinite(array).all(), name


@pytest.mark.parametrize("value", [0.0, 1.0, -3.4e38, 3.4e38, 1e-45, -0.0])
def test_constant_extremes_give_finite_outputs(value):
    for array in ENGINE.infer({"image": np.full((2, 28, 28), value, np.float32)}).values():
        assert np.isfinite(array).all()


def test_probabilities_energy_and_logits_agree():
    outputs = ENGINE.infer({"image": np.random.default_rng(0).random((9, 28, 28), dtype=np.float32)})
    logits = outputs["logits"].astype(np.float64)
    partition = np.exp(logits).sum(axis=1)
    np.testing.assert_allclose(outputs["probabilities"], np.exp(logits) / partition[:, None], rtol=1e-5)
    np.testing.assert_allclose(outputs["energy"], -np.log(partition), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "change",
    [
        {"inputs": (TensorSpec("picture", "FP32", (-1, 28, 28)),)},
        {"inputs": (TensorSpec("image", "FP32", (-1, 28, 29)),)},
        {"inputs": (TensorSpec("image", "FP64", (-1, 28, 28)),)},
        {"outputs": (TensorSpec("energies", "FP32", (-1,)),)},
        {"outputs": (TensorSpec("latent", "FP32", (-1, 5)),)},
        {"graphs": {"dense": b"not a model"}},
        {"graphs": {"sparse": b""}},
    ],
    ids=["name", "shape", "dtype", "output", "width", "bytes", "graph"],
)
def test_a_graph_unlike_its_manifest_is_rejected(change):
    with pytest.raises(GraphRejected):
        InProcessEngine(replace(tiny_bundle(), **change))


def test_an_undeclared_input_of_the_graph_is_rejected():
    with pytest.raises(GraphRejected):
        InProcessEngine(replace(tiny_bundle(), inputs=()))


def test_a_failed_run_keeps_the_runtimes_words_for_the_log_only():
    with pytest.raises(BackendFailed) as caught:
        ENGINE.infer({"image": np.zeros((1, 28, 27), np.float32)})
    assert caught.value.model == "tiny/1"
    assert "27" in caught.value.problem


def test_the_serving_path_loads_no_training_library():
    code = (
        "import sys, serving.bundles.bundle, serving.bundles.catalog, serving.engines.inprocess;"
        "heavy = {'torch', 'onnx', 'sklearn', 'matplotlib', 'model_signing', 'sigstore', 'ray', 'art'};"
        "sys.exit(','.join(sorted(heavy & set(sys.modules))) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
