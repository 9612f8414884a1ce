"""The pipeline in torch: the scores, thresholds and verdicts of the gateway, with slopes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
import torch

from defenses.budget.policy import Mode, Verdict, calibrated_rule, decide
from defenses.budget.screen import Evidence
from defenses.errors import EvidenceInvalid, ScreenMissing
from defenses.lab.pipeline import EvidenceStatistic, Pipeline, Rates
from defenses.screens.evidence import COMPONENTS, load_evidence

BUNDLES = Path(__file__).parents[3] / "bundles"


class Witnesses(torch.nn.Module):
    """A model whose outputs are its images: (n, 1, 4) holds three witnesses and a logit."""

    def forward(self, images):
        flat = images.flatten(1)
        named = {name: flat[:, place] for place, name in enumerate(COMPONENTS)}
        return {**named, "logits": torch.stack([flat[:, 3], -flat[:, 3]], 1)}


@pytest.fixture(scope="module")
def arrays():
    return safetensors.numpy.load_file(BUNDLES / "kiosk" / "2" / "calibration.safetensors")


@pytest.fixture(scope="module")
def witnesses(arrays):
    """Every region: below and between all knots, on them, beyond them, and no numbers at all."""
    rng = np.random.default_rng(5)
    columns = []
    for name in COMPONENTS:
        knots = arrays[f"evidence.{name}.values"]
        low, high = knots[0], knots[-1]
        span = high - low
        spread = rng.uniform(low - 0.2 * span, high + 2 * span, 4_000)
        columns.append(np.concatenate([spread, knots[:50], [1e30, np.inf, -np.inf, np.nan, low]]))
    return np.stack([rng.permutation(column) for column in columns], 1).astype(np.float32)


def pipeline_of(arrays, rates):
    return Pipeline(Witnesses(), arrays, rates, shape=(1, 4))


def test_scores_are_those_of_the_screen(arrays, witnesses):
    outputs = {name: witnesses[:, place] for place, name in enumerate(COMPONENTS)}
    wanted = load_evidence(arrays).screen.score(Evidence({}, outputs))
    found = EvidenceStatistic(arrays)(torch.empty(0), {name: torch.tensor(one) for name, one in outputs.items()})
    np.testing.assert_allclose(found.numpy(), wanted, rtol=0, atol=1e-5)


@pytest.mark.parametrize("rates", [Rates(0.01, 0.001), Rates(0.05, 0.0), Rates(0.05, 0.01)])
def test_verdicts_are_those_of_the_policy(arrays, witnesses, rates):
    calibrated = load_evidence(arrays)
    outputs = {name: witnesses[:, place] for place, name in enumerate(COMPONENTS)}
    p_values = calibrated.judge(Evidence({}, outputs), rows=len(witnesses)).p_values
    rule = calibrated_rule(Mode.ENFORCE, calibrated.calibration, flag_fpr_max=rates.flag, refuse_fpr_max=rates.refuse)
    verdicts = decide({"evidence": p_values}, {"evidence": rule}, rows=len(witnesses)).screens[0].verdicts
    images = torch.tensor(np.concatenate([witnesses, np.ones((len(witnesses), 1), np.float32)], 1)).unsqueeze(1)
    judged = pipeline_of(arrays, {"evidence": rates}).judged(images)
    assert (judged.flagged.numpy() == (verdicts != Verdict.PASS)).all()
    assert (judged.answered.numpy() == (verdicts != Verdict.REFUSE)).all()
    assert 0 < judged.flagged.sum() < len(witnesses)
    assert ((judged.excess > 0) == judged.flagged).all()


def test_slopes_lead_out_of_sight(arrays):
    middle = [float(np.quantile(arrays[f"evidence.{name}.values"], 0.7)) for name in COMPONENTS]
    pipeline = pipeline_of(arrays, {"evidence": Rates()})
    images = torch.tensor([[[*middle, 0.0]], [[10 * abs(value) + 10 for value in middle] + [0.0]]]).requires_grad_()
    excess = pipeline.judged(images).excess
    (slope,) = torch.autograd.grad(excess.sum(), images)
    assert (slope[:, 0, :3] > 0).all(), "within the knots and beyond them"
    with torch.no_grad():
        assert (pipeline.judged(images - 1e-3 * slope / slope.abs().amax()).excess < excess).all()


def test_without_screens_everything_is_answered(arrays, witnesses):
    images = torch.tensor(np.nan_to_num(np.concatenate([witnesses, witnesses[:, :1]], 1))).unsqueeze(1)
    judged = pipeline_of(arrays, {}).judged(images)
    assert judged.answered.all()
    assert not judged.flagged.any()


def test_what_is_missing_is_named(arrays):
    with pytest.raises(ScreenMissing, match="nothing"):
        pipeline_of(arrays, {"nothing": Rates()})
    with pytest.raises(EvidenceInvalid, match="energy"):
        EvidenceStatistic(arrays)(torch.empty(0), {})
