"""The whole recipe, small: data to a signed bundle that is then served and screened."""

from __future__ import annotations

import argparse
import gzip
import importlib.util
import io
import struct
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console

from defenses.budget.screen import Evidence
from defenses.screens.evidence import fit_evidence, load_evidence, measure_evidence
from gateway.cli.train import add_arguments, run
from serving.bundles.bundle import load_bundle
from serving.engines import measure
from serving.engines.inprocess import InProcessEngine
from serving.errors import BundleRejected
from serving.train.errors import GateFailed
from serving.train.kiosk.data import DEBIAN_DIRECTORY
from serving.train.kiosk.module import load_kiosk_module
from serving.train.kiosk.recipe import KioskSettings, robust_settings, smoke_settings, train_kiosk
from serving.train.kiosk.report import Gates, robust_accuracy
from serving.train.report import ScreenFitter
from tests.serving.tiny import tiny_sealed, write


def arguments(*words):
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    return parser.parse_args(["kiosk", *map(str, words)])


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """The real data set where it is installed; elsewhere one of its shape: ten textures, told apart by eye."""
    if DEBIAN_DIRECTORY.exists():
        return DEBIAN_DIRECTORY
    directory = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    kinds = rng.integers(0, 200, (10, 7, 7)).repeat(4, axis=1).repeat(4, axis=2)
    for part, rows in (("train", 60_000), ("t10k", 10_000)):
        labels = rng.integers(0, 10, rows).astype(np.uint8)
        images = (kinds[labels] + rng.integers(0, 56, (rows, 28, 28))).astype(np.uint8)
        for kind, array in (("images-idx3", images), ("labels-idx1", labels)):
            header = struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape)
            (directory / f"{part}-{kind}-ubyte.gz").write_bytes(gzip.compress(header + array.tobytes(), 1))
    return directory


@pytest.mark.slow
def test_a_smoke_run_makes_a_bundle_that_is_served_and_screened(tmp_path, data, capsys):
    words = ("--smoke", "--data", data, "--bundle", tmp_path / "b" / "1", "--signing-key", tmp_path / "k.key")
    extra = ("--plots", tmp_path / "plots", "--samples", tmp_path / "samples.safetensors")
    assert run(arguments(*words, *extra)) == 0
    assert "test accuracy" in capsys.readouterr().out
    bundle = load_bundle(tmp_path / "b" / "1", [tmp_path / "k.pub"])
    assert bundle.manifest["training"]["smoke"]
    assert [path.name for path in sorted((tmp_path / "plots").iterdir())] == [
        "kiosk-confusion.png",
        "kiosk-curves.png",
        "kiosk-energies.png",
        "kiosk-reliability.png",
    ]
    engine = InProcessEngine(bundle)
    noise = np.random.default_rng(0).integers(0, 256, (200, 28, 28), dtype=np.uint8)
    judged = load_evidence(bundle.calibration)
    scores = judged.screen.score(Evidence({}, measure.evaluate(engine, noise)))
    assert (judged.calibration.p_values(scores) <= 0.01).mean() > 0.9
    with pytest.raises(BundleRejected):
        load_bundle(tmp_path / "b" / "1", [])


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_smoke_run_of_the_robust_recipe_says_how_robust_it_is(tmp_path, data, capsys):
    words = ("--recipe", "robust", "--smoke", "--data", data, "--bundle", tmp_path / "b" / "2")
    extra = ("--signing-key", tmp_path / "k.key", "--plots", tmp_path / "plots")
    assert run(arguments(*words, *extra)) == 0
    assert "right under pgd 40" in capsys.readouterr().out
    bundle = load_bundle(tmp_path / "b" / "2", [tmp_path / "k.pub"])
    assert (bundle.version, bundle.manifest["training"]["recipe"]) == ("2", "robust")
    robustness = bundle.manifest["metrics"]["robustness"]
    assert 0 <= robustness["pgd_40"]["right"] <= bundle.manifest["metrics"]["accuracy"] + 0.1
    assert (robustness["auto_attack"] is None) == (importlib.util.find_spec("art") is None)
    assert "kiosk-robust-curves.png" in [path.name for path in (tmp_path / "plots").iterdir()]
    assert "pgd 40" in (tmp_path / "b" / "2" / "MODEL_CARD.md").read_text()
    module = load_kiosk_module(tmp_path / "b" / "2", [tmp_path / "k.pub"])
    images = np.random.default_rng(0).integers(0, 256, (20, 28, 28), dtype=np.uint8)
    served = measure.evaluate(InProcessEngine(bundle), images)
    for name, found in module(torch.from_numpy(measure.as_input(images))).items():
        np.testing.assert_allclose(found.numpy(), served[name], rtol=1e-3, atol=1e-3, err_msg=name)


