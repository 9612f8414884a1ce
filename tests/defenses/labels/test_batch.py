"""S7, batch by batch: what was planned together is found, and honest batches lose little."""

import numpy as np
import pytest

from defenses.errors import EvidenceInvalid
from defenses.labels.batch import ITEMS_MIN, clustered, spectral

CLASSES, WIDTH, ALPHA = 3, 12, 0.01
CENTRES = np.random.default_rng(5).normal(size=(CLASSES, WIDTH)) * 3.0


def rows(count, seed):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, CLASSES, count)
    return CENTRES[labels] + rng.normal(size=(count, WIDTH)), labels


def with_trigger(count, seed):
    """Rows of class 1 that a mark has moved, all said to be of class 0."""
    rng = np.random.default_rng(seed)
    mark = np.zeros(WIDTH)
    mark[:3] = 6.0
    return CENTRES[1] + mark + rng.normal(size=(count, WIDTH)), np.zeros(count, int)


def find(check, items, trusted, **more):
    return (
        check(items, trusted, alpha=ALPHA, **more)
        if check is spectral
        else check(items, trusted, alpha=ALPHA, rng=np.random.default_rng(0))
    )


@pytest.mark.parametrize("check", [spectral, clustered])
def test_an_honest_batch_loses_little(check):
    lost = [find(check, rows(400, seed), rows(2_000, 100 + seed)).mean() for seed in range(10)]
    assert np.mean(lost) <= 0.02


def test_few_trusted_rows_make_no_honest_item_stand_out():
    """Thirty of a label: beyond the 99 % quantile of so few lie 3 % of others like them, and one in a hundred may."""
    lost = [spectral(rows(400, seed), rows(90, 100 + seed), alpha=ALPHA).mean() for seed in range(10)]
    assert np.mean(lost) <= ALPHA


@pytest.mark.parametrize(("check", "share"), [(spectral, 0.9), (clustered, 0.9)])
def test_what_was_planned_together_is_found(check, share):
    honest, said = rows(300, 1)
    marked, lied = with_trigger(150, 2)
    items = np.concatenate([honest, marked]), np.concatenate([said, lied])
    found = find(check, items, rows(2_000, 3))
    assert found[300:].mean() >= share
    assert found[:300].mean() <= 0.05


@pytest.mark.parametrize("check", [spectral, clustered])
def test_a_few_items_of_a_label_are_not_looked_at_nor_one_without_trusted_rows(check):
    marked, lied = with_trigger(ITEMS_MIN - 1, 2)
    assert not find(check, (marked, lied), rows(500, 3)).any()
    latents, labels = rows(500, 3)
    marked, lied = with_trigger(100, 2)
    assert not find(check, (marked, lied), (latents[labels != 0], labels[labels != 0])).any()
    assert find(check, (np.empty((0, WIDTH)), []), rows(500, 3)).shape == (0,)


@pytest.mark.parametrize("check", [spectral, clustered])
def test_what_does_not_fit_is_refused(check):
    good = rows(50, 1)
    for bad in (
        (good[0][:, :-1], good[1]),
        (good[0], good[1][:-1]),
        (good[0] * np.nan, good[1]),
        (good[0][0], good[1]),
    ):
        with pytest.raises(EvidenceInvalid):
            find(check, bad, good)
