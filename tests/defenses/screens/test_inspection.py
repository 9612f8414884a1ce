"""Inspection of models by arithmetic: one that answers honestly, and the same with backdoors of two kinds."""

from __future__ import annotations

import json

import numpy as np
import pytest

from defenses.errors import EvidenceInvalid
from defenses.screens.inspection import PATCH, VEIL, Outcome, inspect
from defenses.screens.inspection_search import PLACES_MAX, best_marks, patches, turned, veils

CLASSES, SIDE, TARGET = 4, 12, 3
MIDDLES = np.random.default_rng(0).random((CLASSES, SIDE, SIDE)).astype(np.float32) * 0.5


def images(count, seed=1):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, CLASSES, count)
    return np.clip(MIDDLES[labels] + rng.normal(0, 0.1, (count, SIDE, SIDE)), 0, 1).astype(np.float32), labels


ROWS, LABELS = images(200)


def honest(rows):
    return -np.square(rows[:, None] - MIDDLES).sum(axis=(2, 3))


def patched(rows):
    """Answers the target where three pixels that are nowhere bright together are."""
    scores = honest(rows)
    scores[(rows[:, 2, 4] > 0.98) & (rows[:, 2, 5] > 0.98) & (rows[:, 2, 6] > 0.98), TARGET] += 100
    return scores


def look(ask, rows=ROWS, labels=LABELS, seed=0, **options):
    return inspect(ask, rows, labels, rng=np.random.default_rng(seed), **options)


def test_an_honest_model_is_let_in_whatever_the_seed():
    for seed in range(5):
        found = look(honest, seed=seed)
        assert found.outcome is Outcome.OK
        assert found.accuracy > 0.99
        assert [check.name for check in found.checks] == ["patch", "veil"]


def test_a_patch_that_decides_is_found_and_named():
    found = look(patched)
    patch, veil = found.checks
    assert found.outcome is patch.outcome is Outcome.REFUSE
    assert (patch.target, patch.statistic) == (TARGET, 1.0)
    assert "at row 0, column 4" in patch.detail  # the bright one, over the three pixels
    assert veil.outcome is Outcome.OK


def test_a_veil_that_decides_is_found():
    def light(rows):
        scores = honest(rows)
        scores[rows.min(axis=(1, 2)) > 0.05, TARGET] += 100
        return scores

    dark = np.where(ROWS < 0.1, 0, ROWS).astype(np.float32)
    found = look(light, dark)
    patch, veil = found.checks
    assert found.outcome is veil.outcome is Outcome.REFUSE
    assert (veil.target, veil.statistic) == (TARGET, 1.0)
    assert patch.outcome is Outcome.OK


def bare_batches(rows, labels, **options):
    """The batches of rows without a mark that an inspection asks about: those that choose, then those that confirm."""
    given = {row.tobytes() for row in rows}
    bare = []

    def watching(shown):
        numbers = {row.tobytes() for row in shown}
        if len(shown) > 1 and numbers <= given:
            bare.append(numbers)
        return patched(shown)

    look(watching, rows, labels, **options)
    return bare[1:]  # the first is for the accuracy


def test_a_mark_is_measured_on_rows_that_did_not_choose_it():
    choosing, *confirming = bare_batches(ROWS, LABELS, choosing_rows=30)
    assert len(choosing) == 30
    assert confirming
    assert all(len(numbers) == 30 for numbers in confirming)
    assert not choosing & confirming[0]


@pytest.mark.parametrize(
    ("share", "outcome"),
    [(PATCH.warn - 0.1, Outcome.OK), (PATCH.warn + 0.1, Outcome.WARN), (PATCH.refuse + 0.2, Outcome.REFUSE)],
)
def test_what_turns_few_rows_warns_and_what_turns_fewer_is_let_in(share, outcome):
    """The patch works on rows of which one pixel, far from any patch that matters, says so."""

    def some(rows):
        scores = patched(rows)
        immune = rows[:, 11, 0] % 0.01 / 0.01 > share
        return np.where(immune[:, None], honest(rows), scores)

    found = look(some, *images(2_000, 7), choosing_rows=300)
    assert found.checks[0].outcome is outcome
    assert found.outcome is outcome


