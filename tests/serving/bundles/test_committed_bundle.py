"""The bundle that comes with the project: verified, and as good as its manifest says."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import safetensors
import safetensors.numpy

from serving.bundles.bundle import load_bundle
from serving.engines import measure
from serving.engines.inprocess import InProcessEngine
from serving.train.kiosk.data import DEBIAN_DIRECTORY, load_fashion_mnist

ROOT = Path(__file__).parents[3] / "bundles"
SAMPLES = ROOT / "samples" / "fashion-mnist-1000.safetensors"
ACCURACY_MIN = 0.905
needs_data_set = pytest.mark.skipif(not DEBIAN_DIRECTORY.exists(), reason="dataset-fashion-mnist is not installed")


@pytest.fixture(scope="module")
def bundle():
    return load_bundle(ROOT / "kiosk" / "1", [ROOT / "stockade-release.pub"])


@pytest.fixture(scope="module")
def engine(bundle):
    return InProcessEngine(bundle)


@pytest.fixture(scope="module")
def samples():
    return safetensors.numpy.load(SAMPLES.read_bytes())


def test_it_is_the_kiosk_and_passed_its_gates(bundle):
    assert (bundle.name, bundle.version) == ("kiosk", "1")
    assert [spec.name for spec in bundle.inputs] == ["image"]
    outputs = ("probabilities", "logits", "latent", "energy", "mahalanobis", "residual")
    assert tuple(spec.name for spec in bundle.outputs) == outputs
    assert not bundle.manifest["training"]["smoke"]
    assert all(gate["passed"] for gate in bundle.manifest["gates"])
    assert len(bundle.class_names) == 10


def test_it_recognises_the_samples(engine, samples):
    probabilities = measure.evaluate(engine, samples["images"])["probabilities"]
    assert measure.accuracy(probabilities, samples["labels"]) >= ACCURACY_MIN
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-5)


def test_rows_do_not_influence_each_other(engine, samples):
    images = samples["images"][:300]
    apart = measure.rows_apart(engine, images, measure.evaluate(engine, images))
    assert max(apart.values()) <= 1e-5, apart


def test_the_samples_are_balanced_licensed_and_a_part_of_the_test_set(samples):
    assert samples["images"].shape == (1000, 28, 28)
    assert samples["images"].dtype == samples["labels"].dtype == np.uint8
    assert np.bincount(samples["labels"]).tolist() == [100] * 10
    with safetensors.safe_open(SAMPLES, "np") as file:
        assert file.metadata()["licence"].startswith("MIT")
    assert "The MIT License" in SAMPLES.with_suffix(".LICENSE").read_text()
    if DEBIAN_DIRECTORY.exists():
        test = load_fashion_mnist().test
        np.testing.assert_array_equal(test.images[samples["test_rows"]], samples["images"])
        np.testing.assert_array_equal(test.labels[samples["test_rows"]], samples["labels"])


def test_the_documentation_quotes_the_manifest(bundle):
    text = (ROOT.parent / "docs/explanation/models.md").read_text("utf-8")
    metrics = bundle.manifest["metrics"]
    assert f"accuracy {100 * metrics['accuracy']:.2f} %" in text
    assert f"{bundle.manifest['training']['parameters']:,} parameters" in text
    for kind, found in metrics["foreign"].items():
        rates = [f"{100 * point['rate']:.2f} %" for point in found["flagged"]]
        row = next(line for line in text.splitlines() if line.startswith(f"| {kind} |"))
        assert all(rate in row for rate in rates), (kind, rates)


@needs_data_set
def test_it_reproduces_the_metrics_of_its_manifest(bundle, engine):
    data = load_fashion_mnist()
    assert dict(data.digests) == bundle.manifest["data"]["sha256"]
    outputs = measure.evaluate(engine, data.test.images)
    metrics = bundle.manifest["metrics"]
    accuracy = measure.accuracy(outputs["probabilities"], data.test.labels)
    assert accuracy >= ACCURACY_MIN
    assert accuracy == pytest.approx(metrics["accuracy"], abs=2e-4)  # another CPU may round two images over the edge
    error = measure.calibration_error(outputs["probabilities"], data.test.labels)
    assert error == pytest.approx(metrics["calibration_error"], abs=1e-3)
    inverted = measure.evaluate(engine, 255 - data.test.images)
    area = measure.ranking_area(outputs["mahalanobis"], inverted["mahalanobis"])
    assert area == pytest.approx(metrics["foreign"]["inverted"]["auroc"]["mahalanobis"], abs=1e-4)
