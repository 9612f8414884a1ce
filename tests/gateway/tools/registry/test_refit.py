"""What a candidate's screens are fitted to: the ones that read answers to its own, the others to nothing new."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
from rich.console import Console
from safetensors.numpy import load, load_file

from gateway.tools.registry.calibrate import heads
from gateway.tools.registry.refit import fitted_again
from gateway.tools.samples import bundles_directory, sample_images
from serving.bundles.bundle import load_bundle, read_bundle
from serving.train.kiosk.data import Labelled, Splits
from tests.serving.tiny import signing_key

QUIET = Console(quiet=True)
OPTIONS = SimpleNamespace(seed=0)


def made_of(version):
    """The files and the manifest of a bundle, as if it were a candidate that nobody has sealed."""
    directory = bundles_directory() / "kiosk" / version
    bundle = load_bundle(directory, [bundles_directory() / "stockade-release.pub"])
    files = {name: data for name, data in read_bundle(directory).items() if name not in ("manifest.json", "model.sig")}
    return files, {name: value for name, value in bundle.manifest.items() if name != "files"}


def splits():
    """Rows that are not those of the bundle's calibration, and too few for a trigger's promise of one in a thousand."""
    found = load_file(sample_images())
    moved = [np.roll(found["images"], shift, axis=(1, 2)) for shift in ((0, 0), (0, 1), (1, 0), (0, -1), (-1, 0))]
    rows = Labelled(np.concatenate(moved), np.tile(found["labels"], len(moved)))
    return Splits(rows, rows.take(np.arange(1_000)), rows.take(np.arange(1_000, 5_000)))


def test_screens_that_read_answers_are_fitted_again_or_taken_out():
    files, manifest = made_of("3")
    again, told = fitted_again((files, manifest), splits(), signing_key(), OPTIONS, QUIET)
    before, after = (load(each[manifest["calibration"]]) for each in (files, again))
    assert heads(before) - heads(after) == {"trigger"}
    assert "trigger" not in told["calibration_report"]
    assert told["calibration_report"]["budget"]["rows"] == 4_000
    changed = {name for name in after if not np.array_equal(before[name], after[name])}
    assert heads(changed) == {"budget"}
    assert {name for name in files if files[name] != again[name]} == {manifest["calibration"]}


def test_a_bundle_without_such_screens_stays_as_it_is():
    made = made_of("2")
    assert fitted_again(made, splits(), signing_key(), OPTIONS, QUIET) is made
