"""The payments bundle that comes with the project: verified, and on its own test rows what its manifest says."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import safetensors

from serving.bundles.bundle import load_bundle
from serving.engines.inprocess import InProcessEngine
from serving.engines.measure import accuracy, calibration_error, ranking_area, rows_apart
from serving.registry.dataset import read_dataset
from serving.train.payments.data import DEBIAN_DIRECTORY, load_applications, split
from serving.train.payments.schema import CREDIT_DATA

ROOT = Path(__file__).parents[4] / "bundles"
SAMPLES = ROOT / "samples" / "credit-data-891.safetensors"
needs_data_set = pytest.mark.skipif(not DEBIAN_DIRECTORY.exists(), reason="r-cran-modeldata is not installed")


@pytest.fixture(scope="module")
def bundle():
    return load_bundle(ROOT / "payments" / "1", [ROOT / "stockade-release.pub"])


@pytest.fixture(scope="module")
def rows(bundle):
    return read_dataset(SAMPLES, bundle, 2)


@pytest.fixture(scope="module")
def outputs(bundle, rows):
    return InProcessEngine(bundle).infer(rows.inputs)


def test_it_is_of_the_published_table_and_passed_its_gates(bundle):
    assert (bundle.name, bundle.version, bundle.class_names) == ("payments", "1", ("good", "bad"))
    manifest = bundle.manifest
    assert not manifest["training"]["smoke"]
    assert manifest["data"]["published"]
    assert manifest["data"]["sha256"] == {"credit_data": CREDIT_DATA.sha256}
    assert all(gate["passed"] for gate in manifest["gates"])


def test_it_reaches_its_aims(bundle):
    metrics = bundle.manifest["metrics"]
    assert metrics["auc"] >= 0.833
    assert metrics["terms"] <= 8
    assert metrics["calibration_error"] <= 0.03


def test_its_test_rows_measure_again_what_the_manifest_says(bundle, rows, outputs):
    metrics, bad = bundle.manifest["metrics"], rows.labels == 1
    assert len(rows.labels) == bundle.manifest["data"]["rows"]["test"]
    assert ranking_area(outputs["logit"][~bad], outputs["logit"][bad]) == pytest.approx(metrics["auc"], abs=1e-6)
    assert accuracy(outputs["probabilities"], rows.labels) == pytest.approx(metrics["accuracy"], abs=1e-6)
    error = calibration_error(outputs["probabilities"], rows.labels)
    assert error == pytest.approx(metrics["calibration_error"], abs=1e-4)


def test_contributions_add_up_to_the_score_and_the_largest_adverse_ones_are_the_reasons(bundle, outputs):
    parts = outputs["contributions"]
    total = bundle.manifest["training"]["intercept"] + parts.sum(axis=1)
    np.testing.assert_allclose(outputs["logit"], total, rtol=0, atol=1e-5)
    order = np.argsort(-parts, axis=1, kind="stable")[:, : outputs["reason_codes"].shape[1]]
    adverse = np.take_along_axis(parts, order, axis=1) > 0
    np.testing.assert_array_equal(outputs["reason_codes"], np.where(adverse, order + 1, 0))


def test_rows_do_not_influence_each_other(bundle, rows, outputs):
    apart = rows_apart(InProcessEngine(bundle), rows.inputs["features"], outputs, name="features")
    assert max(apart.values()) <= 1e-4, apart


def test_the_documentation_quotes_the_manifest(bundle):
    text = (ROOT.parent / "docs/explanation/models.md").read_text("utf-8").partition("\n## Payments\n")[2]
    metrics = bundle.manifest["metrics"]
    assert f"AUC {metrics['auc']:.3f}, calibration error {100 * metrics['calibration_error']:.1f} %" in text
    for kind, found in metrics["foreign"].items():
        row = next(line for line in text.splitlines() if line.startswith((f"| {kind} |", f"| {kind}: ")))
        assert all(f"{100 * point['rate']:.2f} %" in row for point in found["flagged"]), (kind, row)


def test_the_samples_are_licensed():
    with safetensors.safe_open(SAMPLES, "np") as file:
        assert file.metadata()["licence"].startswith("MIT, (c) 2019 Max Kuhn")
    assert "The MIT License" in SAMPLES.with_suffix(".LICENSE").read_text()


@needs_data_set
def test_the_samples_are_the_test_rows_of_the_bundles_seed(bundle, rows):
    data = load_applications(CREDIT_DATA)
    test = data.take(split(data.labels, bundle.manifest["training"]["seed"]).test)
    np.testing.assert_array_equal(test.features, rows.inputs["features"])
    np.testing.assert_array_equal(test.labels, rows.labels)
