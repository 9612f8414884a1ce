"""`stockade defenses calibrate`: another version of a bundle, whose screens know other rows; nothing else is new."""

from __future__ import annotations

import json

import numpy as np
import pytest
import safetensors.numpy

from gateway.cli.main import main
from gateway.tools.samples import bundles_directory, sample_images
from serving.bundles.bundle import load_bundle, read_bundle

BUNDLE = bundles_directory() / "kiosk" / "2"


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    """The sample of the test images, and the same moved a little: 6,000 rows with their classes."""
    found = safetensors.numpy.load_file(sample_images())
    images = found["images"].astype(np.float32) / 255
    moved = [np.roll(images, shift, axis=(1, 2)) for shift in ((0, 0), (0, 1), (1, 0), (0, -1), (-1, 0), (1, 1))]
    file = tmp_path_factory.mktemp("rows") / "rows.safetensors"
    labels = np.tile(found["labels"].astype(np.int64), len(moved))
    safetensors.numpy.save_file({"image": np.concatenate(moved), "labels": labels}, file)
    return file


def calibrate(rows, out, *more):
    fixed = ["--version", "9", "--out", str(out), "--signing-key", str(out / "k.key"), "--data", str(rows)]
    return main(["defenses", "calibrate", str(BUNDLE), *fixed, *more])


def test_what_can_be_fitted_is_and_what_cannot_is_said(rows, tmp_path, capsys):
    assert calibrate(rows, tmp_path, "--only", "trigger", "feedback") == 0
    told = capsys.readouterr().err
    assert "not fitted  trigger" in told, "1,800 rows cannot promise one in a thousand"
    assert "fitted      feedback" in told
    made = load_bundle(tmp_path / "kiosk" / "9", [tmp_path / "k.pub"])
    before, after = read_bundle(BUNDLE), read_bundle(tmp_path / "kiosk" / "9")
    assert {name for name in before if before[name] != after[name]} == {
        "manifest.json",
        "model.sig",
        "calibration.safetensors",
    }
    known = safetensors.numpy.load(before["calibration.safetensors"])
    assert all(np.array_equal(made.calibration[name], array) for name, array in known.items())
    assert any(name.startswith("feedback.") for name in made.calibration)
    assert not any(name.startswith("trigger.") for name in made.calibration)
    assert made.manifest["calibrated"]["from"]["version"] == "2"
    assert made.manifest["calibrated"]["data"]["rows"] == 6000
    assert made.manifest["calibration_report"].keys() == {"evidence", "feedback"}
    again = tmp_path / "again"
    again.mkdir()
    assert calibrate(rows, again, "--only", "feedback", "--json") == 0
    other = load_bundle(again / "kiosk" / "9", [again / "k.pub"])
    assert all(np.array_equal(other.calibration[name], array) for name, array in made.calibration.items())
    assert json.loads(capsys.readouterr().out)["signed"][0]["version"] == "9"


def test_a_version_that_is_there_is_not_written_over(rows, tmp_path, capsys):
    (tmp_path / "kiosk" / "9").mkdir(parents=True)
    assert calibrate(rows, tmp_path, "--only", "feedback") == 1
    assert "a version never changes" in capsys.readouterr().err


def test_where_nothing_can_be_fitted_nothing_is_written(rows, tmp_path, capsys):
    assert calibrate(rows, tmp_path, "--only", "trigger") == 1
    assert "nothing was written" in capsys.readouterr().err
    assert not (tmp_path / "kiosk").exists()


def test_rows_of_another_model_are_refused(tmp_path, capsys):
    file = tmp_path / "other.safetensors"
    safetensors.numpy.save_file({"ids": np.zeros((5000, 4), np.float32)}, file)
    assert calibrate(file, tmp_path, "--only", "feedback") == 1
    assert "the model takes ['image']" in capsys.readouterr().err
