"""A search behind patches finds what there is, and a watch that finds the search does not find it behind patches."""

from __future__ import annotations

import math
from functools import partial

import numpy as np
import pytest

from defenses.accounts.watch import Watch
from defenses.lab.attack import Answers, Split
from defenses.lab.evasion.query import Ball, Counted, Searching, Task, silence
from defenses.lab.evasion.searches import Fresh, Patched, square
from defenses.lab.offline import Defended, OfflineOracle
from gateway.tools.init.init import RELEASE_KEY
from gateway.tools.lab.models import BundleModel, Rows
from gateway.tools.samples import bundles_directory
from tests.defenses.lab.evasion.linear import SIDE, Linear, middle

SMALL = partial(Patched, side=2, by=0.45, patches=1)


def run(search, oracle, budget, row, label=0):
    return Searching(search).run(oracle, row, label, budget, np.random.default_rng(5))


def bare(oracle):
    """The rows that were asked without a patch: those of the ball."""
    return [row for _, row in oracle.asked if np.abs(row - 0.5).max() <= 0.1 + 1e-6]


@pytest.mark.parametrize("search", [square, Fresh(rounds=4)], ids=["square", "fresh"])
def test_what_it_claims_is_wrong_without_patches_too(search):
    oracle = Linear(reach=0.02)
    found = run(SMALL(search), oracle, 500, middle()[0])
    assert found.success
    assert found.norm <= 0.1 + 1e-6
    assert oracle.probabilities(found.adversarial[None]).argmax() == 1


def test_every_question_has_its_patches_where_nothing_looks_wrong():
    oracle = Linear(reach=5.0)
    found = run(SMALL(square), oracle, 100, middle()[0])
    assert found.queries == len(oracle.asked) == 100
    assert not bare(oracle)


class Dazzled(Linear):
    """Falls for a patch alone: what is asked without one is answered right."""

    def probabilities(self, rows):
        dazzled = np.abs(rows - 0.5).max(axis=(1, 2)) > 0.1 + 1e-6
        return np.column_stack([~dazzled, dazzled, np.zeros(len(rows))]).astype(np.float32)


@pytest.mark.parametrize("search", [square, Fresh(rounds=2)], ids=["square", "fresh"])
def test_it_asks_without_patches_as_often_as_it_may_and_no_more(search):
    oracle = Dazzled()
    found = run(SMALL(search, bare=3), oracle, 100, middle()[0])
    assert len(bare(oracle)) == 3
    assert found.queries == len(oracle.asked) == 100
    assert found.norm <= 0.1 + 1e-6


def test_the_search_is_told_what_was_answered_without_patches():
    told = []

    def listens(task, rng):
        told.append((yield middle(3)))

    steps = SMALL(listens, bare=2)(Task(Ball(middle()[0], 0.1), 0, 10), np.random.default_rng(0))
    assert len(next(steps)) == 3
    wrong = Answers(
        np.array([[0.1, 0.9], [0.9, 0.1], [0.2, 0.8]], np.float32), np.array([1, 0, 1]), np.ones(3, np.bool_)
    )
    np.testing.assert_array_equal(steps.send(wrong), middle(2))
    with pytest.raises(StopIteration):
        steps.send(silence(2, 2))
    (answers,) = told
    assert answers.answered.tolist() == [False, True, False]
    assert answers.labels.tolist() == [-1, 0, -1]
    assert wrong.labels.tolist() == [1, 0, 1]


def test_patches_stay_off_the_border_and_within_what_a_pixel_may_be():
    patched = Patched(square, side=4, by=0.6)
    for value in (0.0, 1.0):
        rows = np.full((50, SIDE, SIDE), value, np.float32)
        painted = patched.painted(rows, np.random.default_rng(0))
        assert painted.dtype == np.float32
        assert painted.min() >= 0
        assert painted.max() <= 1
        changed = painted != rows
        assert ((changed.sum(axis=(1, 2)) >= 16) & (changed.sum(axis=(1, 2)) <= 32)).all()
        inner = np.zeros((SIDE, SIDE), np.bool_)
        inner[3:-3, 3:-3] = True
        np.testing.assert_array_equal(changed.any(axis=0), inner)


@pytest.fixture(scope="module")
def kiosk():
    root = bundles_directory()
    return BundleModel(root / "kiosk" / "3", root / RELEASE_KEY)


def evidence(kiosk, search, row, label):
    """What the watch holds against an account after 100 questions of a search, as a natural logarithm."""
    watch = Watch.from_calibration(kiosk.arrays(), key=b"k" * 32)
    run(search, Counted(OfflineOracle(kiosk, "image", Defended(), watch=watch), budget=100), 100, row, label)
    (account,) = watch.accounts()
    assert account.queries == 100
    return account.log_evidence


def test_the_watch_finds_a_search_and_not_the_same_behind_patches(kiosk):
    sample = Rows(None).draw("kiosk", Split.TEST, 1, 0)
    assert kiosk.outputs(sample.rows)["probabilities"].argmax() == sample.labels[0]
    row, label = sample.rows[0], int(sample.labels[0])
    assert evidence(kiosk, square, row, label) > math.log(10_000)
    assert evidence(kiosk, Patched(square, side=4, by=0.45), row, label) < math.log(20)
