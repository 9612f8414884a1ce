"""Streams through the drift detectors: what is counted as found, late, and a false alarm."""

from __future__ import annotations

import numpy as np
import pytest

from defenses.lab.drift import SHIFTS, Judged, Spoke, first_words, run_stream


def stream(rng, rows, power=1.0, confidence=0.9, rough=9.0):
    return Judged(
        rng.random(rows) ** power, rng.beta(20 * confidence, 20 * (1 - confidence), rows), rng.gamma(rough, size=rows)
    )


def test_a_shift_is_found_in_its_own_stream_and_not_before():
    rng = np.random.default_rng(0)
    before, after = run_stream([stream(rng, 5_000), stream(rng, 2_000, 4.0, 0.6, 12.0)], 10_000)
    assert before == Spoke()
    assert after.martingale is not None
    assert after.martingale <= 200
    assert after.adwin_p_values is not None
    assert after.adwin_scores is not None
    assert after.adwin_roughness is not None
    assert after.first == min(after.martingale, after.adwin_p_values, after.adwin_scores, after.adwin_roughness)
    assert before.first is None


def test_a_detector_that_spoke_before_may_speak_again():
    rng = np.random.default_rng(1)
    first, second = run_stream([stream(rng, 3_000, 4.0), stream(rng, 500, 4.0)], 10_000)
    assert first.martingale is not None
    assert second.martingale is not None


def test_runs_in_which_nothing_was_said_are_later_than_all_others():
    assert first_words([10, None, 30, 20]) == (3, 20.0, 30.0)
    assert first_words([10, None, None])[0] == 1
    assert first_words([10, None, None])[1] == np.inf
    assert first_words([None])[0] == 0


@pytest.mark.parametrize("name", SHIFTS)
def test_a_shift_gives_images_again(name):
    rng = np.random.default_rng(2)
    rows = rng.random((5, 28, 28), np.float32)
    kept = rows.copy()
    shifted = SHIFTS[name](rows, rng)
    assert (shifted.shape, shifted.dtype) == (rows.shape, np.float32)
    assert 0 <= shifted.min() <= shifted.max() <= 1
    assert not np.array_equal(shifted, rows)
    np.testing.assert_array_equal(rows, kept)
