"""The lab's trial of liars on rows made for it: the control falls, the defended side does not."""

import numpy as np
import pytest

from defenses.labels.feedback import Consistency, fit_consistency
from gateway.tools.lab.catalogue import catalogue
from gateway.tools.lab.feedback import LIARS, Sizes, World, passing_labels, trial
from serving.train.feedback import Head, LearnSettings, Rows, fine_tune

CLASSES, WIDTH = 4, 8
SIZES = Sizes(rounds=2, trusted=1_500, calibrate=1_000, held_out=800, test=2_000)
CENTRES = np.random.default_rng(11).normal(size=(CLASSES, WIDTH)) * 1.6


def rows(count, seed):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, CLASSES, count)
    return Rows(CENTRES[labels] + rng.normal(size=(count, WIDTH)), labels)


@pytest.fixture(scope="module")
def world():
    trusted, calibrate, held_out, test, stream = (
        rows(count, seed)
        for seed, count in enumerate((SIZES.trusted, SIZES.calibrate, SIZES.held_out, SIZES.test, 900))
    )
    head = fine_tune(Head(np.zeros((CLASSES, WIDTH)), np.zeros(CLASSES)), None, trusted, LearnSettings(anchor=0.0))
    arrays = fit_consistency((trusted.latents, trusted.labels), (calibrate.latents, calibrate.labels))
    consistency = Consistency.load(arrays)
    triggered = {"mark": held_out.latents + np.eye(1, WIDTH)}
    return World(
        SIZES, head, trusted, held_out, test, stream, triggered, consistency, passing_labels(consistency, stream)
    )


def test_every_kind_of_liar_is_an_experiment():
    rows = [one for one in catalogue().values() if one.family == "poisoning" and one.name.startswith("feedback/")]
    assert [one.name for one in rows] == [f"feedback/{one.parameters['liars']}" for one in rows]
    assert {one.parameters["liars"]: one.knowledge for one in rows} == {
        liars: "adaptive white box" if liars in ("plausible", "pair") else "static" for liars in LIARS
    }
    assert {one.version for one in rows} == {"2"}


def test_the_flood_takes_an_undefended_model_down_and_not_a_defended_one(world):
    control, defended = (trial(world, "flood", 0, defended=side) for side in (False, True))
    assert control.metrics["drop_points"] >= 10
    assert control.metrics["lies_learned"] == control.metrics["lies"] == 1_000
    assert defended.metrics["drop_points"] <= 1
    assert defended.metrics["lies_learned"] <= 10
    assert (control.defended, defended.defended) == (False, True)
    assert control.successes > defended.successes


@pytest.mark.parametrize("liars", ["flips", "plausible", "pair"])
def test_others_take_a_defended_model_nowhere(world, liars):
    found = trial(world, liars, 0, defended=True)
    assert found.metrics["drop_points"] <= 2


def test_labels_in_which_nobody_lies_are_learned(world):
    found = trial(world, "none", 0, defended=True)
    assert found.metrics["lies"] == 0
    assert found.metrics["truths_learned"] >= 0.8 * found.metrics["truths"]
    assert found.metrics["drop_points"] <= 0.5
    assert found.settings["colluders"] == 0


def test_a_trial_is_the_same_again(world):
    assert trial(world, "flips", 3, defended=True) == trial(world, "flips", 3, defended=True)
