"""The kiosk classifier: a small strided CNN whose cost is set by the gateway's budget, not by the data set.

Every stage is convolution, batch norm, ReLU; batch norm folds into the convolution when the graph is written. Strides
replace pooling (one memory pass less); channels are multiples of 16, the width of ONNX Runtime's blocked layout.
The latent is the mean over positions of the last stage, the head one linear map of it. The middle features are the
means of two stages before it: they still tell how a thing is drawn, where the last stage only tells the classes apart.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True, slots=True)
class Stage:
    """One convolution; padding keeps ceil(size / stride)."""

    channels: int
    kernel: int
    stride: int


STAGES = (Stage(16, 3, 2), Stage(32, 3, 2), Stage(32, 3, 1), Stage(64, 3, 2), Stage(64, 3, 1))

BATCH_NORM_EPSILON = 1e-5
MIDDLE = (2, 3)  # stages whose means are the middle features


def scaled(images: Tensor) -> Tensor:
    """Return uint8 (n, 28, 28) as float32 (n, 1, 28, 28) in [0, 1]."""
    return images.unsqueeze(1).float().div_(255.0)


class KioskNet(nn.Module):
    """Images float (n, 1, 28, 28) in [0, 1] to (latent (n, D), logits (n, classes))."""

    def __init__(self, classes: int, stages: tuple[Stage, ...] = STAGES) -> None:
        super().__init__()
        self.stages = stages
        self.convolutions = nn.ModuleList()
        self.norms = nn.ModuleList()
        channels = 1
        for stage in stages:
            self.convolutions.append(
                nn.Conv2d(channels, stage.channels, stage.kernel, stage.stride, padding=stage.kernel // 2, bias=False)
            )
            self.norms.append(nn.BatchNorm2d(stage.channels, eps=BATCH_NORM_EPSILON))
            channels = stage.channels
        self.head = nn.Linear(channels, classes)

    @property
    def width(self) -> int:
        """Elements of a latent."""
        return self.stages[-1].channels

    @property
    def epsilon(self) -> float:
        """What every batch norm adds to the variance."""
        return BATCH_NORM_EPSILON

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        latent = self._stages(images)[-1].mean(dim=(2, 3))
        return latent, self.head(latent)

    def middle(self, images: Tensor) -> Tensor:
        """Return the middle features (n, M), not negative."""
        return self._middle(self._stages(images))

    def everything(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return (latent, logits, middle features) in one pass."""
        features = self._stages(images)
        latent = features[-1].mean(dim=(2, 3))
        return latent, self.head(latent), self._middle(features)

    def _middle(self, features: list[Tensor]) -> Tensor:
        return torch.cat([features[stage].mean(dim=(2, 3)) for stage in MIDDLE], dim=1)

    def _stages(self, images: Tensor) -> list[Tensor]:
        features = [images]
        for convolution, norm in zip(self.convolutions, self.norms, strict=True):
            features.append(torch.relu(norm(convolution(features[-1]))))
        return features[1:]
