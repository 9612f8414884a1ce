"""The thief's copy: a small convolutional network, trained on what the victim answered.

Targets are distributions: what was answered where probabilities are, one class at 1 where only a label is. The copy has
another architecture and another objective than the victim, as somebody has who only ever saw its answers. The number of
steps does not depend on the number of answers, so that few answers are learned as well as they can be. The recipe was
chosen on rows that nothing is reported on (at 3,000 answers, moving images by two pixels cost 2 points of agreement; at
1,000 twice as many steps gained nothing).
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

BATCH_ROWS = 512


@dataclass(frozen=True, slots=True)
class Recipe:
    """How a copy is trained: steps of `batch_rows` answers, half of the batches mirrored."""

    steps: int = 400
    batch_rows: int = 64
    rate_max: float = 1e-2
    mirror: bool = True


class _Copy(nn.Module):
    """Images float (n, 1, h, w) to logits (n, classes)."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        channels = (1, 16, 32, 64)
        self.stages = nn.Sequential(
            *(
                nn.Sequential(nn.Conv2d(a, b, 3, 2, 1, bias=False), nn.BatchNorm2d(b), nn.ReLU())
                for a, b in pairwise(channels)
            )
        )
        self.head = nn.LazyLinear(classes)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.head(self.stages(images).flatten(1))
        return logits


def train_copy(images: NDArray[np.float32], targets: NDArray[np.float32], recipe: Recipe, *, seed: int) -> nn.Module:
    """Train a copy on images float32 (n, h, w) in [0, 1] and the distributions (n, classes) answered for them."""
    generator = torch.Generator().manual_seed(seed)
    rows, wanted = torch.from_numpy(images)[:, None], torch.from_numpy(targets)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        copy = _Copy(targets.shape[1])
        copy(rows[:2])  # the head's width is known from here on
    optimizer = torch.optim.AdamW(copy.parameters(), lr=recipe.rate_max, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, recipe.rate_max, recipe.steps)
    copy.train()
    for _ in range(recipe.steps):
        drawn = torch.randint(0, len(rows), (recipe.batch_rows,), generator=generator)
        batch = rows[drawn]
        if recipe.mirror and torch.rand(1, generator=generator).item() < 0.5:
            batch = batch.flip(3)
        loss = functional.cross_entropy(copy(batch), wanted[drawn])
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]  # torch's stub
        optimizer.step()
        schedule.step()
    return copy.eval()


def labels_of(copy: nn.Module, images: NDArray[np.float32]) -> NDArray[np.int64]:
    """Return the copy's classes, int64 (n,)."""
    with torch.no_grad():
        starts = range(0, len(images), BATCH_ROWS)
        parts = [copy(torch.from_numpy(images[at : at + BATCH_ROWS])[:, None]).argmax(1).numpy() for at in starts]
    return np.concatenate(parts).astype(np.int64)


def slopes_of(copy: nn.Module, images: NDArray[np.float32], labels: NDArray[np.int64]) -> NDArray[np.float32]:
    """Return the sign of the slope of each image's logit of its label, float32 (n, h, w) (Papernot et al. 2017)."""
    rows = torch.from_numpy(images)[:, None].requires_grad_()
    chosen = copy(rows).gather(1, torch.from_numpy(labels)[:, None]).sum()
    [slopes] = torch.autograd.grad(chosen, rows)
    return np.asarray(slopes[:, 0].sign().numpy(), np.float32)


def agreement(copy: nn.Module, images: NDArray[np.float32], victim: NDArray[np.int64]) -> int:
    """Return on how many images the copy says what the victim says."""
    return int((labels_of(copy, images) == victim).sum())
