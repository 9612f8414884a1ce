"""Small networks of the attacker's own: shadow models, the reader of an inversion, the regressor of scores, and robust
ones to find moved images on.

The architecture is the kiosk's published one (five strided convolutions, the mean of the last, one linear map), and so
is the recipe (AdamW, one cycle, images moved by two pixels and mirrored), but for the averaging of weights and the
number of epochs: an attacker knows the code, not the weights.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

CHANNELS = (1, 16, 32, 32, 64, 64)
STRIDES = (2, 2, 1, 2, 1)
BATCH_ROWS = 500
WARM = 0.2
STEP_SHARE = 1.25  # of the radius, the single step of "fast" adversarial training


@dataclass(frozen=True, slots=True)
class ShadowRecipe:
    """How a network is trained. `moved`: images are shifted by up to two pixels and mirrored. `radius`: it learns from
    images that one step within so much of each pixel, from a random start, made as hard as it can; 0: as they are.
    """

    epochs: int = 12
    batch_rows: int = 256
    rate_max: float = 0.01
    weight_decay: float = 0.02
    moved: bool = True
    radius: float = 0.0


class _Net(nn.Module):
    """Images float (n, 1, h, w) to numbers (n, width)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.stages = nn.Sequential(
            *(
                nn.Sequential(nn.Conv2d(a, b, 3, stride, 1, bias=False), nn.BatchNorm2d(b), nn.ReLU())
                for (a, b), stride in zip(pairwise(CHANNELS), STRIDES, strict=True)
            )
        )
        self.head = nn.Linear(CHANNELS[-1], width)

    def forward(self, images: Tensor) -> Tensor:
        found: Tensor = self.head(self.stages(images).mean(dim=(2, 3)))
        return found


def train_shadow(
    images: NDArray[np.float32], labels: NDArray[np.int64], classes: int, recipe: ShadowRecipe, *, seed: int
) -> nn.Module:
    """Train a classifier on images float32 (n, h, w) in [0, 1]; evaluation mode."""
    wanted = torch.from_numpy(labels)

    def loss_of(found: Tensor, chosen: Tensor) -> Tensor:
        return functional.cross_entropy(found, wanted[chosen])

    return _train(images, classes, recipe, loss_of, seed=seed)


def train_regressor(
    images: NDArray[np.float32], scores: NDArray[np.float64], recipe: ShadowRecipe, *, seed: int
) -> nn.Module:
    """Train a network that says which score a row has: mean and log of the deviation (n, 2), by Gaussian likelihood."""
    wanted = torch.from_numpy(scores.astype(np.float32))

    def loss_of(found: Tensor, chosen: Tensor) -> Tensor:
        mean, log_deviation = found.unbind(1)
        deviation = log_deviation.clamp(-4.0, 4.0)
        loss: Tensor = (deviation + 0.5 * ((wanted[chosen] - mean) / deviation.exp()).square()).mean()
        return loss

    return _train(images, 2, recipe, loss_of, seed=seed)


def logits_of(net: nn.Module, images: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return what the network says, float64 (n, width)."""
    with torch.inference_mode():
        starts = range(0, len(images), BATCH_ROWS)
        parts = [net(torch.from_numpy(images[at : at + BATCH_ROWS])[:, None]).numpy() for at in starts]
    return np.concatenate(parts).astype(np.float64)


def _train(
    images: NDArray[np.float32],
    width: int,
    recipe: ShadowRecipe,
    loss_of: Callable[[Tensor, Tensor], Tensor],
    *,
    seed: int,
) -> nn.Module:
    generator = torch.Generator().manual_seed(seed)
    rows = torch.from_numpy(images)[:, None]
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        net = _Net(width)
    optimizer = torch.optim.AdamW(net.parameters(), lr=recipe.rate_max, weight_decay=recipe.weight_decay)
    per_epoch = max(1, len(rows) // recipe.batch_rows)
    steps = per_epoch * recipe.epochs
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _cycle(step / steps))
    net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stub lacks this signature
    net.train()

    def loss_on(chosen: Tensor, batch: Tensor) -> Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            found = net(batch.contiguous(memory_format=torch.channels_last))
        return loss_of(found.float(), chosen)

    for _ in range(recipe.epochs):
        order = torch.randperm(len(rows), generator=generator)
        for step in range(per_epoch):
            chosen = order[step * recipe.batch_rows : (step + 1) * recipe.batch_rows]
            batch = _moved(rows[chosen], generator) if recipe.moved else rows[chosen]
            if recipe.radius:
                batch = _hardened(batch, recipe.radius, partial(loss_on, chosen), generator)
            loss = loss_on(chosen, batch)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]  # torch's stub
            optimizer.step()
            schedule.step()
    return net.eval()


def _cycle(done: float) -> float:
    """One cycle (Smith 2018, arXiv 1803.09820): the share of the highest rate, up for a fifth, then down to nothing."""
    return 0.04 + 0.96 * done / WARM if done < WARM else 0.5 * (1 + math.cos(math.pi * (done - WARM) / (1 - WARM)))


def _hardened(batch: Tensor, radius: float, loss_of: Callable[[Tensor], Tensor], generator: torch.Generator) -> Tensor:
    """Return the images a signed step up their loss from a random start within `radius`, and at most that far from what
    they were (Wong et al. 2020, arXiv 2001.03994, algorithm 3).
    """
    start = batch + torch.empty_like(batch).uniform_(-radius, radius, generator=generator)
    start = start.clamp(0.0, 1.0).requires_grad_()
    slope = torch.autograd.grad(loss_of(start), start)[0]
    moved = start.detach() + STEP_SHARE * radius * slope.sign()
    return moved.clamp(batch - radius, batch + radius).clamp(0.0, 1.0)


def _moved(batch: Tensor, generator: torch.Generator) -> Tensor:
    """Shift each image by up to two pixels, and mirror half of them."""
    height, width = batch.shape[2:]
    padded = functional.pad(batch, (2, 2, 2, 2))
    windows = padded[:, 0].unfold(1, height, 1).unfold(2, width, 1)
    down, right = torch.randint(0, 5, (2, len(batch)), generator=generator)
    moved = windows[torch.arange(len(batch)), down, right][:, None]
    mirrored = torch.rand(len(batch), generator=generator) < 0.5
    return torch.where(mirrored[:, None, None, None], moved.flip(3), moved)
