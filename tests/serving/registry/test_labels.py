"""Labels held against what a model is sure of: nothing where they are right, the share where some were changed."""

from __future__ import annotations

import numpy as np
import pytest

from serving.registry.labels import check_labels


def drawn(rows: int, classes: int, sharpness: float, seed: int = 0):
    """Probabilities, and labels that are drawn from them: a model that is as good as it says."""
    rng = np.random.default_rng(seed)
    logits = sharpness * rng.normal(size=(rows, classes))
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    labels = (probabilities.cumsum(axis=1) < rng.random((rows, 1))).sum(axis=1)
    return probabilities, np.minimum(labels, classes - 1)


def changed(labels, classes: int, share: float, seed: int = 0):
    rng = np.random.default_rng(seed)
    rows = rng.choice(len(labels), round(share * len(labels)), replace=False)
    labels = labels.copy()
    labels[rows] = (labels[rows] + rng.integers(1, classes, len(rows))) % classes
    return labels, rows


@pytest.mark.parametrize(("classes", "sharpness"), [(2, 2.0), (10, 4.0), (20, 1.0)])
def test_right_labels_are_not_suspect_however_unsure_the_model(classes, sharpness):
    probabilities, labels = drawn(20_000, classes, sharpness)
    found = check_labels(probabilities, labels)
    assert abs(found.excess) < 0.005
    assert found.low < found.excess < found.high
    assert found.share == pytest.approx(found.expected, abs=0.01)


def test_of_changed_labels_a_sure_model_finds_nearly_all():
    probabilities, labels = drawn(20_000, 10, 8.0)
    wrong, rows = changed(labels, 10, 0.05)
    found = check_labels(probabilities, wrong)
    assert 0.03 < found.excess < 0.05
    assert found.low > 0.03
    assert found.contradicted[rows].mean() > 0.7
    assert found.contradicted.mean() == found.share


def test_a_class_that_never_occurs_and_sums_a_little_above_one_are_no_error():
    probabilities = np.full((50, 3), [1.0 + 1e-7, 0.0, 0.0], np.float32)
    found = check_labels(probabilities, np.zeros(50, np.int64))
    assert (found.share, found.expected, found.low, found.high) == (0, 0, 0, 0)
    assert check_labels(probabilities, np.ones(50, np.int64)).share == 0  # nothing says how sure the model usually is
