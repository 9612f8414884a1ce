"""Ways to answer: what each keeps of the truth, and that the lab says what it costs."""

import numpy as np
import pytest

from defenses.extraction.budget import margins_of
from defenses.lab.extraction.ways import WAYS, reverse_sigmoid, second_where_unsure, ways
from tests.defenses.lab.extraction.test_theft import Laboratory, run_of


def answers(rows=2_000, classes=10, seed=0):
    logits = np.random.default_rng(seed).normal(size=(rows, classes)) * 3
    powers = np.exp(logits)
    return (powers / powers.sum(axis=1, keepdims=True)).astype(np.float32)


@pytest.mark.parametrize("way", WAYS)
def test_every_way_gives_distributions_of_a_row_alone(way):
    told = answers()
    margins = margins_of(answers(seed=1))
    given = WAYS[way](told, margins)
    assert np.abs(given.sum(axis=1) - 1).max() < 1e-3
    assert np.array_equal(WAYS[way](told[5:6], margins)[0], given[5])


def test_bent_confidences_keep_the_class_and_mislead_about_the_rest():
    told = answers()
    bent = reverse_sigmoid(told, margins_of(told))
    assert np.array_equal(bent.argmax(axis=1), told.argmax(axis=1))
    assert np.abs(bent.max(axis=1) - told.max(axis=1)).mean() > 0.05


def test_the_second_class_is_given_where_the_model_is_least_sure():
    told, margins = answers(), margins_of(answers())
    given = second_where_unsure(told, margins, share=0.1).argmax(axis=1)
    moved = given != told.argmax(axis=1)
    assert moved.mean() == pytest.approx(0.1, abs=0.002)
    assert margins_of(told)[moved].max() <= margins_of(told)[~moved].min()
    assert np.array_equal(given[moved], told.argsort(axis=1)[moved, -2])


def test_the_lab_says_what_each_way_costs_the_thief_and_the_honest():
    trials = {found.part: found for found in ways(run_of(Laboratory()))}
    assert list(trials) == list(WAYS)
    assert not trials["all"].defended
    assert trials["all"].metrics["accuracy_points_lost"] == 0
    assert trials["second-20"].metrics["accuracy_points_lost"] > trials["class"].metrics["accuracy_points_lost"] == 0
    for way in ("all", "three", "reverse-sigmoid"):
        assert trials[way].curves["agreement"][-1][1] >= trials["class"].curves["agreement"][-1][1]