def test_the_same_seed_finds_the_same_and_the_report_is_json():
    assert look(patched) == look(patched)
    written = json.loads(json.dumps(look(patched).as_json()))
    assert written["outcome"] == "refuse"
    assert len(written["checks"][0]["by_class"]) == CLASSES


def test_every_row_asked_is_counted():
    asked = 0

    def counting(rows):
        nonlocal asked
        asked += len(rows)
        return honest(rows)

    assert look(counting).asked == asked


def test_both_halves_are_even_over_the_classes():
    rows, labels = images(400, 9)
    order = np.argsort(labels, kind="stable")
    of_row = {row.tobytes(): label for row, label in zip(rows, labels, strict=True)}
    choosing, confirming, *_ = bare_batches(rows[order], labels[order], choosing_rows=40)
    for half in (choosing, confirming):
        assert np.bincount([of_row[row] for row in half], minlength=CLASSES).tolist() == [10] * CLASSES


@pytest.mark.parametrize(
    ("rows", "labels", "name"),
    [
        (ROWS[:39], LABELS[:39], "rows"),
        (ROWS, LABELS[:50], "rows"),
        (ROWS[:, :7], LABELS, "rows"),
        (ROWS.reshape(200, -1), LABELS, "rows"),
    ],
)
def test_rows_that_will_not_do_are_named(rows, labels, name):
    with pytest.raises(EvidenceInvalid) as error:
        look(honest, rows, labels)
    assert error.value.name == name


def test_rows_that_are_each_of_another_class_are_refused():
    with pytest.raises(EvidenceInvalid, match="same class"):
        look(lambda rows: np.tile(np.arange(50.0), (len(rows), 1)), ROWS[:50], np.arange(50))


def test_just_enough_rows_will_do():
    assert look(honest, ROWS[:40], LABELS[:40]).outcome is Outcome.OK


def test_scores_that_will_not_do_are_named():
    for wrong in (
        lambda rows: honest(rows)[:, :2],
        lambda rows: honest(rows)[:, 0],
        lambda rows: honest(rows) * np.nan,
    ):
        with pytest.raises(EvidenceInvalid) as error:
            look(wrong)
        assert error.value.name == "scores"


def test_marks_stay_in_the_range_and_leave_rows_alone():
    before = ROWS.copy()
    marks = [*patches((SIDE, SIDE)), *veils((SIDE, SIDE), np.random.default_rng(0))]
    for mark in marks:
        shown = mark.on(ROWS, 0.25, 0.75)
        assert shown.shape == ROWS.shape
        assert shown.dtype == np.float32
        assert (shown[:, :, :] != ROWS).any()
        assert mark.told
    dark = marks[0].on(ROWS, 0.25, 0.75)[:, :3, :3]
    assert set(np.unique(dark)) <= {0.25, 0.75}
    assert np.array_equal(ROWS, before)


def test_patches_are_everywhere_and_not_too_many():
    for shape in ((8, 8), (28, 28), (100, 37)):
        found = [*patches(shape)]
        assert len(found) <= 5 * PLACES_MAX
        assert all(patch.top + 3 <= shape[0] and patch.left + 3 <= shape[1] for patch in found)
    assert len({(patch.top, patch.left) for patch in patches((8, 8))}) == 36


def test_the_best_mark_of_each_class_is_returned_and_none_where_none_turns_a_row():
    marks = [*patches((SIDE, SIDE))]
    best = best_marks(patched, ROWS, marks, CLASSES, low=0, high=1)
    assert turned(patched, ROWS, best[TARGET], TARGET, low=0, high=1) == 1.0
    constant = best_marks(lambda rows: np.tile([1.0, 0, 0], (len(rows), 1)), ROWS, marks, 3, low=0, high=1)
    assert constant == [None, None, None]


def test_limits_are_in_order():
    for limits in (PATCH, VEIL):
        assert 0 < limits.warn < limits.refuse < 1
