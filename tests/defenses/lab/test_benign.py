"""Innocent accounts: that they ask what they are said to ask, and that what is counted of them is what happened."""

from __future__ import annotations

from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from defenses.accounts.watch import Watch
from defenses.budget.hardening import HardeningRule
from defenses.budget.policy import Action
from defenses.budget.steps import Step
from defenses.lab import benign
from defenses.lab.attack import Run, Size, Split
from defenses.lab.benign import Habit, Stream, stale
from defenses.lab.offline import Defended, OfflineOracle
from gateway.tools.init.init import RELEASE_KEY
from gateway.tools.lab.models import BundleModel, Rows
from gateway.tools.samples import bundles_directory
from tests.watching import KEY, images, watch_arrays

QUERIES = 400
HABITS = [Habit(0.0), Habit(0.05), Habit(0.05, burst_mean=5.0, mixed=True), Habit(0.2)]


def stream(habit, seed=1, queries=QUERIES):
    return habit.stream(images(1, QUERIES), queries, np.random.default_rng(seed))


@pytest.mark.parametrize("habit", HABITS)
def test_it_asks_as_often_again_as_is_said(habit):
    again = np.mean([stream(habit, seed).again.mean() for seed in range(20)])
    assert again == pytest.approx(habit.duplicates, abs=0.015 + 0.1 * habit.duplicates)


def test_what_is_asked_again_shows_what_was_just_asked():
    found = stream(Habit(0.3))
    shown = images(1, QUERIES)
    assert found.rows.shape == (QUERIES, 28, 28)
    assert found.rows.dtype == np.float32
    fresh = ~found.again
    np.testing.assert_array_equal(found.rows[fresh], shown[found.images[fresh]])
    assert len(set(found.images[fresh].tolist())) == fresh.sum()
    places = np.flatnonzero(found.again)
    assert (found.images[places] == found.images[places - 1]).all()
    assert (found.rows[places] != shown[found.images[places]]).any(axis=(1, 2)).mean() > 0.9


def test_questions_on_the_way_together_arrive_in_another_order():
    place = np.arange(QUERIES)
    come = Stream(place.astype(np.float32), place, place % 3 == 0).arriving(16, np.random.default_rng(1))
    assert sorted(come.images) == list(place)
    assert 1 < np.abs(come.images - place).max() < 16
    np.testing.assert_array_equal(come.rows, come.images)
    np.testing.assert_array_equal(come.again, come.images % 3 == 0)


def test_no_image_is_asked_about_twice_for_want_of_images():
    with pytest.raises(ValueError, match="images for"):
        stream(Habit(0.0), queries=QUERIES + 1)


class KioskLab:
    """A lab over kiosk 1 with a watch of the tests; its gateway is an oracle in this process."""

    def __init__(self, arrays, image_rows=200):
        root = bundles_directory()
        self.size, self.directory = Size.SMOKE, Path()
        self._bundle = BundleModel(root / "kiosk" / "1", root / RELEASE_KEY)
        self._arrays = self._bundle.arrays() | arrays
        self.image_rows = image_rows

    def model(self, name, version):
        lab = self

        class WithWatch:
            name, version, classes = "kiosk", "1", 10
            outputs = staticmethod(lab._bundle.outputs)

            def arrays(self):
                return lab._arrays

        return WithWatch()

    def rows(self, model, split, count, seed):
        assert split is Split.TEST
        return Rows(None).draw("kiosk", split, self.image_rows, seed)

    @contextmanager
    def oracle(self, name, version, *, defended, accounts=1, tenants=1, changes=None):
        assert changes["screens"] == {}
        (step,) = changes["watch"]["steps"]
        defended = Defended(
            flag=0.0,
            refuse=0.0,
            hardening=HardeningRule(3, 1.0, 3),
            steps=(Step.at(step["alpha"], Action.TOP1, 10**15),),
        )
        watch = Watch.from_calibration(self._arrays, key=KEY)
        model = self.model(name, version)
        yield OfflineOracle(model, "image", defended, accounts=accounts, tenants=tenants, watch=watch)

    def tell(self, what, done, total):
        assert done <= total


def count(lab, duplicates):
    (found,) = benign.benign(Run(lab, 0, "kiosk", "1", "benign"), duplicates=duplicates)
    return found


def test_what_is_counted_of_them(monkeypatch):
    monkeypatch.setitem(benign.STREAMS, Size.SMOKE, 2)
    trial = count(KioskLab(watch_arrays()), 0.05)
    metrics = trial.metrics
    assert trial.samples == 2
    assert trial.successes == round(2 * metrics["acted_at_0.0001_share"])
    assert metrics["rows_seen_again_share"] > 0.01
    assert metrics["rows_near_earlier_share"] > 0.5 * metrics["rows_seen_again_share"]
    assert 0.8 < metrics["accuracy_fresh"] <= 1
    moved = metrics["stale_mended_share"] - metrics["stale_spoilt_share"]
    assert metrics["accuracy_consistent"] == pytest.approx(metrics["accuracy_fresh"] + moved)
    assert metrics["stale_changed_share"] >= metrics["stale_spoilt_share"]
    assert metrics["gateway_streams_acted"] == metrics["same_streams_acted_here"]


def test_a_watch_that_sees_attackers_everywhere_is_seen():
    everyone = watch_arrays(similarity_tolerances=np.array([255, 255]))  # all rows are near each other
    trial = count(KioskLab(everyone), 0.0)
    assert trial.successes == trial.samples
    assert trial.metrics["rows_near_earlier_share"] > 0.9
    assert trial.metrics["gateway_streams_acted"] == trial.metrics["gateway_streams"] == 1
    assert trial.metrics["accuracy_consistent"] < trial.metrics["accuracy_fresh"]
    assert trial.metrics["stale_spoilt_share"] > 0.3


def test_stale_answers_are_told_apart_by_what_is_true():
    true, said = np.array([0, 0, 0, 1, 2, 1]), np.array([0, 0, 1, 1, 1, 2])
    earlier = {1: 1, 2: 0, 3: 1, 4: 0, 5: 2}  # spoilt, mended, the same, wrong either way, the same and wrong
    anchors = {row: {"probabilities": np.eye(3, dtype=np.float32)[[label]]} for row, label in earlier.items()}
    assert stale(true, said, anchors) == (3, 1, 1)
