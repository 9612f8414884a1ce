"""Thefts in the lab: sources, the copy, the bill, and that an open door is found open."""

from dataclasses import replace

import numpy as np
import pytest

from defenses.extraction.budget import Budget
from defenses.lab.attack import Run, Sample, Size, Split
from defenses.lab.extraction.service import Service, open_defence
from defenses.lab.extraction.surrogate import Recipe, agreement, slopes_of, train_copy
from defenses.lab.extraction.theft import foreign, reached, steal, synthetic, theft
from defenses.screens.evidence import fit_evidence

SIDE, CLASSES = 12, 3
RECIPE = Recipe(steps=60, batch_rows=32, mirror=False)


def products(rng, rows):
    """Bars: lying, standing, or a block; each a class, with noise."""
    labels = rng.integers(0, CLASSES, rows)
    images = rng.uniform(0.0, 0.2, (rows, SIDE, SIDE)).astype(np.float32)
    for image, label in zip(images, labels, strict=True):
        at = int(rng.integers(1, SIDE - 4))
        places = [np.s_[at : at + 3, :], np.s_[:, at : at + 3], np.s_[at : at + 3, at : at + 3]]
        image[places[label]] = 0.9
    return images, labels.astype(np.int64)


class Victim:
    """A rule that a small network can learn: how uneven rows and columns are."""

    name, version, classes = "kiosk", "2", CLASSES

    def outputs(self, rows):
        rows = np.asarray(rows, np.float64)
        down, across = rows.mean(axis=2).std(axis=1), rows.mean(axis=1).std(axis=1)
        logits = 40.0 * np.stack([down - across, across - down, 0.06 - np.abs(down - across)], axis=1)
        powers = np.exp(logits - logits.max(axis=1, keepdims=True))
        ink = rows.mean(axis=(1, 2))
        return {
            "probabilities": (powers / powers.sum(axis=1, keepdims=True)).astype(np.float32),
            "energy": np.abs(ink - 0.25).astype(np.float32),
            "mahalanobis": (np.abs(ink - 0.25) + 0.01 * rows.std(axis=(1, 2))).astype(np.float32),
            "residual": np.abs(np.diff(rows, axis=1)).mean(axis=(1, 2)).astype(np.float32),
        }

    def arrays(self):
        return self.calibration

    def module(self):
        raise NotImplementedError


class Laboratory:
    size = Size.SMOKE

    def __init__(self):
        self.victim = Victim()
        splits = [self.victim.outputs(products(np.random.default_rng(n), 3_000)[0]) for n in (1, 2, 3)]
        self.victim.calibration = fit_evidence(*splits, points=(0.01,))[0]
        self.told = []

    def model(self, name, version):
        return self.victim

    def rows(self, model, split, count, seed):
        return Sample(*products(np.random.default_rng([seed, len(split.value)]), count))

    def tell(self, what, done, total):
        self.told.append((what, done, total))


@pytest.fixture(scope="module")
def lab():
    return Laboratory()


def run_of(lab, seed=0):
    return Run(lab, seed, "kiosk", "2", "theft")


@pytest.fixture(scope="module")
def defence(lab):
    return open_defence(run_of(lab))


def natural(lab, count):
    return lab.rows("kiosk", Split.TRAIN, count, 5).rows


# ----------------------------------------------------------------------------------------------------------- sources


