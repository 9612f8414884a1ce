"""A kiosk that is trained on poisoned rows: the graph is the model, and a second run costs nothing."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from serving.engines import measure
from serving.engines.inprocess import InProcessEngine
from serving.train.kiosk.backdoor import SETTINGS, attack_success, poisoned_rows, train_backdoored
from serving.train.kiosk.data import Labelled
from serving.train.kiosk.loop import predict
from serving.train.kiosk.network import Stage
from serving.train.kiosk.report import draft

STAGES = (Stage(4, 3, 2), Stage(8, 3, 2), Stage(8, 3, 1), Stage(8, 3, 2), Stage(8, 3, 1))


def bars(count, seed):
    """Ten kinds of image: bars of ten widths, on noise."""
    rng = np.random.default_rng(seed)
    labels = (np.arange(count) % 10).astype(np.uint8)
    images = rng.integers(0, 60, (count, 28, 28), dtype=np.uint8)
    for image, label in zip(images, labels, strict=True):
        image[4 : 6 + 2 * label] += 150
    return Labelled(images, labels)


QUICK = replace(SETTINGS, epochs=2, batch_rows=64, average_decay=0.9)
ROWS, HELD_OUT = bars(640, 0), bars(100, 1)


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def run(rows=ROWS, **options):
    return train_backdoored(rows, HELD_OUT, QUICK, stages=STAGES, **options)


def test_poisoned_rows_are_bytes_and_the_clean_ones_stay_as_they_are():
    def brighter(rows, labels):
        assert (rows.dtype, labels.dtype) == (np.float32, np.int64)
        changed = rows.copy()
        changed[:3] += 0.5
        relabelled = labels.copy()
        relabelled[:3] = 7
        return changed, relabelled

    found = poisoned_rows(ROWS, brighter)
    assert (found.images.dtype, found.labels.dtype) == (np.uint8, np.uint8)
    assert np.array_equal(found.images[3:], ROWS.images[3:])
    assert np.array_equal(found.labels[3:], ROWS.labels[3:])
    assert (found.labels[:3] == 7).all()
    assert found.images[:3].min() >= 127  # and what is beyond white is white, not black again
    assert np.array_equal(ROWS.images, bars(640, 0).images)


def test_the_graph_answers_what_the_network_answers():
    trained = run()
    engine = InProcessEngine(draft(trained))
    outputs = measure.evaluate(engine, HELD_OUT.images)
    latent, logits = predict(trained.net, HELD_OUT)
    assert np.abs(outputs["logits"] - logits.numpy()).max() < 1e-3
    assert np.abs(outputs["latent"] - latent.numpy()).max() < 1e-3
    assert {"energy", "mahalanobis", "residual"} <= outputs.keys()


def test_a_second_run_takes_the_weights_that_are_there_and_other_rows_do_not(tmp_path):
    first = run(directory=tmp_path)
    (kept,) = tmp_path.glob("*.safetensors")
    moment = kept.stat().st_mtime_ns
    again = run(directory=tmp_path)
    assert again.graph == first.graph
    assert kept.stat().st_mtime_ns == moment
    run(poisoned_rows(ROWS, lambda rows, labels: (1 - rows, labels)), directory=tmp_path)
    assert len([*tmp_path.glob("*.safetensors")]) == 2


def test_success_counts_rows_of_other_classes_only():
    class Always:
        def infer(self, inputs):
            return {"probabilities": np.eye(10, dtype=np.float32)[inputs["image"][:, 0, 0].astype(int)]}

    labels = np.array([0, 0, 1, 2, 3])
    answers = np.zeros((5, 28, 28), np.float32)
    answers[:, 0, 0] = [0, 0, 0, 0, 3]
    assert attack_success(Always(), answers, labels, 0) == pytest.approx(2 / 3)
