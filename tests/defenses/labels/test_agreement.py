"""Whether a version has fallen below what it must have: what is found within 500 labels, and how rarely wrongly."""

import numpy as np
import pytest

from defenses.labels.agreement import FALLEN_ALPHA, LABELS_MAX, fallen

MINIMUM = 0.85


def found_at(rate, seed, labels=500, minimum=MINIMUM):
    """The label at which it is found, looking after every fifth; None: never."""
    right = np.cumsum(np.random.default_rng(seed).random(labels) < rate)
    return next((n for n in range(5, labels + 1, 5) if fallen(int(right[n - 1]), n, minimum)), None)


@pytest.mark.parametrize(("rate", "share"), [(0.70, 1.0), (0.75, 0.97), (0.50, 1.0)])
def test_a_clear_fall_is_found_within_500_labels(rate, share):
    found = [found_at(rate, seed) for seed in range(100)]
    assert sum(at is not None for at in found) >= share * 100


def test_a_version_that_is_good_enough_is_found_as_rarely_as_promised():
    ever = sum(found_at(MINIMUM, seed, labels=1_000) is not None for seed in range(300))
    assert ever <= 300 * FALLEN_ALPHA + 4 * np.sqrt(300 * FALLEN_ALPHA)


def test_better_is_never_worse():
    for right in range(400, 500):
        assert fallen(right, 500, MINIMUM) or not fallen(right + 1, 500, MINIMUM)


def test_without_labels_nothing_has_fallen():
    assert not fallen(0, 0, MINIMUM)
    assert fallen(0, 500, MINIMUM)
    assert not fallen(500, 500, MINIMUM)
    assert not fallen(LABELS_MAX, LABELS_MAX, MINIMUM)


@pytest.mark.parametrize(
    ("right", "labels", "minimum"), [(-1, 5, 0.5), (6, 5, 0.5), (1, 1, 0.0), (1, 1, 1.0), (0, LABELS_MAX + 1, 0.5)]
)
def test_what_is_no_agreement_is_refused(right, labels, minimum):
    with pytest.raises(ValueError, match="no agreement"):
        fallen(right, labels, minimum)
