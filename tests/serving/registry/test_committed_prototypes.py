"""The committed bundles that name nearest prototypes: what they were made from, by which command, and how good."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

from gateway.cli.main import main
from serving.bundles.bundle import Bundle, load_bundle
from serving.engines.inprocess import InProcessEngine
from serving.registry.dataset import Dataset, read_dataset
from serving.registry.measure import predictions

ROOT = Path(__file__).parents[3] / "bundles"
KEYS = [ROOT / "stockade-release.pub"]


@dataclass(frozen=True)
class Case:
    before: str
    after: str
    sample: Path


CASES = {
    "kiosk": Case("kiosk/2", "kiosk/3", ROOT / "samples/fashion-mnist-1000.safetensors"),
    "clickstream": Case("clickstream/1", "clickstream/2", ROOT / "samples/ecom-1000.safetensors"),
}


@dataclass(frozen=True)
class Loaded:
    case: Case
    before: Bundle
    after: Bundle
    data: Dataset


@pytest.fixture(scope="module", params=sorted(CASES))
def loaded(request):
    case = CASES[request.param]
    after = load_bundle(ROOT / case.after, KEYS)
    data = read_dataset(case.sample, after, len(after.class_names))
    return Loaded(case, load_bundle(ROOT / case.before, KEYS), after, data)


def test_every_older_output_and_threshold_is_that_of_the_version_before(loaded):
    old, new = InProcessEngine(loaded.before), InProcessEngine(loaded.after)
    for spec in loaded.before.outputs:
        wanted, found = (predictions(engine, loaded.data.inputs, spec.name) for engine in (old, new))
        np.testing.assert_array_equal(found, wanted, err_msg=spec.name)
    for name, array in loaded.before.calibration.items():
        np.testing.assert_array_equal(loaded.after.calibration[name], array, err_msg=name)


def test_they_stand_for_the_model_as_well_as_the_manifest_says(loaded):
    manifest, data = loaded.after.manifest, loaded.data
    chosen, told = manifest["data"]["prototypes"], manifest["metrics"]["prototypes"]
    assert chosen["sha256"] == data.sha256
    engine = InProcessEngine(loaded.after)
    nearest = predictions(engine, data.inputs, "prototypes")[:, 0]
    classes = np.array(chosen["labels"])[nearest]
    rest = np.setdiff1d(np.arange(len(classes)), chosen["rows"])
    said = predictions(engine, data.inputs, "probabilities").argmax(axis=1)
    assert (len(chosen["rows"]), len(rest)) == (told["count"], told["rows"])
    assert (classes == said)[rest].mean() == pytest.approx(told["agree_with_prediction"], abs=5e-3)
    assert (classes == data.labels)[rest].mean() == pytest.approx(told["agree_with_label"], abs=5e-3)


def test_the_documented_command_chooses_the_same_rows(loaded, tmp_path):
    words = ["--data", loaded.case.sample, "--version", loaded.after.version, "--out", tmp_path]
    words += ["--signing-key", tmp_path / "own.key"]
    assert main(["models", "prototypes", *map(str, [ROOT / loaded.case.before, *words])]) == 0
    made = tmp_path / loaded.case.after / "prototypes.safetensors"
    kept = safetensors.numpy.load_file(ROOT / loaded.case.after / "prototypes.safetensors")
    for name, array in safetensors.numpy.load_file(made).items():
        np.testing.assert_array_equal(kept[name], array, err_msg=name)


def test_the_documentation_quotes_the_manifest(loaded):
    told = loaded.after.manifest["metrics"]["prototypes"]
    text = (ROOT.parent / "docs/explanation/models.md").read_text("utf-8")
    row = next(line for line in text.splitlines() if line.startswith(f"| `bundles/{loaded.case.after}`, latent"))
    said = (
        f"| {told['count']} | {told['agree_with_prediction']:.1%} of {told['rows']} | {told['agree_with_label']:.1%} |"
    )
    assert said.replace("%", " %") in row
