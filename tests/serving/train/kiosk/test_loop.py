from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from serving.train.kiosk.data import Labelled
from serving.train.kiosk.loop import LoopSettings, predict, train
from serving.train.kiosk.network import KioskNet, Stage

STAGES = (Stage(4, 3, 4), Stage(8, 3, 2))
SETTINGS = LoopSettings(epochs=4, batch_rows=32, average_decay=0.9)


@pytest.fixture(autouse=True)
def one_thread():
    """A net this small gains nothing from threads, which wait for each other on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def rows(count, seed):
    """Two kinds of image that a small net can tell apart: bright above, bright below."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 2, count).astype(np.uint8)
    images = rng.integers(0, 100, (count, 28, 28), dtype=np.uint8)
    images[labels == 0, :14] += 100
    images[labels == 1, 14:] += 100
    return Labelled(images, labels)


TRAIN, HELD_OUT = rows(320, 0), rows(100, 1)


def net():
    torch.manual_seed(0)
    return KioskNet(2, STAGES)


def run(settings=SETTINGS, **options):
    return train(net(), TRAIN, HELD_OUT, settings, **options)


def test_it_learns_and_keeps_a_history():
    steps = []
    average, history = run(replace(SETTINGS, epochs=8), on_step=lambda done, total: steps.append((done, total)))
    assert [report.epoch for report in history] == list(range(1, 9))
    assert history[-1].held_out_accuracy > 0.95
    assert history[-1].loss < history[0].loss
    assert steps[0] == (1, 80)
    assert steps[-1] == (80, 80)
    latent, logits = predict(average, HELD_OUT)
    assert latent.shape == (100, 8)
    assert logits.shape == (100, 2)
