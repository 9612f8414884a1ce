"""Stories of those who want a screen calibrated on rows of theirs, so that it lets through what they will send."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

from defenses.errors import CalibrationInvalid
from defenses.screens.evidence import NAME, fit_evidence, load_evidence, measure_evidence
from serving.bundles.bundle import assemble, read_bundle, read_keys
from serving.errors import BundleRejected, Rejection
from serving.train.pack import seal
from tests.serving.tiny import signing_key, tiny_manifest

BUNDLES = Path(__file__).parents[2] / "bundles"
ARRAYS = "calibration.safetensors"
FLAG = 0.01


def honest(rng, rows):
    return {
        "energy": rng.normal(-8, 2, rows).astype(np.float32),
        "mahalanobis": rng.chisquare(64, rows).astype(np.float32),
        "residual": rng.gamma(3.0, 0.01, rows).astype(np.float32),
    }


def theirs(rng, rows):
    """What they will send one day: foreign by the latent, and a little different each time."""
    return {**honest(rng, rows), "mahalanobis": rng.normal(400, 20, rows).astype(np.float32)}


def mixed(rng, rows, share):
    """Honest rows, of which a share was slipped in."""
    slipped = theirs(rng, round(rows * share))
    return {name: np.concatenate([own[len(slipped[name]) :], slipped[name]]) for name, own in honest(rng, rows).items()}


def flagged(arrays, rows):
    """Return the share that is flagged of the rows."""
    (point,) = measure_evidence(arrays, rows, points=[FLAG])
    return point["rate"]


@pytest.mark.parametrize("resigned", [False, True])
def test_whoever_can_write_the_bundle_but_not_sign_it_moves_no_threshold(resigned):
    keys = read_keys([BUNDLES / "stockade-release.pub"])
    files = read_bundle(BUNDLES / "kiosk/3")
    arrays = safetensors.numpy.load(files[ARRAYS])
    scores = f"{NAME}.calibration"
    files[ARRAYS] = safetensors.numpy.save({**arrays, scores: arrays[scores] + 100.0})
    if resigned:
        files = seal({name: files[name] for name in ("model.onnx", ARRAYS)}, tiny_manifest(), signing_key())
    with pytest.raises(BundleRejected) as refused:
        assemble(files, keys)
    assert refused.value.reason is (Rejection.KEY_UNTRUSTED if resigned else Rejection.DIGEST)


def test_what_was_slipped_into_the_rows_passes_later_and_shows_in_honest_traffic():
    # Three rows in a hundred of theirs, in what is calibrated on and in what is measured on: the report looks right.
    rng = np.random.default_rng(1)
    fit = honest(rng, 4_000)
    clean, _ = fit_evidence(fit, honest(rng, 10_000), honest(rng, 10_000))
    poisoned, report = fit_evidence(fit, mixed(rng, 10_000, 0.03), mixed(rng, 10_000, 0.03), points=[FLAG])
    assert flagged(clean, theirs(rng, 1_000)) == 1.0
    assert flagged(poisoned, theirs(rng, 1_000)) < 0.5
    (promised,) = report["operating_points"]
    low = promised["measured"]["interval"][0]
    assert low > FLAG / 2
    # StockadeScreenFlagsLess: an hour of honest rows, and three deviations of their count.
    rows = 20_000
    assert flagged(poisoned, honest(rng, rows)) < low - 3 * math.sqrt(low / rows)
    assert load_evidence(poisoned).screen.digest != load_evidence(clean).screen.digest, "records tell the two apart"


def test_rows_that_break_the_scale_or_vouch_for_themselves_are_refused():
    rng = np.random.default_rng(2)
    fit, calibrate = honest(rng, 1_000), honest(rng, 3_000)
    with pytest.raises(CalibrationInvalid):
        fit_evidence(fit, calibrate, calibrate)
    endless = {**calibrate, "mahalanobis": np.full(3_000, np.inf, np.float32)}
    with pytest.raises(CalibrationInvalid):
        fit_evidence(fit, endless, honest(rng, 3_000))