def test_a_model_that_is_not_robust_enough_is_not_signed():
    for stages, right in (({"right": 0.7}, 0.7), (None, 0.8)):
        robustness = {"pgd_40": {"right": 0.8}, "auto_attack": stages}
        assert robust_accuracy(robustness) == right
    settings = robust_settings(KioskSettings(Path("b"), Path("k")))
    assert (settings.gates.accuracy_min, settings.gates.robust_accuracy_min) == (0.85, 0.75)


def test_a_key_that_cannot_sign_is_said_before_anything_is_trained(tmp_path, data, capsys):
    (tmp_path / "k.key").write_text("no key")
    words = ("--data", data, "--bundle", tmp_path / "b", "--signing-key", tmp_path / "k.key")
    assert run(arguments(*words)) == 1
    assert "not an unencrypted private key" in capsys.readouterr().err
    assert not (tmp_path / "b").exists()


def test_without_the_extra_it_says_what_to_install(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert run(arguments("--bundle", tmp_path / "b")) == 2
    assert "stockade[train]" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("option", "least", "most"), [("--epochs", 1, 1_000_000), ("--seed", 0, 1_000_000)], ids=["epochs", "seed"]
)
def test_numbers_at_their_limits_and_one_past(option, least, most, capsys):
    for value in (least, most):
        assert getattr(arguments(option, value), option.strip("-")) == value
    for value in (least - 1, most + 1, "many"):
        with pytest.raises(SystemExit):
            arguments(f"{option}={value}")


def test_help_loads_no_training_library():
    loaded = "','.join(sorted({'torch', 'onnx', 'sklearn'} & set(sys.modules)))"
    code = f"import sys, gateway.cli.train; sys.exit({loaded} or 0)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_gate_that_fails_leaves_the_old_bundle(tmp_path, data):
    settings = smoke_settings(KioskSettings(tmp_path / "b" / "1", tmp_path / "k.key", data=data))
    tiny = {"train": 512, "fit": 1_000, "calibrate": 3_000, "test": 500}
    settings = replace(
        settings,
        loop=replace(settings.loop, epochs=1),
        rows_max=tiny,
        gates=Gates(accuracy_min=1.01),
    )
    old = write(tiny_sealed(), tmp_path / "b" / "1")
    before = {path.name: path.read_bytes() for path in old.iterdir()}
    with pytest.raises(GateFailed) as caught:
        train_kiosk(settings, ScreenFitter(fit_evidence, measure_evidence), Console(file=io.StringIO()))
    assert caught.value.gate == "accuracy"
    assert {path.name: path.read_bytes() for path in old.iterdir()} == before


def test_without_data_nothing_is_written_and_the_package_is_named(tmp_path, capsys):
    words = ("--data", tmp_path / "absent", "--bundle", tmp_path / "b", "--signing-key", tmp_path / "k.key")
    assert run(arguments(*words)) == 1
    assert "dataset-fashion-mnist" in capsys.readouterr().err
    assert not (tmp_path / "b").exists()
