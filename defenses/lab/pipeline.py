"""The whole pipeline of one model as a differentiable torch module: logits, every stateless screen, its thresholds.

This is what a white-box attacker holds, ours and anybody's: `forward` gives logits, as attack libraries expect, and
`judged` all the rest, with gradients through every statistic. It computes what the gateway computes with the same
bundle and policy: scores within 1e-5 (tests/defenses/lab/test_pipeline.py). Not in it is what depends on who asks
(budgets, similarity to earlier queries, rate limits) and hardening, which never changes the class of an answer.

A screen in torch is a `Statistic`: one more screen is one more class here and a line in STATISTICS. Roundings to the
grid of the trigger screen (defenses/screens/trigger_density.py) are kept, so that scores are the screen's, and passed
straight through by gradients, which see the densities as if they were smooth. The class that is answered is what it is:
no slope leads from one answer to another, as in the screen.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from defenses.budget.calibration import ConformalCalibration
from defenses.errors import EvidenceInvalid, ScreenMissing
from defenses.screens.evidence import COMPONENTS, MAHALANOBIS_WEIGHT, PARETO_SHAPE, EvidenceScreen, Tail
from defenses.screens.evidence import NAME as EVIDENCE
from defenses.screens.trigger import NAME as TRIGGER
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

LOGITS: Final = "logits"
FLAG, REFUSE = 0.01, 0.001


@dataclass(frozen=True, slots=True)
class Rates:
    """A screen's rates in the policy: at most this share of benign rows is flagged, and refused (0: never)."""

    flag: float = FLAG
    refuse: float = REFUSE


class Statistic(Protocol):
    """A stateless screen's score in torch, (rows,) float64, higher is more suspicious; differentiable."""

    def __call__(self, images: Tensor, outputs: Mapping[str, Tensor]) -> Tensor: ...


class TriggerStatistic:
    """S6 in torch: images float (n, *shape) and the model's outputs to the screen's score, float64 (n,)."""

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


class EvidenceStatistic:
    """S1 in torch: the weighted sum of surprises of defenses/screens/evidence.py, from the arrays of a bundle."""

    def __init__(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        self._tails = [Surprise(tail) for tail in EvidenceScreen.from_calibration(arrays).tails.each]

    def __call__(self, images: Tensor, outputs: Mapping[str, Tensor]) -> Tensor:  # noqa: ARG002  has all it needs
        energy, mahalanobis, residual = (
            tail(_witness(outputs, name)) for tail, name in zip(self._tails, COMPONENTS, strict=True)
        )
        return energy + MAHALANOBIS_WEIGHT * mahalanobis + residual


def _witness(outputs: Mapping[str, Tensor], name: str) -> Tensor:
    if name not in outputs:
        raise EvidenceInvalid(name, "absent")
    limit = float(np.finfo(np.float32).max)
    values = outputs[name].double()
    return torch.where(values.abs() <= limit, values, torch.full_like(values, limit))


STATISTICS: Mapping[str, Callable[[Mapping[str, NDArray[Any]]], Statistic]] = {
    EVIDENCE: EvidenceStatistic,
    TRIGGER: TriggerStatistic,
}
"""How each stateless screen's statistic is built from the arrays of a bundle."""


@dataclass(frozen=True, slots=True, eq=False)
class Judged:
    """What the pipeline makes of images (n, ...). A screen flags where its score is above its threshold.

    outputs: of the model, by name. scores: of the screens, float64 (n,), by name. thresholds: by screen, (flag,
    refuse), infinite where never. flagged, answered: bool (n,); what is refused is also flagged. excess: float64 (n,),
    by how much the worst screen's score is above its flag threshold: what an attacker lowers to 0, not to be seen.
    """

    outputs: Mapping[str, Tensor]
    scores: Mapping[str, Tensor]
    thresholds: Mapping[str, tuple[float, float]]
    flagged: Tensor
    answered: Tensor
    excess: Tensor


class Pipeline(nn.Module):
    """A model with its stateless screens. Images float32 (n, *shape) or (n, 1, *shape) in [0, 1].

    Args:
        model: a torch module, images (n, *shape) to outputs by name, among them "logits".
        arrays: the calibration arrays of its bundle.
        rates: the screens in force and their rates, as in the policy; none: a model without defenses.
        shape: of one image.

    Raises:
        ScreenMissing: there is no such statistic.
        CalibrationInvalid, CalibrationTooSmall: the arrays do not hold what it needs.
    """

    def __init__(
        self,
        model: nn.Module,
        arrays: Mapping[str, NDArray[Any]],
        rates: Mapping[str, Rates],
        shape: tuple[int, ...] = (28, 28),
    ) -> None:
        super().__init__()
        if unknown := rates.keys() - STATISTICS.keys():
            raise ScreenMissing(min(unknown))
        self.model = model
        self.shape = shape
        self.statistics = {name: STATISTICS[name](arrays) for name in rates}
        self.thresholds = {
            name: _thresholds(ConformalCalibration.from_arrays(arrays, name), rate) for name, rate in rates.items()
        }
        self.eval().requires_grad_(requires_grad=False)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (n, classes)."""
        logits: Tensor = self.model(self._rows(images))[LOGITS]
        return logits

    def judged(self, images: Tensor) -> Judged:
        """Return everything, differentiable."""
        rows = self._rows(images)
        outputs = self.model(rows)
        scores = {name: statistic(rows, outputs) for name, statistic in self.statistics.items()}
        none = torch.zeros(len(rows), dtype=torch.float64)
        beyond = {name: score - self.thresholds[name][0] for name, score in scores.items()}
        excess = torch.stack([none - torch.inf, *beyond.values()]).amax(0)
        refused = torch.stack(
            [none > 0, *(score.detach() > self.thresholds[name][1] for name, score in scores.items())]
        ).any(0)
        return Judged(outputs, scores, self.thresholds, (excess.detach() > 0) | refused, ~refused, excess)

    def _rows(self, images: Tensor) -> Tensor:
        return images.reshape(len(images), *self.shape)


def _thresholds(calibration: ConformalCalibration, rates: Rates) -> tuple[float, float]:
    flag, refuse = (calibration.threshold(rate) if rate else float("inf") for rate in (rates.flag, rates.refuse))
    return flag, refuse
