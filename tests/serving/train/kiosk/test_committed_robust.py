"""The robust kiosk that comes with the project: verified, as good as its manifest says, and as robust."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
import torch

from serving.bundles.bundle import load_bundle
from serving.engines import measure
from serving.engines.inprocess import InProcessEngine
from serving.train.kiosk.data import DEBIAN_DIRECTORY, Labelled, load_fashion_mnist
from serving.train.kiosk.module import load_kiosk_module
from serving.train.kiosk.robustness import Attacked, under_attack

ROOT = Path(__file__).parents[4] / "bundles"
DIRECTORY = ROOT / "kiosk" / "2"
KEYS = [ROOT / "stockade-release.pub"]
BUNDLES_BYTES_MAX = 20_000_000
needs_data_set = pytest.mark.skipif(not DEBIAN_DIRECTORY.exists(), reason="dataset-fashion-mnist is not installed")


@pytest.fixture(scope="module")
def bundle():
    return load_bundle(DIRECTORY, KEYS)


@pytest.fixture(scope="module")
def engine(bundle):
    return InProcessEngine(bundle)


@pytest.fixture(scope="module")
def samples():
    return safetensors.numpy.load((ROOT / "samples" / "fashion-mnist-1000.safetensors").read_bytes())


def test_it_stands_in_for_version_1(bundle):
    other = load_bundle(ROOT / "kiosk" / "1", KEYS)
    assert (bundle.name, bundle.version, bundle.class_names) == ("kiosk", "2", other.class_names)
    assert bundle.inputs == other.inputs
    assert [spec.name for spec in bundle.outputs] == [spec.name for spec in other.outputs]
    assert bundle.manifest["roles"] == other.manifest["roles"]
    assert set(bundle.calibration) == set(other.calibration)


def test_it_passed_its_gates_and_was_attacked(bundle):
    assert not bundle.manifest["training"]["smoke"]
    assert all(gate["passed"] for gate in bundle.manifest["gates"])
    assert "robust_accuracy" in [gate["name"] for gate in bundle.manifest["gates"]]
    found = bundle.manifest["metrics"]["robustness"]["auto_attack"]
    assert found["rows"] >= 300
    assert found["interval"][0] < found["right"] < found["interval"][1]


def test_the_bundles_together_fit_into_a_repository():
    assert sum(path.stat().st_size for path in ROOT.rglob("*") if path.is_file()) < BUNDLES_BYTES_MAX


def test_rows_do_not_influence_each_other(engine, samples):
    images = samples["images"][:300]
    apart = measure.rows_apart(engine, images, measure.evaluate(engine, images))
    assert max(apart.values()) <= 1e-5, apart


@pytest.mark.slow
def test_it_stands_an_attack_that_takes_version_1_apart(samples):
    rows = Labelled(samples["images"][::5].copy(), samples["labels"][::5].copy())
    robust, clean = (
        under_attack(load_kiosk_module(ROOT / "kiosk" / version, KEYS).net, rows, Attacked(), 0)["pgd_40"]["right"]
        for version in ("2", "1")
    )
    assert robust > 0.65
    assert clean < 0.1


def test_its_module_answers_as_its_graph(engine, samples):
    images = samples["images"][::20]
    found = load_kiosk_module(DIRECTORY, KEYS)(torch.from_numpy(measure.as_input(images)))
    for name, values in measure.evaluate(engine, images).items():
        np.testing.assert_allclose(found[name].numpy(), values, rtol=1e-3, atol=1e-3, err_msg=name)


def test_the_documentation_quotes_the_manifest(bundle):
    text = (ROOT.parent / "docs/explanation/models.md").read_text("utf-8")
    section = text[text.index("### Version 2") :]
    metrics = bundle.manifest["metrics"]
    assert f"accuracy {100 * metrics['accuracy']:.2f} %" in section
    assert f"{bundle.manifest['training']['parameters']:,} parameters" in section
    for found in (metrics["robustness"]["auto_attack"], metrics["robustness"]["pgd_40"]):
        assert f"{100 * found['right']:.2f} %" in section
    for kind, found in metrics["foreign"].items():
        rates = [f"{100 * point['rate']:.2f} %" for point in found["flagged"]]
        row = next(line for line in section.splitlines() if line.startswith(f"| {kind} |"))
        assert all(rate in row for rate in rates), (kind, rates)


@needs_data_set
def test_it_reproduces_the_metrics_of_its_manifest(bundle, engine):
    test = load_fashion_mnist().test
    outputs = measure.evaluate(engine, test.images)
    metrics = bundle.manifest["metrics"]
    accuracy = measure.accuracy(outputs["probabilities"], test.labels)
    assert accuracy == pytest.approx(metrics["accuracy"], abs=2e-4)  # another CPU may round two images over the edge
    error = measure.calibration_error(outputs["probabilities"], test.labels)
    assert error == pytest.approx(metrics["calibration_error"], abs=1e-3)
