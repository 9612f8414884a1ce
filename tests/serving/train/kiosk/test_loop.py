from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from serving.train.errors import CheckpointMismatch
from serving.train.kiosk.data import Labelled
from serving.train.kiosk.loop import LoopSettings, predict, train
from serving.train.kiosk.network import KioskNet, Stage
from tests.serving.train.resuming import stopped_and_resumed

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


def weights(trained):
    return {name: value.clone() for name, value in trained.state_dict().items()}


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


def test_the_same_seed_gives_the_same_weights_and_another_does_not():
    first, second = weights(run()[0]), weights(run()[0])
    assert all(torch.equal(first[name], second[name]) for name in first)
    other = weights(run(replace(SETTINGS, seed=1))[0])
    assert any(not torch.equal(first[name], other[name]) for name in first)


def test_a_stopped_run_resumes_to_the_same_weights(tmp_path):
    checkpoint = tmp_path / "run.safetensors"
    (resumed, history), steps = stopped_and_resumed(run, checkpoint, at=25)  # in the third epoch
    assert steps[0] == 21
    whole, whole_history = run()
    assert history == whole_history
    assert all(torch.equal(a, b) for a, b in zip(weights(resumed).values(), weights(whole).values(), strict=True))
    assert [path.name for path in tmp_path.iterdir()] == ["run.safetensors"]


def test_a_finished_run_resumes_to_itself(tmp_path):
    checkpoint = tmp_path / "run.safetensors"
    whole, _ = run(checkpoint=checkpoint)
    steps = []
    again, _ = run(checkpoint=checkpoint, on_step=lambda done, total: steps.append(done))
    assert not steps
    assert all(torch.equal(a, b) for a, b in zip(weights(whole).values(), weights(again).values(), strict=True))


def test_a_checkpoint_of_another_run_is_not_mixed_in(tmp_path):
    checkpoint = tmp_path / "run.safetensors"
    run(checkpoint=checkpoint, data_digest="a")
    for settings, digest in ((SETTINGS, "b"), (replace(SETTINGS, seed=1), "a"), (replace(SETTINGS, epochs=5), "a")):
        with pytest.raises(CheckpointMismatch):
            run(settings, checkpoint=checkpoint, data_digest=digest)
    with pytest.raises(CheckpointMismatch):
        train(KioskNet(2), TRAIN, HELD_OUT, SETTINGS, checkpoint=checkpoint, data_digest="a")


@pytest.mark.parametrize("content", [b"", b"not safetensors", b"\x80\x04K\x01."], ids=["empty", "text", "pickle"])
def test_a_damaged_checkpoint_is_named(tmp_path, content):
    checkpoint = tmp_path / "run.safetensors"
    checkpoint.write_bytes(content)
    with pytest.raises(CheckpointMismatch, match="delete it"):
        run(checkpoint=checkpoint)
