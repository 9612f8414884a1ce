"""The kiosk as a differentiable module: what its graph answers, with slopes."""

from __future__ import annotations

from pathlib import Path

import pytest
import safetensors.numpy
import torch

from serving.engines import measure
from serving.errors import BundleRejected
from serving.train.kiosk.module import load_kiosk_module

ROOT = Path(__file__).parents[4] / "bundles"
KEYS = sorted(ROOT.glob("*.pub"))


@pytest.fixture(scope="module")
def images():
    return safetensors.numpy.load((ROOT / "samples" / "fashion-mnist-1000.safetensors").read_bytes())["images"][::10]


@pytest.mark.parametrize("output", ["logits", "latent", "energy", "mahalanobis", "residual"])
def test_every_output_has_slopes_that_point_up(images, output):
    module = load_kiosk_module(ROOT / "kiosk" / "1", KEYS)
    pixels = torch.from_numpy(measure.as_input(images[:20])).clamp(0.01, 0.99).requires_grad_()
    (slope,) = torch.autograd.grad(module(pixels)[output].sum(), pixels)
    assert torch.isfinite(slope).all()
    with torch.no_grad():
        before, after = (module(some)[output].sum() for some in (pixels, pixels + 1e-4 * slope.sign()))
    assert after > before


def test_an_unsigned_bundle_and_one_of_another_recipe_are_refused():
    with pytest.raises(BundleRejected):
        load_kiosk_module(ROOT / "kiosk" / "1", [])
    with pytest.raises(BundleRejected, match="not of the kiosk"):
        load_kiosk_module(ROOT / "clickstream" / "1", KEYS)
