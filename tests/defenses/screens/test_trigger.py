"""S6 on a model of arithmetic: a mark that turns the answer is found, at the rate that was promised."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from defenses.budget.screen import Evidence
from defenses.errors import CalibrationInvalid, CalibrationTooSmall, EvidenceInvalid
from defenses.screens.trigger import NAME, TriggerScreen, load_trigger
from defenses.screens.trigger_fit import CleanRows, fit_trigger, measure_trigger

CLASSES, SIDE, TARGET = 4, 6, 2
MIDDLES = np.random.default_rng(0).random((CLASSES, SIDE, SIDE))
HEAD = np.random.default_rng(1).normal(size=(SIDE * SIDE, 9))


def images(count, seed):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, CLASSES, count)
    return np.clip(MIDDLES[labels] + rng.normal(0, 0.2, (count, SIDE, SIDE)), 0, 1).astype(np.float32), labels


def model(rows, turned=None):
    """Answers the nearest middle; where `turned` says so, the target, with a latent of its own."""
    turned = np.zeros(len(rows), bool) if turned is None else turned
    apart = np.square(rows[:, None] - MIDDLES).sum(axis=(2, 3))
    apart[turned, TARGET] = -20
    latent = rows.reshape(len(rows), -1) @ HEAD
    return {
        "probabilities": (np.exp(-apart) / np.exp(-apart).sum(axis=1, keepdims=True)).astype(np.float32),
        "latent": latent.astype(np.float32),
    }


def clean(count, seed):
    rows, labels = images(count, seed)
    return CleanRows(rows, model(rows), labels)


SPLITS = (clean(1_000, 1), clean(1_000, 2), clean(3_000, 3), clean(2_000, 4))
ARRAYS, REPORT = fit_trigger(*SPLITS, input_name="image")


def evidence(rows, outputs):
    return Evidence({"image": rows}, outputs)


def test_clean_rows_are_flagged_at_the_promised_rate_and_turned_ones_nearly_always():
    judged = load_trigger(ARRAYS)
    rows, labels = images(4_000, 5)
    level = judged.calibration.level(0.01)
    flagged = judged.judge(evidence(rows, model(rows)), rows=4_000).p_values <= level
    assert 0.002 < flagged.mean() <= 0.015
    others = rows[labels != TARGET]
    turned = evidence(others, model(others, np.ones(len(others), bool)))
    assert (judged.judge(turned, rows=len(others)).p_values <= level).mean() > 0.95
    (point,) = measure_trigger(ARRAYS, turned, points=(0.01,))
    assert point["rate"] == (judged.judge(turned, rows=len(others)).p_values <= level).mean()


def test_either_component_alone_is_enough():
    """A latent unlike its class under an honest answer; an answer that the input denies under a latent that fits."""
    screen = load_trigger(ARRAYS)
    level = screen.calibration.level(0.01)
    rows, labels = images(2_000, 6)
    outputs = model(rows)
    strange = evidence(rows, outputs | {"latent": outputs["latent"] + 6})
    assert (screen.judge(strange, rows=2_000).p_values <= level).mean() > 0.95
    at = np.flatnonzero(labels == TARGET)
    others = np.flatnonzero(labels != TARGET)[: len(at)]
    fitting = {
        name: values[at[: len(others)]] for name, values in outputs.items()
    }  # the target's own answers and latents
    assert (screen.judge(evidence(rows[others], fitting), rows=len(others)).p_values <= level).mean() > 0.9


def test_the_latent_is_held_against_the_class_that_was_answered():
    """Inputs and answers of one class, latents of clean rows of another: each is usual by itself."""
    screen = load_trigger(ARRAYS)
    rows, labels = images(2_000, 9)
    outputs = model(rows)
    one, other = np.flatnonzero(labels == 0)[:400], np.flatnonzero(labels == 1)[:400]
    crossed = {"probabilities": outputs["probabilities"][one], "latent": outputs["latent"][other]}
    level = screen.calibration.level(0.01)
    assert (screen.judge(evidence(rows[one], crossed), rows=len(one)).p_values <= level).mean() > 0.7


def test_the_report_says_what_was_promised_and_what_was_measured():
    assert REPORT["digest"] == TriggerScreen.from_calibration(ARRAYS).digest
    assert REPORT["rows"] == {"fit": 1_000, "tails": 1_000, "calibrate": 3_000, "measure": 2_000}
    assert [point["fpr_max"] for point in REPORT["operating_points"]] == [0.05, 0.01, 0.001]
    for point in REPORT["operating_points"]:
        assert point["measured"]["interval"][0] <= point["fpr_max"]
        assert point["measured"]["rows"] == 2_000


def test_a_split_that_is_used_twice_is_refused():
    one, two, three, four = SPLITS
    for wrong in ((one, one, three, four), (one, two, two, four), (one, two, three, three), (one, two, one, four)):
        with pytest.raises(CalibrationInvalid, match="the same rows"):
            fit_trigger(*wrong, input_name="image")


def test_too_few_rows_are_refused_and_just_enough_are_not():
    one, two, three, four = SPLITS
    with pytest.raises(CalibrationInvalid, match="fit: 999 rows"):
        fit_trigger(clean(999, 7), two, three, four, input_name="image")
    with pytest.raises(CalibrationInvalid, match="tails: 999 rows"):
        fit_trigger(one, clean(999, 7), three, four, input_name="image")
    with pytest.raises(CalibrationTooSmall):
        fit_trigger(one, two, clean(298, 7), four, input_name="image", points=(0.01,))
    fit_trigger(one, two, clean(299, 7), four, input_name="image", points=(0.01,))


def test_clean_rows_that_are_not_finite_are_refused():
    one, two, three, four = SPLITS
    spoiled = one.inputs.copy()
    spoiled[3, 0, 0] = np.nan
    with pytest.raises(CalibrationInvalid, match="finite"):
        fit_trigger(replace(one, inputs=spoiled), two, three, four, input_name="image")
    latent = two.outputs["latent"].copy()
    latent[5] = np.inf
    with pytest.raises(CalibrationInvalid, match="finite"):
        fit_trigger(one, replace(two, outputs=two.outputs | {"latent": latent}), three, four, input_name="image")


def test_outputs_that_are_missing_are_named():
    one, two, three, four = SPLITS
    with pytest.raises(EvidenceInvalid, match="latent"):
        fit_trigger(
            replace(one, outputs={"probabilities": one.outputs["probabilities"]}), two, three, four, input_name="a"
        )


@pytest.mark.parametrize("name", sorted(ARRAYS))
def test_arrays_that_are_not_its_own_are_named(name):
    for wrong in (None, ARRAYS[name].astype(np.int32), ARRAYS[name].reshape(-1)[:0]):
        arrays = {other: array for other, array in ARRAYS.items() if other != name} | (
            {} if wrong is None else {name: wrong}
        )
        with pytest.raises(CalibrationInvalid) as error:
            load_trigger(arrays)
        assert error.value.field.startswith((NAME, "scores"))


def test_an_input_of_another_size_is_named():
    rows, _ = images(5, 8)
    screen = TriggerScreen.from_calibration(ARRAYS)
    for wrong in (rows[:, :5], rows[:4], rows[0], rows.astype(np.int32)):
        with pytest.raises(EvidenceInvalid) as error:
            screen.score(evidence(wrong, model(rows)))
        assert error.value.name == "image"
