"""The trigger screen in torch: the screen's scores, with slopes that lead where the score falls."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from defenses.budget.screen import Evidence
from defenses.errors import EvidenceInvalid
from defenses.lab.pipeline import STATISTICS, TriggerStatistic
from defenses.screens.trigger import TriggerScreen
from defenses.screens.trigger_fit import CleanRows, fit_trigger

CLASSES, SIDE, WIDTH = 3, 5, 6
MIDDLES = np.random.default_rng(0).random((CLASSES, SIDE, SIDE))
HEAD = np.random.default_rng(1).normal(size=(SIDE * SIDE, WIDTH))


def clean(count, seed):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, CLASSES, count)
    rows = np.clip(MIDDLES[labels] + rng.normal(0, 0.25, (count, SIDE, SIDE)), 0, 1).astype(np.float32)
    apart = np.square(rows[:, None] - MIDDLES).sum(axis=(2, 3))
    shares = np.exp(-apart) / np.exp(-apart).sum(axis=1, keepdims=True)
    latent = (rows.reshape(count, -1) @ HEAD).astype(np.float32)
    return CleanRows(rows, {"probabilities": shares.astype(np.float32), "latent": latent}, labels)


ARRAYS, _ = fit_trigger(clean(1_000, 1), clean(1_000, 2), clean(3_000, 3), clean(500, 4), input_name="image")
SCREEN, STATISTIC = TriggerScreen.from_calibration(ARRAYS), TriggerStatistic(ARRAYS)


def tensors(clean_rows):
    return torch.tensor(clean_rows.inputs), {name: torch.tensor(array) for name, array in clean_rows.outputs.items()}


@pytest.mark.parametrize("stretch", [1.0, 3.0, 1e4])
def test_scores_are_those_of_the_screen_near_and_far(stretch):
    shown = clean(2_000, 5)
    outputs = shown.outputs | {
        "latent": shown.outputs["latent"] * np.float32(stretch),
        "probabilities": np.roll(shown.outputs["probabilities"], 1, axis=1),
    }
    rows = CleanRows(shown.inputs, outputs, shown.labels)
    wanted = SCREEN.score(Evidence({"image": rows.inputs}, rows.outputs))
    np.testing.assert_allclose(STATISTIC(*tensors(rows)).numpy(), wanted, rtol=0, atol=1e-9)


def test_the_slope_leads_to_a_lower_score():
    """Along the negative gradient, at pixels and at latents, the scores of suspicious rows fall."""
    shown = clean(300, 6)
    images, outputs = tensors(shown)
    outputs["probabilities"] = outputs["probabilities"].roll(1, 1)
    images.requires_grad_(True)
    outputs["latent"].requires_grad_(True)
    before = STATISTIC(images, outputs)
    by_pixels, by_latent = torch.autograd.grad(before.sum(), [images, outputs["latent"]])
    assert by_pixels.abs().sum() > 0
    assert by_latent.abs().sum() > 0
    with torch.no_grad():
        moved = STATISTIC(images - 0.02 * by_pixels.sign(), outputs)
        calmed = STATISTIC(images, outputs | {"latent": outputs["latent"] - 0.02 * by_latent.sign()})
    assert moved.sum() < before.sum() - 100
    assert calmed.sum() < before.sum()


def test_an_output_that_is_missing_is_named():
    images, outputs = tensors(clean(3, 7))
    for name in outputs:
        with pytest.raises(EvidenceInvalid) as error:
            STATISTIC(images, {other: value for other, value in outputs.items() if other != name})
        assert error.value.name == name


def test_the_pipeline_knows_it():
    assert STATISTICS["trigger"] is TriggerStatistic
