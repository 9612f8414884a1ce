"""S6 in torch, for the differentiable pipeline: the trigger screen's score with slopes, from the arrays of a bundle.

Roundings to the grid (defenses/screens/trigger_density.py) are kept, so that scores are the screen's, and passed
straight through by gradients, which see the densities as if they were smooth. The class that is answered is what it is:
no slope leads from one answer to another, as in the screen.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from defenses.errors import EvidenceInvalid
from defenses.screens.evidence import PARETO_SHAPE, Tail
from defenses.screens.trigger import OUTPUTS, TriggerScreen
from defenses.screens.trigger_density import (
    COORDINATE_BITS,
    COORDINATE_MAX,
    FREEDOM,
    VALUE_BITS,
    VALUE_MAX,
    WHITE_BITS,
    WHITE_MAX,
    StudentClasses,
)


class TriggerStatistic:
    """Images float (n, *shape) and the model's outputs to the screen's score, float64 (n,)."""

    def __init__(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        screen = TriggerScreen.from_calibration(arrays)
        self._pixels, self._latent = _Densities(screen.reference.pixels), _Densities(screen.reference.latent)
        self._tails = [Surprise(tail) for tail in screen.tails.each]

    def __call__(self, images: Tensor, outputs: Mapping[str, Tensor]) -> Tensor:
        for name in OUTPUTS:
            if name not in outputs:
                raise EvidenceInvalid(name, "absent")
        answers = outputs["probabilities"].detach().argmax(1, keepdim=True)
        by_pixels, by_latent = self._pixels(images.flatten(1)), self._latent(outputs["latent"])
        others = by_pixels.scatter(1, answers, -torch.inf).amax(1)
        pixels, latent = self._tails
        found: Tensor = pixels(others - by_pixels.gather(1, answers).squeeze(1))
        return found + latent(-by_latent.gather(1, answers).squeeze(1))


class _Densities:
    """`StudentClasses.log_densities` with slopes."""

    def __init__(self, fitted: StudentClasses) -> None:
        self._centre, self._scale = torch.tensor(fitted.centre), float(fitted.scale)
        self._components = torch.tensor(fitted.components)
        self._side_by_side = torch.tensor(fitted.whitening).transpose(0, 1).flatten(1)
        self._means, self._log_roots = torch.tensor(fitted.means), torch.tensor(fitted.log_roots)

    def __call__(self, rows: Tensor) -> Tensor:
        classes, k = self._means.shape
        values = ((rows.double() - self._centre) / self._scale).clamp(-VALUE_MAX, VALUE_MAX)
        coordinates = _rounded(_rounded(values, VALUE_BITS) @ self._components, COORDINATE_BITS)
        coordinates = coordinates.clamp(-COORDINATE_MAX, COORDINATE_MAX)
        white = _rounded(coordinates @ self._side_by_side, WHITE_BITS) - self._means.flatten()
        distances = white.clamp(-WHITE_MAX, WHITE_MAX).square().view(-1, classes, k).sum(2)
        found: Tensor = -(FREEDOM + k) / 2 * torch.log1p(distances / FREEDOM) - self._log_roots
        return found


class Surprise:
    """A tail's surprise with slopes: linear between knots, constant below the least, a Pareto tail beyond the last."""

    def __init__(self, tail: Tail) -> None:
        self._knots, self._surprises = torch.tensor(np.array(tail.values)), torch.tensor(np.array(tail.surprise))
        self._edge, self._rate = float(tail.values[-1]), PARETO_SHAPE / tail.scale

    def __call__(self, values: Tensor) -> Tensor:
        right = torch.searchsorted(self._knots, values.detach()).clamp(1, len(self._knots) - 1)
        low, high = self._knots[right - 1], self._knots[right]
        within = torch.lerp(
            self._surprises[right - 1], self._surprises[right], ((values - low) / (high - low)).clamp(0, 1)
        )
        return within + torch.log1p((values - self._edge).clamp(min=0) * self._rate) / PARETO_SHAPE


def _rounded(values: Tensor, bits: int) -> Tensor:
    """Round to multiples of 2^-bits, with the slope of the identity."""
    step = 2.0**-bits
    return values + ((values / step).round() * step - values).detach()