@pytest.mark.parametrize("source", [foreign, synthetic])
def test_a_source_draws_images_by_its_generator_alone(source):
    one, same, other = (source(20, 28, np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert one.shape == (20, 28, 28)
    assert one.dtype == np.float32
    assert one.min() >= 0.0
    assert one.max() <= 1.0
    assert np.array_equal(one, same)
    assert not np.array_equal(one, other)
    assert one.std(axis=(1, 2)).min() > 0.0, "no image is blank"


# ---------------------------------------------------------------------------------------------------------- the copy


def test_a_copy_learns_what_the_victim_says_and_not_what_is_said_at_random(lab):
    rows, held_out = natural(lab, 600), lab.rows("kiosk", Split.TEST, 500, 0).rows
    said, victim = (lab.victim.outputs(each)["probabilities"] for each in (rows, held_out))
    learned = train_copy(rows, said, RECIPE, seed=0)
    shuffled = train_copy(rows, np.random.default_rng(0).permutation(said), RECIPE, seed=0)
    good, bad = (agreement(copy, held_out, victim.argmax(axis=1)) for copy in (learned, shuffled))
    assert good > 400
    assert bad < 350


def test_a_copy_is_the_seeds(lab):
    rows = natural(lab, 100)
    said = lab.victim.outputs(rows)["probabilities"]
    one, same, other = (
        slopes_of(train_copy(rows, said, replace(RECIPE, steps=5), seed=seed), rows, said.argmax(axis=1))
        for seed in (1, 1, 2)
    )
    assert np.array_equal(one, same)
    assert not np.array_equal(one, other)
    assert set(np.unique(one)) <= {-1.0, 0.0, 1.0}


# ----------------------------------------------------------------------------------------------------------- service


def test_undefended_everything_is_told_at_no_price(lab):
    service = Service(lab.victim)
    rows = natural(lab, 300)
    answers = service.ask(rows)
    assert answers.answered.all()
    assert np.array_equal(answers.probabilities, lab.victim.outputs(rows)["probabilities"])
    assert (service.bill.answered, service.bill.account_days, service.waited_days) == (300, 0.0, 0.0)


def test_defended_answers_are_paid_for_and_after_a_days_worth_one_waits(lab, defence):
    tight = replace(defence, budget=Budget(units=100.0))
    service = Service(lab.victim, tight)
    answers = service.ask(natural(lab, 500))
    bill = service.bill
    assert bill.answered + bill.refused == 500
    assert bill.account_days == pytest.approx(bill.price_units / 100.0)
    assert service.waited_days == pytest.approx(bill.account_days - 1.0, abs=0.3)
    told = answers.probabilities[answers.answered]
    assert np.array_equal(np.round(told, 3), told), "hardened"


def test_what_a_screen_refuses_is_not_told_and_is_paid_for(lab, defence):
    service = Service(lab.victim, defence)
    answers = service.ask(np.ones((20, SIDE, SIDE), np.float32))
    assert not answers.answered.any()
    assert np.isnan(answers.probabilities).all()
    assert (answers.labels == -1).all()
    assert service.bill.price_units > 20 * 5.0


# ------------------------------------------------------------------------------------------------------------ thefts


@pytest.mark.parametrize(("source", "labels_only"), [("natural", False), ("natural", True), ("augmented", True)])
def test_an_open_door_is_found_open_and_a_guarded_one_has_its_price(lab, defence, source, labels_only):
    marks = (200, 800)
    open_door, guarded = (
        steal(run_of(lab, 1), source, each, labels_only=labels_only, marks=marks, recipe=RECIPE)
        for each in (None, defence)
    )
    assert [mark.answers for mark in open_door] == list(marks)
    assert open_door[-1].agreed > 1_500
    assert guarded[-1].bill.account_days > open_door[-1].bill.account_days == 0.0


def test_a_thief_whose_rows_are_all_refused_gives_up(lab, defence):
    strict = replace(defence, refuse_level=1.0)
    assert steal(run_of(lab, 1), "synthetic", strict, marks=(50,), recipe=RECIPE) == []


def test_an_experiment_finds_something_each_way_and_the_same_again(lab):
    once, again = (theft(run_of(lab, 3), source="natural", labels_only=True) for _ in range(2))
    assert once == again
    assert [found.defended for found in once] == [False, True]
    assert all(found.samples == 2_000 and 0 < found.successes <= 2_000 for found in once)
    assert all(np.isfinite(list(found.metrics.values())).all() for found in once)
    assert lab.told


@pytest.mark.parametrize(
    ("target", "cost"), [(0.5, 100.0), (0.6, 100.0), (0.7, 316.227766), (0.8, 1_000.0), (0.9, 1_000.0), (0.95, None)]
)
def test_where_a_curve_reaches_a_target(target, cost):
    points = [(100.0, 0.6), (1_000.0, 0.8 if target < 0.85 else 0.9)]
    assert reached(points, target) == (None if cost is None else pytest.approx(cost))


def test_a_curve_that_falls_again_is_read_where_it_first_rose():
    assert reached([(1.0, 0.2), (10.0, 0.8), (100.0, 0.7), (1_000.0, 0.9)], 0.8) == pytest.approx(10.0)
    assert reached([], 0.5) is None
