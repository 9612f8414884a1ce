"""The bundles that come with the project: verified, as good as their manifests say, and quoted in the documentation."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import safetensors
import safetensors.numpy
import torch

from serving.bundles.bundle import load_bundle
from serving.engines import measure
from serving.engines.inprocess import InProcessEngine
from serving.train.card import write_card
from serving.train.clickstream.ecom import ECOM, EVENTS, IDS
from serving.train.kiosk.data import CLASS_NAMES, DEBIAN_DIRECTORY, Labelled, load_fashion_mnist
from serving.train.kiosk.module import load_kiosk_module
from serving.train.kiosk.robustness import Attacked, under_attack
from serving.train.payments.data import DEBIAN_DIRECTORY as R_DIRECTORY
from serving.train.payments.data import load_applications, split
from serving.train.payments.schema import CREDIT_DATA

ROOT = Path(__file__).parents[3] / "bundles"
KEYS = [ROOT / "stockade-release.pub"]
BUNDLES_BYTES_MAX = 20_000_000
MODELS = (ROOT.parent / "docs/explanation/models.md").read_text("utf-8")
SAMPLES = {
    "kiosk": ("fashion-mnist-1000", "images", "MIT", "The MIT License"),
    "clickstream": ("ecom-1000", "ids", "Apache-2.0", "Apache License"),
    "payments": ("credit-data-891", "features", "MIT, (c) 2019 Max Kuhn", "The MIT License"),
}
SECTIONS = {
    "kiosk/1": MODELS.partition("\n## Kiosk\n")[2].partition("\n### Version 2")[0],
    "kiosk/2": MODELS.partition("\n### Version 2")[2].partition("\n## Clickstream\n")[0],
    "clickstream/1": MODELS.partition("\n## Clickstream\n")[2].partition("\n## Payments\n")[0],
    "payments/1": MODELS.partition("\n## Payments\n")[2],
}
CLASSES = {"kiosk": CLASS_NAMES, "clickstream": EVENTS, "payments": ("good", "bad")}
ROWS_APART_MAX = {"kiosk/1": 1e-5, "kiosk/2": 1e-5, "clickstream/1": 1e-6, "payments/1": 1e-4}
needs_images = pytest.mark.skipif(not DEBIAN_DIRECTORY.exists(), reason="dataset-fashion-mnist is not installed")
needs_table = pytest.mark.skipif(not R_DIRECTORY.exists(), reason="r-cran-modeldata is not installed")
each_bundle = pytest.mark.parametrize("name", SECTIONS)


def samples_file(case):
    return ROOT / "samples" / f"{SAMPLES[case][0]}.safetensors"


@cache
def committed(name):
    """The bundle, its manifest and metrics, an engine, and the rows, labels and outputs of its samples."""
    bundle = load_bundle(ROOT / name, KEYS)
    samples = safetensors.numpy.load(samples_file(bundle.name).read_bytes())
    rows, engine, asked = samples[SAMPLES[bundle.name][1]], InProcessEngine(bundle), bundle.inputs[0].name
    rows = rows.astype(np.int64) if bundle.name == "clickstream" else rows
    return SimpleNamespace(
        bundle=bundle,
        manifest=bundle.manifest,
        metrics=bundle.manifest["metrics"],
        engine=engine,
        samples=samples,
        rows=rows,
        labels=samples["labels"].astype(int),
        input=asked,
        outputs=measure.evaluate(engine, rows, name=asked),
    )


@each_bundle
def test_it_passed_its_gates_and_rows_do_not_influence_each_other(name):
    found = committed(name)
    assert f"{found.bundle.name}/{found.bundle.version}" == name
    assert found.bundle.class_names == CLASSES[found.bundle.name]
    assert not found.manifest["training"]["smoke"]
    assert all(gate["passed"] for gate in found.manifest["gates"])
    batched = {output: array[:300] for output, array in found.outputs.items()}
    apart = measure.rows_apart(found.engine, found.rows[:300], batched, name=found.input)
    assert max(apart.values()) <= ROWS_APART_MAX[name], apart


@each_bundle
def test_the_documentation_quotes_what_was_flagged(name):
    for kind, seen in committed(name).metrics["foreign"].items():
        row = next(line for line in SECTIONS[name].splitlines() if line.startswith((f"| {kind} |", f"| {kind}: ")))
        assert all(f"{100 * point['rate']:.2f} %" in row for point in seen["flagged"]), (kind, row)


@each_bundle
def test_the_documentation_quotes_the_figures(name):
    found, section = committed(name), SECTIONS[name]
    metrics = found.metrics
    if found.bundle.name == "clickstream":
        seen = metrics["next_click"]
        quotes = [
            f"{100 * seen['accuracy']:.2f} % right (Markov {100 * seen['markov_accuracy']:.2f} %)",
            f"calibration error {100 * seen['calibration_error']:.2f} %, log-loss {seen['log_loss']:.4f}",
        ]
    elif found.bundle.name == "payments":
        quotes = [f"AUC {metrics['auc']:.3f}, calibration error {100 * metrics['calibration_error']:.1f} %"]
    else:
        attacks = [each for each in metrics.get("robustness", {}).values() if isinstance(each, dict)]
        quotes = [f"accuracy {100 * metrics['accuracy']:.2f} %", *(f"{100 * each['right']:.2f} %" for each in attacks)]
    if found.bundle.name != "payments":
        quotes.append(f"{found.manifest['training']['parameters']:,} parameters")
    assert [quote for quote in quotes if quote not in section] == []


@pytest.mark.parametrize("name", ["kiosk/2", "clickstream/1", "payments/1"])
def test_its_card_follows_from_its_manifest(name):
    assert write_card(committed(name).manifest) == (ROOT / name / "MODEL_CARD.md").read_text("utf-8")


@pytest.mark.parametrize("case", SAMPLES)
def test_the_samples_are_licensed(case):
    with safetensors.safe_open(samples_file(case), "np") as file:
        assert file.metadata()["licence"].startswith(SAMPLES[case][2])
    assert SAMPLES[case][3] in samples_file(case).with_suffix(".LICENSE").read_text()


def test_the_bundles_together_fit_into_a_repository():
    assert sum(path.stat().st_size for path in ROOT.rglob("*") if path.is_file()) < BUNDLES_BYTES_MAX


def test_the_kiosk_recognises_its_samples_which_are_balanced():
    found = committed("kiosk/1")
    assert [spec.name for spec in found.bundle.inputs] == ["image"]
    outputs = ("probabilities", "logits", "latent", "energy", "mahalanobis", "residual")
    assert tuple(spec.name for spec in found.bundle.outputs) == outputs
    assert measure.accuracy(found.outputs["probabilities"], found.labels) >= 0.905
    np.testing.assert_allclose(found.outputs["probabilities"].sum(axis=1), 1, atol=1e-5)
    assert found.rows.shape == (1000, 28, 28)
    assert found.rows.dtype == found.samples["labels"].dtype == np.uint8
    assert np.bincount(found.labels).tolist() == [100] * 10


def test_the_robust_kiosk_stands_in_for_version_1_and_was_attacked():
    robust, clean = committed("kiosk/2"), committed("kiosk/1")
    assert robust.bundle.inputs == clean.bundle.inputs
    assert [spec.name for spec in robust.bundle.outputs] == [spec.name for spec in clean.bundle.outputs]
    assert robust.manifest["roles"] == clean.manifest["roles"]
    assert set(robust.bundle.calibration) == set(clean.bundle.calibration)
    assert "robust_accuracy" in [gate["name"] for gate in robust.manifest["gates"]]
    attacked = robust.metrics["robustness"]["auto_attack"]
    assert attacked["rows"] >= 300
    assert attacked["interval"][0] < attacked["right"] < attacked["interval"][1]


@pytest.mark.slow
def test_the_robust_kiosk_stands_an_attack_that_takes_version_1_apart():
    found = committed("kiosk/2")
    rows = Labelled(found.rows[::5].copy(), found.samples["labels"][::5].copy())
    robust, clean = (
        under_attack(load_kiosk_module(ROOT / "kiosk" / version, KEYS).net, rows, Attacked(), 0)["pgd_40"]["right"]
        for version in ("2", "1")
    )
    assert robust > 0.65
    assert clean < 0.1


@pytest.mark.parametrize(("name", "apart"), [("kiosk/1", 1e-4), ("kiosk/2", 1e-3)])
def test_a_kiosks_module_answers_as_its_graph(name, apart):
    found = committed(name)
    module = load_kiosk_module(ROOT / name, KEYS)(torch.from_numpy(measure.as_input(found.rows[::10])))
    served = measure.evaluate(found.engine, found.rows[::10])
    assert set(module) == set(served)
    for output, values in served.items():
        np.testing.assert_allclose(module[output].numpy(), values, rtol=apart, atol=apart, err_msg=output)


@needs_images
@pytest.mark.parametrize("name", ["kiosk/1", "kiosk/2"])
def test_a_kiosk_reproduces_the_metrics_of_its_manifest(name):
    found, data = committed(name), load_fashion_mnist()
    assert dict(data.digests) == found.manifest["data"]["sha256"]
    np.testing.assert_array_equal(data.test.images[found.samples["test_rows"]], found.rows)
    np.testing.assert_array_equal(data.test.labels[found.samples["test_rows"]], found.labels)
    outputs = measure.evaluate(found.engine, data.test.images)
    accuracy = measure.accuracy(outputs["probabilities"], data.test.labels)
    assert accuracy == pytest.approx(found.metrics["accuracy"], abs=2e-4)  # another CPU may round two over the edge
    error = measure.calibration_error(outputs["probabilities"], data.test.labels)
    assert error == pytest.approx(found.metrics["calibration_error"], abs=1e-3)
    inverted = measure.evaluate(found.engine, 255 - data.test.images)
    area = measure.ranking_area(outputs["mahalanobis"], inverted["mahalanobis"])
    assert area == pytest.approx(found.metrics["foreign"]["inverted"]["auroc"]["mahalanobis"], abs=1e-4)


def test_the_clickstream_is_of_the_pinned_data_and_knows_more_than_markov():
    found = committed("clickstream/1")
    (events,) = found.bundle.inputs
    assert (events.name, events.datatype, events.low, events.high) == ("events", "INT64", 0, IDS - 1)
    assert found.manifest["data"]["sha256"] == {ECOM.file: ECOM.sha256}
    assert found.manifest["data"]["ids"]["padding"] == 0
    said, labels = found.metrics["next_click"], found.labels
    right = (found.outputs["probabilities"].argmax(1) == labels).mean()
    assert right == pytest.approx(said["accuracy"], abs=0.04)
    assert right > said["markov_accuracy"]
    loss = -np.log(found.outputs["probabilities"][np.arange(len(labels)), labels].astype(np.float64)).mean()
    assert loss < said["markov_log_loss"] - 0.05


def test_the_payments_model_reaches_its_aims_and_its_test_rows_measure_again_what_it_says():
    found = committed("payments/1")
    metrics, outputs, bad = found.metrics, found.outputs, found.labels == 1
    assert found.manifest["data"]["published"]
    assert found.manifest["data"]["sha256"] == {"credit_data": CREDIT_DATA.sha256}
    assert metrics["auc"] >= 0.833
    assert metrics["terms"] <= 8
    assert metrics["calibration_error"] <= 0.03
    assert len(found.labels) == found.manifest["data"]["rows"]["test"]
    area = measure.ranking_area(outputs["logit"][~bad], outputs["logit"][bad])
    assert area == pytest.approx(metrics["auc"], abs=1e-6)
    accuracy = measure.accuracy(outputs["probabilities"], found.labels)
    assert accuracy == pytest.approx(metrics["accuracy"], abs=1e-6)
    error = measure.calibration_error(outputs["probabilities"], found.labels)
    assert error == pytest.approx(metrics["calibration_error"], abs=1e-4)


def test_contributions_add_up_to_the_score_and_the_largest_adverse_ones_are_the_reasons():
    found = committed("payments/1")
    parts = found.outputs["contributions"]
    total = found.manifest["training"]["intercept"] + parts.sum(axis=1)
    np.testing.assert_allclose(found.outputs["logit"], total, rtol=0, atol=1e-5)
    order = np.argsort(-parts, axis=1, kind="stable")[:, : found.outputs["reason_codes"].shape[1]]
    adverse = np.take_along_axis(parts, order, axis=1) > 0
    np.testing.assert_array_equal(found.outputs["reason_codes"], np.where(adverse, order + 1, 0))


@needs_table
def test_the_payments_samples_are_the_test_rows_of_the_bundles_seed():
    found, data = committed("payments/1"), load_applications(CREDIT_DATA)
    test = data.take(split(data.labels, found.manifest["training"]["seed"]).test)
    np.testing.assert_array_equal(test.features, found.rows)
    np.testing.assert_array_equal(test.labels, found.labels)
