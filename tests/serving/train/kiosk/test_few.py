from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional

from serving.train.errors import CheckpointMismatch
from serving.train.kiosk import few as kiosk_few
from serving.train.kiosk import few_bench as kiosk_few_bench
from serving.train.kiosk.data import DEBIAN_DIRECTORY, Labelled
from serving.train.kiosk.few import FewSettings, few_labels, train_few
from serving.train.kiosk.loop import predict
from serving.train.kiosk.network import KioskNet, Stage
from serving.train.kiosk.pretrain import PretrainSettings, pretrain
from serving.train.kiosk.views import scaled, strong, weak
from tests.serving.train.kiosk.test_loop import one_thread, weights  # noqa: F401

STAGES = (Stage(8, 3, 2), Stage(16, 3, 2))
PRETRAINING = PretrainSettings(
    epochs=3, batch_rows=32, directions=16, projector_hidden=16, projector_width=4, average_decay=0.9
)
TEACHING = FewSettings(
    steps=60, labelled_rows=16, unlabelled_rows=32, average_decay=0.9, confidence_min=0.6, rate_max=0.01
)


def bars(count, seed):
    """Ten kinds of image: bars of ten widths, on noise."""
    rng = np.random.default_rng(seed)
    labels = (np.arange(count) % 10).astype(np.uint8)
    images = rng.integers(0, 60, (count, 28, 28), dtype=np.uint8)
    for image, label in zip(images, labels, strict=True):
        image[4 : 6 + 2 * label] += 150
    return Labelled(images, labels)


ROWS = bars(320, 0)
IMAGES = torch.from_numpy(ROWS.images)


def net(seed=0):
    torch.manual_seed(seed)
    return KioskNet(10, STAGES)


@pytest.mark.parametrize("view", [weak, strong])
def test_a_view_is_an_image_and_the_same_seed_draws_the_same(view):
    first, again, other = (view(scaled(IMAGES), torch.Generator().manual_seed(seed)) for seed in (0, 0, 1))
    assert first.shape == (320, 1, 28, 28)
    assert 0 <= float(first.min()) <= float(first.max()) <= 1
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_a_weak_view_keeps_the_place_within_two_pixels():
    image = torch.zeros(200, 1, 28, 28)
    image[:, 0, 14, 14] = 1.0
    seen = weak(image, torch.Generator().manual_seed(0))[:, 0]
    middle = (seen.sum(2) * torch.arange(28)).sum(1) / seen.sum((1, 2))
    assert float((middle - 14).abs().max()) <= 2.01
    assert float((middle - 14).abs().max()) > 1.5


def test_pretraining_brings_views_together_and_keeps_images_apart():
    _, history = pretrain(net(), IMAGES, replace(PRETRAINING, epochs=6))
    assert history[-1].loss < history[0].loss
    assert history[-1].sigreg < 0.25 * 32 * 0.53, "a collapsed batch would be penalised with its rows"


def test_a_stopped_pretraining_resumes_to_the_same_weights(tmp_path):
    class Stop(Exception):
        pass

    def stop(done, total):
        if done == 25:  # in the third epoch
            raise Stop

    checkpoint = tmp_path / "run.safetensors"
    with pytest.raises(Stop):
        pretrain(net(), IMAGES, PRETRAINING, checkpoint=checkpoint, on_step=stop)
    steps = []
    resumed, history = pretrain(
        net(), IMAGES, PRETRAINING, checkpoint=checkpoint, on_step=lambda done, total: steps.append(done)
    )
    assert steps[0] == 21
    whole, whole_history = pretrain(net(), IMAGES, PRETRAINING)
    assert history == whole_history
    assert all(torch.equal(a, b) for a, b in zip(weights(resumed).values(), weights(whole).values(), strict=True))
    with pytest.raises(CheckpointMismatch):
        pretrain(net(), IMAGES, replace(PRETRAINING, views=2), checkpoint=checkpoint)


def test_few_labels_are_balanced_and_drawn_by_seed():
    chosen = few_labels(ROWS, 3, 0)
    assert np.bincount(chosen.labels).tolist() == [3] * 10
    np.testing.assert_array_equal(chosen.images, few_labels(ROWS, 3, 0).images)
    assert (chosen.images != few_labels(ROWS, 3, 1).images).any()


@pytest.mark.parametrize("unlabelled_rows", [0, 32], ids=["supervised", "taught"])
def test_it_learns_from_few_labels_the_same_way_twice(unlabelled_rows):
    settings = replace(TEACHING, unlabelled_rows=unlabelled_rows)
    one, other = (train_few(net(), few_labels(ROWS, 8, 0), IMAGES, settings) for _ in range(2))
    logits = predict(one, ROWS)[1]
    before = float(functional.cross_entropy(predict(net(), ROWS)[1], torch.from_numpy(ROWS.labels).long()))
    after = float(functional.cross_entropy(logits, torch.from_numpy(ROWS.labels).long()))
    assert after < before - 0.3
    assert torch.equal(logits, predict(other, ROWS)[1])


def test_only_confident_answers_teach_and_classes_are_held_to_their_shares():
    answers = torch.log(torch.tensor([[0.95] + [0.05 / 9] * 9, [0.5, 0.4] + [0.1 / 8] * 8]))
    priors, generator = torch.full((10,), 0.1), torch.Generator()
    state = kiosk_few._State(net(), net(), None, generator, priors, priors.clone())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kiosk_few, "folded_net", lambda *_: lambda images: answers)
        taught, confident = kiosk_few._taught(state, IMAGES[:2], replace(TEACHING, confidence_min=0.9))
        assert taught.argmax(1).tolist() == [0, 0]
        assert confident.tolist() == [1, 0]
        state.shares[0] = 0.9  # most answers so far were of class 0
        taught, _ = kiosk_few._taught(state, IMAGES[:2], TEACHING)
        assert taught.argmax(1).tolist() == [0, 1]


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.skipif(not DEBIAN_DIRECTORY.exists(), reason="dataset-fashion-mnist is not installed")
def test_the_bench_prints_every_way_beside_supervision(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(kiosk_few_bench, "FEW_STAGES", STAGES)
    monkeypatch.setattr(kiosk_few_bench, "PRETRAINING", replace(PRETRAINING, epochs=1, batch_rows=512))
    monkeypatch.setattr(kiosk_few_bench, "SCATTERED_ROWS", 600)
    words = ["--fit", "--subsets", "2", "--steps", "3", "--encoder", str(tmp_path / "encoder.safetensors")]
    assert kiosk_few_bench.main(words) == 0
    found = json.loads(capsys.readouterr().out)
    assert set(found) == {*kiosk_few_bench.WAYS, "label_free_loss"}
    assert all(len(found[way]["values"]) == 2 for way in kiosk_few_bench.WAYS)
