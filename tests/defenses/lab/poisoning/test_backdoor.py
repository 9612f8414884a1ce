"""The backdoor attacks: what they change, and what they leave alone."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from defenses.lab.poisoning.backdoor import (
    adaptive_blend,
    badnets,
    blend,
    poison,
    random_pattern,
    wanet,
    warp_field,
)

PATTERN = random_pattern(3)
ATTACKS = [badnets(-4, -4), badnets(10, 12), blend(PATTERN), adaptive_blend(PATTERN), wanet(warp_field(3))]
TARGET = 2


def images(count=300, seed=0):
    rng = np.random.default_rng(seed)
    return rng.random((count, 28, 28), np.float32), rng.integers(0, 10, count)


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.name)
def test_a_mark_is_an_image_the_same_each_time_and_leaves_its_rows_alone(attack):
    rows, _ = images()
    before = rows.copy()
    marked = attack.mark(rows)
    assert (marked.shape, marked.dtype) == (rows.shape, np.float32)
    assert marked.min() >= 0
    assert marked.max() <= 1
    assert (marked != rows).any(axis=(1, 2)).all()
    assert np.array_equal(rows, before)
    assert np.array_equal(attack.mark(rows), marked)
    assert np.array_equal(attack.mark(rows[7:8])[0], marked[7])


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.name)
def test_a_poisoned_set_holds_payload_under_the_target_and_cover_under_its_own_label(attack):
    rows, labels = images()
    found = poison(rows, labels, attack, TARGET, np.random.default_rng(1))
    others = int((labels != TARGET).sum())
    assert len(found.payload) == round(attack.payload_share * others)
    assert len(found.cover) == round(attack.cover_share * others)
    assert not np.intersect1d(found.payload, found.cover).size
    assert (labels[found.payload] != TARGET).all()
    assert (found.labels[found.payload] == TARGET).all()
    kept = np.delete(np.arange(300), found.payload)
    assert np.array_equal(found.labels[kept], labels[kept])
    changed = np.flatnonzero((found.rows != rows).any(axis=(1, 2)))
    assert np.array_equal(changed, np.union1d(found.payload, found.cover))
    again = poison(rows, labels, attack, TARGET, np.random.default_rng(1))
    assert np.array_equal(again.rows, found.rows)
    assert not np.array_equal(poison(rows, labels, attack, TARGET, np.random.default_rng(2)).payload, found.payload)


def test_too_large_a_share_is_refused():
    rows, labels = images(20)
    with pytest.raises(ValueError, match="of cover"):
        poison(
            rows, labels, replace(badnets(-4, -4), payload_share=0.7, cover_share=0.4), TARGET, np.random.default_rng(0)
        )
    with pytest.raises(ValueError, match="0 rows of payload"):
        poison(rows, labels, badnets(-4, -4, payload_share=0.001), TARGET, np.random.default_rng(0))


def test_badnets_changes_nine_pixels_where_it_is_told():
    rows = np.full((2, 28, 28), 0.5, np.float32)
    changed = np.argwhere(badnets(-4, 3).mark(rows)[0] != 0.5)
    assert changed.min(axis=0).tolist() == [24, 3]
    assert changed.max(axis=0).tolist() == [26, 5]
    assert len(changed) == 9


def test_blend_is_the_share_that_it_says():
    rows = np.zeros((1, 28, 28), np.float32)
    assert np.allclose(blend(PATTERN, alpha=0.3).mark(rows)[0], 0.3 * PATTERN)


def test_adaptive_blend_trains_on_half_the_mark_and_sends_all_of_it():
    attack = adaptive_blend(np.ones((28, 28), np.float32), alpha=0.3, alpha_train=0.1)
    rows = np.zeros((40, 28, 28), np.float32)
    trained = attack.payload(rows, np.random.default_rng(0))
    assert np.allclose(np.unique(trained), [0, 0.1])
    assert np.allclose((trained > 0).mean(axis=(1, 2)), 0.5)
    assert len(np.unique(trained, axis=0)) > 30
    assert np.allclose(attack.mark(rows), 0.3)


def test_wanet_moves_a_slope_by_the_strength_it_was_drawn_with():
    slope = np.broadcast_to(np.arange(28, dtype=np.float32) / 28, (1, 28, 28)).copy()
    shifts = warp_field(5, strength=0.8)
    moved = (wanet(shifts).mark(slope) - slope)[0, 4:-4, 4:-4] * 28
    assert np.allclose(moved, shifts[1, 4:-4, 4:-4], atol=1e-4)
    assert np.abs(shifts).mean() == pytest.approx(0.8, rel=1e-5)


def test_wanets_cover_is_another_warp_for_each_row():
    attack = wanet(warp_field(5))
    rows = np.repeat(images(1)[0], 3, axis=0)
    covered = attack.cover(rows, np.random.default_rng(0))
    assert len(np.unique(covered, axis=0)) == 3
    assert not np.array_equal(covered, attack.mark(rows))
