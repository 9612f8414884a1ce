"""Every training goes on from its checkpoint to the weights of one that was never stopped."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from serving.train.clickstream.ecom import FIRST_EVENT, IDS, parse_ecom, sessions_of, split_ecom
from serving.train.clickstream.loop import ClickSettings, train_clicks
from serving.train.clickstream.network import ClickNet, ClickShape
from serving.train.errors import CheckpointMismatch
from serving.train.kiosk.loop import train
from serving.train.kiosk.network import KioskNet, Stage
from serving.train.kiosk.robust import train_robust
from tests.serving.train.clicks import compressed
from tests.serving.train.kiosk.test_loop import HELD_OUT, SETTINGS, STAGES, TRAIN, one_thread  # noqa: F401  a fixture
from tests.serving.train.kiosk.test_robust import ROBUST


class Stopped(Exception):
    """Somebody stopped the run."""


@pytest.fixture(scope="module")
def clicks():
    parts = split_ecom(parse_ecom(compressed(300), "f"), 0)
    return sessions_of(parts.train), parts.fit.take(np.arange(100))


@pytest.fixture(params=["clean", "robust", "clicks"])
def training(request, clicks):
    """A training of three epochs or more: `run` begins it anew, `steps` are those of an epoch."""
    if request.param == "clicks":
        settings = ClickSettings(epochs=3, batch_rows=32, directions=8)
        make = lambda: ClickNet(ClickShape(IDS, FIRST_EVENT), torch.zeros(IDS, IDS - FIRST_EVENT))  # noqa: E731
        rows, held_out = clicks
        other, steps, train_one = replace(settings, seed=1), len(rows) // 32, train_clicks
    else:
        make, (rows, held_out), steps = partial(KioskNet, 2, STAGES), (TRAIN, HELD_OUT), 10
        settings, train_one = (SETTINGS, train) if request.param == "clean" else (ROBUST, train_robust)
        other = replace(settings, seed=1) if request.param == "clean" else replace(settings, beta=1.0)

    def run(settings=settings, **options):
        torch.manual_seed(0)
        return train_one(make(), rows, held_out, settings, **options)

    return SimpleNamespace(run=run, other=other, steps=steps, settings=settings)


def weights(net):
    return {name: value.clone() for name, value in net.state_dict().items()}


def same(one, other):
    return all(torch.equal(a, b) for a, b in zip(weights(one).values(), weights(other).values(), strict=True))


def test_a_stopped_run_ends_with_the_weights_of_one_that_was_not(training, tmp_path):
    checkpoint = tmp_path / "c" / "run.safetensors"

    def stop(done, _total):
        if done == 2 * training.steps + 1:  # in the third epoch
            raise Stopped

    with pytest.raises(Stopped):
        training.run(checkpoint=checkpoint, on_step=stop)
    steps = []
    resumed, history = training.run(checkpoint=checkpoint, on_step=lambda done, _total: steps.append(done))
    assert steps[0] == 2 * training.steps + 1
    whole, whole_history = training.run()
    assert history == whole_history
    assert same(resumed, whole)
    assert [path.name for path in checkpoint.parent.iterdir()] == ["run.safetensors"]
    steps.clear()
    again, _ = training.run(checkpoint=checkpoint, on_step=lambda done, _total: steps.append(done))
    assert not steps, "a finished run resumes to itself"
    assert same(again, whole)
    with pytest.raises(CheckpointMismatch, match="belongs to other"):
        training.run(training.other, checkpoint=checkpoint)


def test_the_seed_decides_the_weights(training):
    first = training.run()[0]
    assert same(first, training.run()[0])
    assert not same(first, training.run(replace(training.settings, seed=7))[0])


def test_a_checkpoint_of_another_run_is_not_mixed_in(tmp_path):
    checkpoint = tmp_path / "run.safetensors"
    kept = replace(SETTINGS, epochs=1)
    train(KioskNet(2, STAGES), TRAIN, HELD_OUT, kept, checkpoint=checkpoint, data_digest="a")
    for settings, digest in ((kept, "b"), (replace(kept, epochs=5), "a")):
        with pytest.raises(CheckpointMismatch):
            train(KioskNet(2, STAGES), TRAIN, HELD_OUT, settings, checkpoint=checkpoint, data_digest=digest)
    with pytest.raises(CheckpointMismatch):
        train(KioskNet(2, (Stage(4, 3, 4),)), TRAIN, HELD_OUT, kept, checkpoint=checkpoint, data_digest="a")


@pytest.mark.parametrize("content", [b"", b"not safetensors", b"\x80\x04K\x01."], ids=["empty", "text", "pickle"])
def test_a_damaged_checkpoint_is_named(training, tmp_path, content):
    checkpoint = tmp_path / "run.safetensors"
    checkpoint.write_bytes(content)
    with pytest.raises(CheckpointMismatch, match="not a checkpoint; delete it"):
        training.run(checkpoint=checkpoint)
