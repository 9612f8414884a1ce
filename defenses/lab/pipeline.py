"""The whole pipeline of one model as a differentiable torch module: logits, every stateless screen, its thresholds.

This is what a white-box attacker holds, ours and anybody's: `forward` gives logits, as attack libraries expect, and
`judged` all the rest, with gradients through every statistic. It computes what the gateway computes with the same
bundle and policy: scores within 1e-5 (tests/defenses/lab/test_pipeline.py). Not in it is what depends on who asks
(budgets, similarity to earlier queries, rate limits) and hardening, which never changes the class of an answer.

A screen in torch is a `Statistic`: one more screen is one more class here and a line in STATISTICS.
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
from defenses.lab.trigger_statistic import Surprise, TriggerStatistic
from defenses.screens.evidence import COMPONENTS, MAHALANOBIS_WEIGHT, EvidenceScreen
from defenses.screens.evidence import NAME as EVIDENCE
from defenses.screens.trigger import NAME as TRIGGER

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
