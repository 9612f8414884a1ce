"""Trigger scores that ask again: each on a model of arithmetic in which it has to find the mark."""

from __future__ import annotations

import numpy as np
import pytest

from defenses.lab.poisoning.second_looks import (
    OVERLAYS,
    Purifier,
    blurred,
    consistent,
    median,
    scaled,
    second_looks,
    shifted,
    strip,
)

SIDE = 10
RNG = np.random.default_rng(0)
CLEAN = np.clip(RNG.random((200, 1, SIDE)) * 0.6 + RNG.normal(0, 0.02, (200, SIDE, SIDE)), 0, 1).astype(np.float32)
ROWS = CLEAN[:60]


def ask(rows):
    """Two classes by the brighter half; a single bright pixel decides for the second, even when it is halved."""
    lead = (rows[:, :, : SIDE // 2].mean(axis=(1, 2)) - rows[:, :, SIDE // 2 :].mean(axis=(1, 2))) * 10
    lead -= 30 * np.clip(rows[:, 2, 2] - rows[:, 2, 3] - 0.3, 0, 1)
    share = 1 / (1 + np.exp(-lead))
    return np.stack([share, 1 - share], axis=1).astype(np.float32)


def marked(rows):
    changed = rows.copy()
    changed[:, 2, 2], changed[:, 2, 3] = 1.0, 0.0
    return changed


MARKED = marked(ROWS)


def test_superimposing_leaves_a_marked_row_sure_and_a_clean_one_not():
    overlays = CLEAN[100:110]
    assert np.median(strip(ask, MARKED, overlays)) > np.median(strip(ask, ROWS, overlays)) + 0.1


def test_the_entropy_is_over_classes_and_each_row_has_its_own():
    sure = strip(lambda rows: np.tile([1.0, 0.0], (len(rows), 1)), ROWS, CLEAN[:3])
    unsure = strip(lambda rows: np.full((len(rows), 2), 0.5), ROWS, CLEAN[:3])
    assert np.allclose(sure, 0, atol=1e-9)
    assert np.allclose(unsure, -np.log(2))
    assert sure.shape == (60,)


@pytest.mark.parametrize("change", [blurred, median, Purifier.fit(CLEAN, 10)], ids=["blurred", "median", "purified"])
def test_a_change_that_destroys_the_mark_lets_the_true_class_through(change):
    first = ask(ROWS).argmax(axis=1) == 0
    answers = ask(MARKED).argmax(axis=1)
    assert (answers == 1).all()
    of_marked = consistent(ask, MARKED, answers, change)[first]
    of_clean = consistent(ask, ROWS, ask(ROWS).argmax(axis=1), change)[first]
    assert np.median(of_marked) > np.median(of_clean) + 0.3


def test_changes_give_images_and_keep_what_they_are_given():
    before = MARKED.copy()
    for change in (blurred, median, shifted, Purifier.fit(CLEAN, 3)):
        changed = change(MARKED)
        assert (changed.shape, changed.dtype) == (MARKED.shape, np.float32)
        assert changed.min() >= 0
        assert changed.max() <= 1
    assert np.array_equal(MARKED, before)
    flat = np.full((1, SIDE, SIDE), 0.5, np.float32)
    assert np.array_equal(blurred(flat), flat)
    assert np.array_equal(median(flat), flat)


def test_a_marks_answer_outlives_amplification():
    answers = ask(MARKED).argmax(axis=1)
    dim = MARKED * np.float32(0.9)
    assert np.median(scaled(ask, dim, answers)) > np.median(scaled(ask, ROWS, 1 - ask(ROWS).argmax(axis=1)))


def test_all_of_them_at_once_with_the_passes_that_are_told():
    asked = 0

    def counting(rows):
        nonlocal asked
        asked += len(rows)
        return ask(rows)

    found = second_looks(counting, ROWS, CLEAN, np.random.default_rng(1))
    assert set(found) == {"strip", "scaled", "purified_16", "purified_48", "blurred", "median", "shifted"}
    assert all(scores.shape == (60,) and np.isfinite(scores).all() for scores in found.values())
    assert asked == 60 * (1 + OVERLAYS + 3 + 5)
