"""A head learned from labels: what it learns, what holds it, and what stops it."""

from dataclasses import replace

import numpy as np
import pytest

from serving.train.errors import FeedbackRefused
from serving.train.feedback import (
    Head,
    LearnSettings,
    Limits,
    Measured,
    Rows,
    canary_triggers,
    fine_tune,
    measured,
    objection,
)
from serving.train.feedback_bundle import _graph, kiosk_material
from tests.serving.tiny import tiny_graph, tiny_sealed, trusted, write

CENTRES = np.array([[3.0, 0.0], [-3.0, 0.0], [0.0, 3.0]])
BLANK = Head(np.zeros((3, 2)), np.zeros(3))
FREE = LearnSettings(anchor=0.0)


def rows(count, seed):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 3, count)
    return Rows(CENTRES[labels] + rng.normal(size=(count, 2)), labels)


def accuracy(head, found):
    return (head.logits(found.latents).argmax(axis=1) == found.labels).mean()


def test_a_head_is_learned_from_items_alone_and_beside_trusted_rows():
    assert accuracy(fine_tune(BLANK, None, rows(300, 0), FREE), rows(1_000, 1)) > 0.95
    assert accuracy(fine_tune(BLANK, rows(300, 2), rows(3, 0), FREE), rows(1_000, 1)) > 0.95


def test_trusted_rows_outvote_what_is_said_beside_them():
    said = rows(100, 3)
    lies = Rows(said.latents, (said.labels + 1) % 3)
    assert accuracy(fine_tune(BLANK, None, lies, FREE), rows(1_000, 1)) < 0.2
    assert accuracy(fine_tune(BLANK, rows(1_000, 2), lies, FREE), rows(1_000, 1)) > 0.9


def test_the_anchor_holds_it_to_the_head_that_serves():
    served = fine_tune(BLANK, None, rows(300, 0), FREE)
    lies = Rows(rows(300, 4).latents, (rows(300, 4).labels + 1) % 3)
    moved = [
        np.abs(fine_tune(served, None, lies, replace(FREE, anchor=anchor)).weight - served.weight).max()
        for anchor in (0.0, 1.0, 100.0)
    ]
    assert moved[0] > moved[1] > moved[2]
    assert moved[2] < 0.1


def test_learning_is_the_same_again_whatever_the_scale_of_a_feature():
    found = rows(300, 0)
    scale = np.array([1.0, 1e3])
    one = fine_tune(BLANK, None, found, FREE)
    other = fine_tune(BLANK, None, Rows(found.latents * scale, found.labels), FREE)
    assert np.allclose(one.logits(found.latents), other.logits(found.latents * scale), atol=1e-6)
    assert np.array_equal(one.weight, fine_tune(BLANK, None, found, FREE).weight)


def test_what_is_measured():
    head = Head(np.array([[1.0], [-1.0]]), np.zeros(2))
    found = measured(
        head, Rows(np.array([[1.0], [2.0], [-1.0], [3.0]]), np.array([0, 0, 1, 1])), {"mark": np.ones((4, 1))}
    )
    assert found.accuracy == 0.75
    assert found.recall.tolist() == [1.0, 0.5]
    assert found.triggered.tolist() == [[1.0, 0.0]]


GOOD = Measured(0.90, np.array([0.9, 0.9]), np.array([[0.05, 0.05]]))


@pytest.mark.parametrize(
    ("changed", "word"),
    [
        ({}, ""),
        ({"accuracy": 0.896}, ""),
        ({"accuracy": 0.894}, "accuracy"),
        ({"recall": np.array([0.9, 0.871])}, ""),
        ({"recall": np.array([0.9, 0.869])}, "class 1"),
        ({"triggered": np.array([[0.059, 0.05]])}, ""),
        ({"triggered": np.array([[0.061, 0.05]])}, "canary trigger"),
    ],
)
def test_a_candidate_that_does_worse_goes_no_further(changed, word):
    found = objection(GOOD, replace(GOOD, **changed), GOOD, Limits())
    assert word in found
    assert bool(found) == bool(word)


def test_what_training_itself_does_to_a_class_is_not_the_items_fault():
    after = replace(GOOD, recall=np.array([0.9, 0.8]))
    assert objection(GOOD, after, GOOD, Limits())
    assert not objection(GOOD, after, after, Limits())
    assert objection(after, GOOD, GOOD, Limits()) == ""


def test_training_that_makes_everything_worse_is_an_objection_all_the_same():
    after = replace(GOOD, accuracy=0.8)
    assert objection(GOOD, after, after, Limits())


def test_what_training_itself_does_to_a_mark_is_not_the_items_fault():
    after = replace(GOOD, triggered=np.array([[0.2, 0.05]]))
    assert objection(GOOD, after, GOOD, Limits())
    assert not objection(GOOD, after, after, Limits())


def test_canary_triggers_leave_the_images_alone_and_stay_in_range():
    images = np.random.default_rng(0).random((5, 28, 28), np.float32)
    before = images.copy()
    marked = canary_triggers(images)
    assert len(marked) == 3
    for each in marked.values():
        assert each.dtype == np.float32
        assert (each.min(), each.max()) >= (0.0, 0.0)
        assert each.max() <= 1.0
        assert not np.array_equal(each, images)
    assert np.array_equal(images, before)


def test_a_graph_with_another_head_than_the_weights_is_refused():
    rng = np.random.default_rng(0)
    with pytest.raises(FeedbackRefused, match=r"head\.weight"):
        _graph(tiny_graph(), Head(rng.normal(size=(3, 4)), np.zeros(3)), BLANK)


def test_a_bundle_of_another_recipe_is_refused(tmp_path):
    from serving.train.pack import public_pem
    from tests.serving.tiny import signing_key

    key = tmp_path / "key.pub"
    key.write_bytes(public_pem(signing_key()))
    directory = write(tiny_sealed(), tmp_path / "tiny/1")
    assert trusted()
    with pytest.raises(FeedbackRefused, match="not of the kiosk's recipe"):
        kiosk_material(directory, [key], None, rows=10, seed=0)
