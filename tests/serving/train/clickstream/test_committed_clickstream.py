"""The clickstream's bundle that comes with the project: verified, and as good on its samples as its manifest says."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import safetensors
import safetensors.numpy

from serving.bundles.bundle import load_bundle
from serving.engines.inprocess import InProcessEngine
from serving.engines.measure import evaluate, rows_apart
from serving.train.clickstream.ecom import ECOM, EVENTS, IDS

ROOT = Path(__file__).parents[4] / "bundles"
SAMPLES = ROOT / "samples" / "ecom-1000.safetensors"


@pytest.fixture(scope="module")
def bundle():
    return load_bundle(ROOT / "clickstream" / "1", [ROOT / "stockade-release.pub"])


@pytest.fixture(scope="module")
def samples():
    return safetensors.numpy.load(SAMPLES.read_bytes())


@pytest.fixture(scope="module")
def outputs(bundle, samples):
    return evaluate(InProcessEngine(bundle), samples["ids"].astype(np.int64), name="events")


def test_it_is_the_clickstream_of_the_pinned_data_and_passed_its_gates(bundle):
    assert (bundle.name, bundle.version, bundle.class_names) == ("clickstream", "1", EVENTS)
    (events,) = bundle.inputs
    assert (events.name, events.datatype, events.low, events.high) == ("events", "INT64", 0, IDS - 1)
    manifest = bundle.manifest
    assert not manifest["training"]["smoke"]
    assert manifest["data"]["sha256"] == {ECOM.file: ECOM.sha256}
    assert manifest["data"]["ids"]["padding"] == 0
    assert all(gate["passed"] for gate in manifest["gates"])


def test_it_knows_more_of_the_samples_than_markov(bundle, samples, outputs):
    found, labels = bundle.manifest["metrics"]["next_click"], samples["labels"].astype(int)
    right = (outputs["probabilities"].argmax(1) == labels).mean()
    assert right == pytest.approx(found["accuracy"], abs=0.04)
    assert right > found["markov_accuracy"]
    loss = -np.log(outputs["probabilities"][np.arange(len(labels)), labels].astype(np.float64)).mean()
    assert loss < found["markov_log_loss"] - 0.05


def test_rows_do_not_influence_each_other(bundle, samples, outputs):
    ids = samples["ids"][:300].astype(np.int64)
    batched = {name: array[:300] for name, array in outputs.items()}
    assert max(rows_apart(InProcessEngine(bundle), ids, batched, name="events").values()) <= 1e-6


def test_the_documentation_quotes_the_manifest(bundle):
    whole = (ROOT.parent / "docs/explanation/models.md").read_text("utf-8")
    text = whole.partition("\n## Clickstream\n")[2].partition("\n## Payments\n")[0]
    metrics = bundle.manifest["metrics"]
    found = metrics["next_click"]
    assert f"{100 * found['accuracy']:.2f} % right (Markov {100 * found['markov_accuracy']:.2f} %)" in text
    assert f"calibration error {100 * found['calibration_error']:.2f} %, log-loss {found['log_loss']:.4f}" in text
    assert f"{bundle.manifest['training']['parameters']:,} parameters" in text
    for kind, seen in metrics["foreign"].items():
        row = next(line for line in text.splitlines() if line.startswith(f"| {kind} |"))
        assert all(f"{100 * point['rate']:.2f} %" in row for point in seen["flagged"]), (kind, row)


def test_the_samples_are_licensed():
    with safetensors.safe_open(SAMPLES, "np") as file:
        assert file.metadata()["licence"].startswith("Apache-2.0")
    assert "Apache License" in SAMPLES.with_suffix(".LICENSE").read_text()
