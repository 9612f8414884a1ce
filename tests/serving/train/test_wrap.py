"""Somebody else's ONNX model becomes a bundle: its outputs as they were, energies and a calibrated screen."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from onnx import TensorProto
from scipy.special import logsumexp

from defenses.screens.evidence import fit_evidence, measure_evidence
from serving.bundles.bundle import assemble
from serving.engines.inprocess import InProcessEngine
from serving.engines.measure import evaluate, rows_apart
from serving.errors import BundleRejected, GraphRejected
from serving.train.errors import WrapRefused
from serving.train.pack import seal
from serving.train.report import ScreenFitter
from serving.train.wrap import Foreign, Sample, wrap
from serving.train.wrap_graph import ENERGIES
from tests.serving.tiny import signing_key, trusted
from tests.serving.train.foreign_models import CLASSES, WIDTH, blobs, model, renamed, trained

POINTS = (0.05, 0.01)
SCREEN = ScreenFitter(partial(fit_evidence, points=POINTS), partial(measure_evidence, points=POINTS))
ENDINGS = ("softmax", "logits", "shares")


def sample(rows: int = 3_000) -> Sample:
    features, labels = blobs(rows)
    return Sample({"x": features}, labels, "sample.safetensors", "0" * 64)


def wrapped(ending: str, **how):
    files, manifest = wrap(Foreign(model(ending), "theirs", "1", ("a", "b", "c", "d")), sample(), SCREEN, **how)
    return assemble(seal(files, manifest, signing_key()), [trusted()])


@pytest.fixture(scope="module", params=ENDINGS)
def made(request):
    return request.param, wrapped(request.param)


def test_its_own_output_is_as_it_was_and_probabilities_stand_beside_it(made):
    ending, bundle = made
    rows = blobs(500, seed=3)[0]
    outputs = InProcessEngine(bundle).infer({"x": rows})
    assert outputs.keys() == {"y", "probabilities", *ENERGIES}
    net = trained()
    np.testing.assert_allclose(outputs["probabilities"], net.predict_proba(rows), atol=1e-4)
    np.testing.assert_array_equal(
        outputs["y"] if ending != "logits" else outputs["y"].argmax(1),
        outputs["probabilities"] if ending != "logits" else outputs["probabilities"].argmax(1),
    )
    assert bundle.manifest["roles"]["prediction"] == ["probabilities"]


def test_the_energies_are_what_they_say(made):
    ending, bundle = made
    rows = blobs(500, seed=3)[0]
    outputs = InProcessEngine(bundle).infer({"x": rows})
    net = trained()
    hidden = np.maximum(rows.astype(np.float64) @ net.coefs_[0] + net.intercepts_[0], 0)
    logits = hidden @ net.coefs_[1] + net.intercepts_[1]
    wanted = -logsumexp(logits, axis=1) if ending != "shares" else -np.log(net.predict_proba(rows).max(axis=1))
    np.testing.assert_allclose(outputs["energy"], wanted, rtol=1e-3, atol=1e-4)
    fitted = blobs(3_000)[0]
    if ending != "shares":  # there the layer before the prediction is none that is known
        assert bundle.manifest["training"]["latent"] == "hidden"
        order = np.random.default_rng([0, 0x3A9]).permutation(3_000)[:1_500]
        latents = np.maximum(fitted[order].astype(np.float64) @ net.coefs_[0] + net.intercepts_[0], 0)
        centre = np.linalg.norm(hidden - latents.mean(axis=0), axis=1)
        assert np.corrcoef(outputs["mahalanobis"], centre)[0, 1] > 0.5
    assert outputs["residual"].min() >= 0
    assert outputs["residual"].mean() < np.sqrt((fitted**2).mean())


def test_the_screen_keeps_its_promise_and_notices_what_is_unlike_the_sample(made):
    _, bundle = made
    engine = InProcessEngine(bundle)
    ordinary = evaluate(engine, blobs(3_000, seed=4)[0], name="x")
    noise = np.random.default_rng(0).normal(0, 4, (1_000, WIDTH)).astype(np.float32)
    usual, odd = [
        measure_evidence(bundle.calibration, out, points=POINTS)
        for out in (ordinary, evaluate(engine, noise, name="x"))
    ]
    for point in usual:
        assert point["rate"] < 2 * point["fpr_max"]
    assert odd[0]["rate"] > 0.9
    apart = rows_apart(engine, noise[:100], evaluate(engine, noise[:100], name="x"), name="x")
    assert max(apart.values()) <= 1e-4


def test_the_manifest_says_what_was_measured_and_of_what(made):
    _, bundle = made
    manifest = bundle.manifest
    assert manifest["metrics"]["accuracy"] > 0.8
    assert manifest["data"]["rows"] == {"fit": 1_500, "calibrate": 900, "measure": 600}
    assert bundle.class_names == ("a", "b", "c", "d")
    assert set(manifest["training"]["wrapped"]) == {"sha256"}


def test_a_latent_that_is_named_is_the_one_that_is_judged():
    assert wrapped("softmax", latent="scores").manifest["training"]["latent"] == "scores"
    with pytest.raises(WrapRefused, match="no tensor 'taste'"):
        wrapped("softmax", latent="taste")


def test_labels_are_not_needed():
    files, manifest = wrap(Foreign(model(), "theirs", "1"), replace(sample(), labels=None), SCREEN)
    assert "accuracy" not in manifest["metrics"]
    assert assemble(seal(files, manifest, signing_key()), [trusted()]).calibration


@pytest.mark.parametrize(
    ("graph", "problem"),
    [
        (lambda: model(opset=12), "operator set 12"),
        (lambda: model(kind=TensorProto.DOUBLE), "exactly one tensor of float32"),
        (lambda: model(rows=1), "free first dimension"),
        (lambda: renamed(model(), "hidden", "energy"), "a tensor 'energy' of its own"),
        (lambda: renamed(model(), "x", "z"), "no tensor 'z'"),
        (lambda: renamed(model("logits"), "y", "probabilities"), "no probabilities"),
    ],
)
def test_a_model_that_will_not_do_is_told_why(graph, problem):
    with pytest.raises(WrapRefused, match=problem):
        wrap(Foreign(graph(), "theirs", "1"), sample(), SCREEN)


@pytest.mark.parametrize(
    ("ending", "class_names", "problem"),
    [
        ("labels", (), "labels that do not exclude each other are not classes"),
        ("one", (), "output y has 1 column; write both classes"),
        ("softmax", ("a", "b", "c"), "3 class names for the 4 columns of y"),
        ("logits", tuple("abcde"), "5 class names for the 4 columns of y"),
    ],
)
def test_labels_that_are_no_classes_are_refused(ending, class_names, problem):
    with pytest.raises(WrapRefused, match=problem):
        wrap(Foreign(model(ending), "theirs", "1", class_names), sample(), SCREEN)


@pytest.mark.parametrize("graph", [b"", b"\x80\x04pickle", model()[:-40]])
def test_what_is_no_graph_is_refused_before_anything_reads_it(graph):
    with pytest.raises((BundleRejected, GraphRejected)):
        wrap(Foreign(graph, "theirs", "1"), sample(), SCREEN)


def test_a_sample_that_will_not_do_is_told_why():
    foreign = Foreign(model(), "theirs", "1")
    few = sample(1_000)
    with pytest.raises(WrapRefused, match="2,000 are the least"):
        wrap(foreign, few, SCREEN)
    rows = few.inputs["x"].repeat(3, axis=0)
    for bad in (rows.astype(np.float64), rows[:, :5], np.full_like(rows, np.nan)):
        with pytest.raises(WrapRefused, match=f"rows x {WIDTH}"):
            wrap(foreign, replace(few, inputs={"x": bad}, labels=None), SCREEN)
    with pytest.raises(WrapRefused, match="no output taste is rows x classes; there are y"):
        wrap(foreign, sample(), SCREEN, prediction="taste")
    assert CLASSES == 4
