from __future__ import annotations

import numpy as np
import pytest

from serving.engines import measure
from serving.engines.inprocess import InProcessEngine
from serving.train.kiosk.foreign import foreign_images
from tests.serving.tiny import tiny_bundle

PROBABILITIES = np.array([[0.9, 0.1], [0.6, 0.4], [0.2, 0.8], [0.7, 0.3]])
LABELS = np.array([0, 1, 1, 0], np.uint8)


def test_accuracy_confusion_and_calibration_error_by_hand():
    assert measure.accuracy(PROBABILITIES, LABELS) == 0.75
    assert measure.confusion(PROBABILITIES, LABELS).tolist() == [[2, 0], [1, 1]]
    # One row a bin: |1-.9| + |0-.6| + |1-.8| + |1-.7|, a quarter each.
    assert measure.calibration_error(PROBABILITIES, LABELS) == pytest.approx(1.2 / 4)


def test_ranking_area_by_hand():
    assert measure.ranking_area(np.array([1.0, 2.0]), np.array([3.0, 4.0])) == 1.0
    assert measure.ranking_area(np.array([3.0, 4.0]), np.array([1.0, 2.0])) == 0.0
    assert measure.ranking_area(np.array([1.0, 1.0]), np.array([1.0])) == 0.5
    assert measure.ranking_area(np.array([1.0, 3.0]), np.array([2.0])) == 0.5


def test_evaluate_joins_batches_in_order_and_rows_apart_is_small():
    engine = InProcessEngine(tiny_bundle())
    images = np.random.default_rng(0).integers(0, 256, (measure.BATCH_ROWS + 3, 28, 28), dtype=np.uint8)
    outputs = measure.evaluate(engine, images)
    assert outputs["latent"].shape == (measure.BATCH_ROWS + 3, 4)
    last = engine.infer({"image": measure.as_input(images[-1:])})
    np.testing.assert_allclose(outputs["energy"][-1], last["energy"][0], atol=1e-5)
    assert max(measure.rows_apart(engine, images[:20], outputs).values()) <= 1e-5


def test_rows_apart_sees_a_row_that_depends_on_its_neighbours():
    class Leaky:
        def infer(self, inputs, /):
            return {"energy": inputs["image"].sum(axis=(1, 2)) + len(inputs["image"])}

        def ready(self):
            return True

        def close(self):
            pass

    images = np.zeros((4, 28, 28), np.uint8)
    batched = measure.evaluate(Leaky(), images)
    assert measure.rows_apart(Leaky(), images, batched)["energy"] == 3.0


def test_foreign_images_are_what_they_say_and_decided_by_the_seed():
    test_images = np.random.default_rng(0).integers(0, 256, (50, 28, 28), dtype=np.uint8)
    foreign = foreign_images(test_images, 7)
    assert {name: len(images) for name, images in foreign.items()} == {
        "digits": 1797,
        "noise": 50,
        "inverted": 50,
        "shuffled": 50,
        "blank": 256,
    }
    assert all(images.dtype == np.uint8 and images.shape[1:] == (28, 28) for images in foreign.values())
    np.testing.assert_array_equal(foreign["inverted"], 255 - test_images)
    flat = (foreign["shuffled"].reshape(50, -1), test_images.reshape(50, -1))
    np.testing.assert_array_equal(np.sort(flat[0], axis=1), np.sort(flat[1], axis=1))
    assert not np.array_equal(*flat)
    assert foreign["digits"][:, :4].max() == 0  # centred, as MNIST frames its digits
    assert foreign["digits"].max() == 255
    again = foreign_images(test_images, 7)
    np.testing.assert_array_equal(foreign["noise"], again["noise"])
    assert not np.array_equal(foreign["noise"], foreign_images(test_images, 8)["noise"])
