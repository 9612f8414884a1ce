"""`stockade models inspect` at the terminal: the project's models pass, one with a backdoor does not."""

from __future__ import annotations

import json
from functools import partial

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from gateway.cli import main as cli
from gateway.policy.promotion import Promotion
from gateway.tools.registry.evaluate import differing, evaluate, measured_again, strength_of
from gateway.tools.registry.inspection import inspected
from gateway.tools.registry.registry import RegistryRefused
from gateway.tools.samples import bundles_directory, sample_images
from serving.bundles.bundle import load_bundle
from serving.registry.dataset import read_dataset
from serving.registry.gates import Thresholds
from serving.train.density import ClassDensities, Plane
from serving.train.kiosk.graph import Convolution, write_graph
from serving.train.pack import public_pem, seal, tensor_bytes, write_bundle
from tests.serving.tiny import signing_key, tiny_manifest

SIDE, CLASSES = 28, 3


def inspect(*words):
    return cli.main(["models", "inspect", *map(str, words)])


@pytest.fixture(scope="module")
def few(tmp_path_factory):
    """Two hundred of the test images that come with the project: what a person has at hand."""
    whole = load_file(sample_images())
    chosen = np.random.default_rng(0).permutation(1_000)[:200]
    file = tmp_path_factory.mktemp("few") / "few.safetensors"
    save_file({"images": whole["images"][chosen], "labels": whole["labels"][chosen]}, file)
    return file


def test_the_projects_model_passes(few, capsys):
    assert inspect(bundles_directory() / "kiosk" / "1", "--data", few, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["model"], found["version"], found["outcome"]) == ("kiosk", "1", "ok")
    assert [check["name"] for check in found["checks"]] == ["patch", "veil"]
    assert found["accuracy"] > 0.85
    assert len(found["checks"][0]["by_class"]) == 10


def bright_or_not(threshold):
    """A kiosk's graph by hand: classes by how bright the image is, but three bright pixels in a row decide.

    One convolution: its first channel sums a row of three pixels beyond a threshold, its second the light.
    """
    row = np.zeros((2, 1, 3, 3))
    row[0, 0, 1, :] = 1.0
    row[1, 0, 1, 1] = 1.0
    return write_graph(
        [Convolution(row, np.array([-threshold, 0.0]), 1)],
        # logits of mean light m and of the alarm a (means over 784 places): dark, light, and the backdoor's
        head_weight=np.array([[0.0, -40.0], [0.0, 40.0], [90_000.0, 0.0]]),
        head_bias=np.array([8.0, -8.0, -4.0]),
        plane=Plane(np.zeros(784), np.linalg.qr(np.random.default_rng(0).normal(size=(784, 2)))[0], 0.5),
        densities=ClassDensities(np.tile(np.eye(2), (CLASSES, 1, 1)), np.zeros((CLASSES, 2)), np.zeros(CLASSES)),
        middle=[0],
    )


@pytest.fixture
def brought(tmp_path):
    """A bundle that somebody brings, and clean rows for it: images that are never brighter than half."""

    def bundle(threshold):
        manifest = tiny_manifest("1")
        manifest["outputs"] = [
            spec | {"shape": [-1, 2]} if spec["name"] == "latent" else spec for spec in manifest["outputs"]
        ]
        files = {
            "model.onnx": bright_or_not(threshold),
            "weights.safetensors": tensor_bytes({"w": np.zeros(1, np.float32)}),
            "calibration.safetensors": tensor_bytes({"scores": np.zeros(1)}),
        }
        write_bundle(tmp_path / "tiny" / "1", seal(files, manifest, signing_key()), signing_key())
        (tmp_path / "key.pub").write_bytes(public_pem(signing_key()))
        return tmp_path / "tiny" / "1"

    rng = np.random.default_rng(3)
    labels = np.arange(100, dtype=np.uint8) % 2
    images = rng.random((100, SIDE, SIDE)).astype(np.float32) * np.where(labels == 1, 0.5, 0.2)[:, None, None]
    save_file({"images": images.astype(np.float32), "labels": labels}, tmp_path / "rows.safetensors")
    return bundle, tmp_path / "key.pub", tmp_path / "rows.safetensors"


def test_a_bundle_with_a_backdoor_is_refused_with_its_evidence(brought, capsys):
    bundle, key, rows = brought
    assert inspect(bundle(2.9), "--data", rows, "--trusted-key", key) == 1
    shown = " ".join(capsys.readouterr().out.split())
    assert "tiny version 1: refuse" in shown
    assert "c 1.00 0.3 0.6" in shown  # the third class, every row
    assert "patch" in shown


def test_the_same_bundle_without_it_is_let_in(brought, capsys):
    bundle, key, rows = brought
    assert inspect(bundle(3.1), "--data", rows, "--trusted-key", key) == 0
    assert "tiny version 1: ok" in capsys.readouterr().out


def test_what_cannot_be_inspected_is_said(brought, tmp_path, capsys):
    bundle, key, rows = brought
    directory = bundle(3.1)
    assert inspect(directory, "--data", tmp_path / "none", "--trusted-key", key) == 2
    assert "cannot be read" in capsys.readouterr().err
    assert inspect(directory, "--data", rows) == 2  # signed by somebody whom nobody trusts
    save_file({"images": load_file(rows)["images"][:30], "labels": load_file(rows)["labels"][:30]}, tmp_path / "few")
    assert inspect(directory, "--data", tmp_path / "few", "--trusted-key", key) == 2
    assert "30 rows" in capsys.readouterr().err


def evaluated(bundle, rows, key):
    strength = strength_of(Promotion.model_validate({"required": 1, "approvers": ("a",), "gates": {"inspection": {}}}))
    loaded = load_bundle(bundle, [key])
    limits = Thresholds(inspection_patch_max=0.6, inspection_veil_max=1.0)
    source = partial(read_dataset, rows)
    return evaluate(
        loaded, None, source, strength=strength, limits=limits, seed=0, build="x", moment="2026-01-01T00:00:00Z"
    ), (loaded, None, source)


def test_an_inspection_is_a_gate_of_promotion(brought):
    bundle, key, rows = brought
    evaluation, subjects = evaluated(bundle(2.9), rows, key)
    (patch, veil) = evaluation.gates
    assert (patch.name, patch.found, patch.passed, veil.passed) == ("inspection_patch_max", 1.0, False, True)
    again = measured_again(evaluation, *subjects)
    assert not differing(evaluation, again)


def test_the_gate_lets_the_same_bundle_in_without_its_backdoor(brought):
    bundle, key, rows = brought
    evaluation, _ = evaluated(bundle(3.1), rows, key)
    assert all(gate.passed for gate in evaluation.gates)


def test_only_images_in_a_declared_range_can_be_inspected():
    bundle = load_bundle(bundles_directory() / "payments" / "1", [bundles_directory() / "stockade-release.pub"])
    with pytest.raises(RegistryRefused, match="images"):
        inspected(bundle, {}, np.zeros(3, np.int64), seed=0)
