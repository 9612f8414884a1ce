from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional

from serving.train.kiosk.loop import train
from serving.train.kiosk.network import KioskNet
from serving.train.kiosk.robust import RobustSettings, folded_net, pgd, train_robust
from serving.train.kiosk.robustness import Attacked, LogitsRatio, OnlyLogits, share_right, under_attack
from tests.serving.train.kiosk.test_loop import HELD_OUT, SETTINGS, STAGES, TRAIN, one_thread  # noqa: F401  a fixture

ROBUST = RobustSettings(epochs=4, batch_rows=32, average_decay=0.9, radius=0.15, inner_step=0.06, held_out_rows=100)


def net():
    torch.manual_seed(0)
    return KioskNet(2, STAGES)


def run(settings=ROBUST, **options):
    return train_robust(net(), TRAIN, HELD_OUT, settings, **options)


def images_and_labels(rows):
    return torch.from_numpy(rows.images).unsqueeze(1) / 255, torch.from_numpy(rows.labels).long()


def test_it_stands_an_attack_that_the_clean_recipe_does_not():
    attacked = Attacked(radius=0.15, pgd_rows=100)
    clean = train(net(), TRAIN, HELD_OUT, replace(SETTINGS, epochs=8))[0]
    robust, history = run(replace(ROBUST, epochs=8))
    assert history[-1].held_out_accuracy > 0.95
    of_clean, of_robust = (under_attack(one, HELD_OUT, attacked, 0)["pgd_40"]["right"] for one in (clean, robust))
    assert of_robust > of_clean + 0.2, (of_clean, of_robust)
    assert history[-1].held_out_robust_accuracy == pytest.approx(of_robust, abs=0.1)


def test_training_stops_when_robustness_does_not_improve_and_returns_the_best():
    hopeless = replace(ROBUST, epochs=9, patience=2, rate_max=1e-9)  # from where it starts it cannot move
    _, history = run(hopeless)
    assert len(history) == 3


def test_folding_changes_nothing_that_is_answered():
    trained, _ = run(replace(ROBUST, epochs=1))
    images, _ = images_and_labels(HELD_OUT)
    with torch.no_grad():
        torch.testing.assert_close(folded_net(trained.eval())(images), trained(images)[1], rtol=1e-4, atol=1e-4)


def test_an_attack_stays_within_the_radius_and_the_range_and_does_harm():
    trained = train(net(), TRAIN, HELD_OUT, SETTINGS)[0].eval()
    images, labels = images_and_labels(HELD_OUT)
    logits, generator = folded_net(trained), torch.Generator().manual_seed(0)
    moved = pgd(logits, images, labels, radius=0.1, steps=10, generator=generator)
    assert float((moved - images).abs().max()) <= 0.1 + 1e-6
    assert 0 <= float(moved.min()) <= float(moved.max()) <= 1
    with torch.no_grad():
        before, after = (functional.cross_entropy(logits(some), labels) for some in (images, moved))
    assert after > before + 0.1


def test_the_ratio_is_of_each_row_alone_and_rises_as_the_label_loses():
    logits = torch.tensor([[4.0, 1.0, 0.0, -1.0], [0.0, 3.0, 1.0, 2.0]], requires_grad=True)
    labels = torch.tensor([[1, 0, 0, 0], [0, 0, 1, 0]])
    ratio = LogitsRatio()
    ratio.reduction = "none"
    found = ratio(logits, labels)
    np.testing.assert_allclose(found.detach().numpy(), [(1 - 4) / (4 - 0), (3 - 1) / (3 - 1)], rtol=1e-6)
    (slope,) = torch.autograd.grad(found[0], logits)
    assert not slope[1].any()  # one row's loss says nothing about another row


def test_a_share_has_its_interval_within_the_whole():
    assert share_right(np.ones(300, np.bool_))["interval"][1] == pytest.approx(1.0)
    low, high = share_right(np.arange(300) < 231)["interval"]
    assert low == pytest.approx(0.7190, abs=1e-3)
    assert high == pytest.approx(0.8142, abs=1e-3)


def test_autoattack_is_worst_case_by_stage_and_finds_what_one_attack_finds():
    adapter = pytest.importorskip("defenses.art_adapter")
    pytest.importorskip("art", reason="stockade[lab] is not installed")
    torch.manual_seed(0)
    trained = train(KioskNet(4, STAGES), TRAIN, HELD_OUT, SETTINGS)[0]
    images, labels = images_and_labels(HELD_OUT)
    found = adapter.auto_attack(
        OnlyLogits(trained),
        (torch.nn.CrossEntropyLoss(), LogitsRatio()),
        images[:40].numpy(),
        labels[:40].numpy(),
        classes=4,
        radius=0.15,
        budget=adapter.SMOKE_BUDGET,
        seed=0,
    )
    shares = [right.mean() for right in found.values()]
    assert list(found) == ["clean", "apgd_ce", "apgd_dlr", "apgd_t", "deepfool", "square"]
    assert shares == sorted(shares, reverse=True)
    assert shares[-1] < shares[0] - 0.2
