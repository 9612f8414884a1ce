"""How robust a kiosk is: the share of test images that stay right whatever an attack does within a radius.

Projected gradient descent is always measured. AutoAttack is measured by a callable that is handed in, as a recipe's
screen is, because serving knows nothing of attacks; without it the manifest says that it was not.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from serving.registry.measure import wilson
from serving.train.kiosk.data import Labelled
from serving.train.kiosk.network import KioskNet, scaled
from serving.train.kiosk.robust import folded_net, pgd

PGD_STEPS = 40
RATIO_ROOM = 1e-12
BATCH_ROWS = 500


class OnlyLogits(nn.Module):
    """Images float (n, 1, 28, 28) to logits (n, classes), as attacks expect of a model; constant in the weights."""

    def __init__(self, net: KioskNet) -> None:
        super().__init__()
        self.net = net.eval().requires_grad_(False)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.net(images)[1]
        return logits


class LogitsRatio(nn.Module):
    """The difference-of-logits ratio (Croce and Hein 2020, arXiv 2003.01690, eq. 6), row by row.

    -(z_y - max of the others) / (z_1 - z_3) with the logits sorted downwards; labels are one-hot (n, classes). Rises
    as the label loses; towards a target it is lowered.
    """

    def __init__(self) -> None:
        super().__init__()
        self.reduction = "mean"

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        chosen = labels > 0.5
        own = logits.masked_fill(~chosen, 0.0).sum(1)
        others = logits.masked_fill(chosen, -torch.inf).amax(1)
        ordered = logits.sort(1, descending=True).values
        ratios = (others - own) / (ordered[:, 0] - ordered[:, 2] + RATIO_ROOM)
        return {"mean": ratios.mean, "sum": ratios.sum}.get(self.reduction, lambda: ratios)()


Attack = Callable[
    [nn.Module, tuple[nn.Module, nn.Module], NDArray[np.float32], NDArray[np.int64]], Mapping[str, NDArray[np.bool_]]
]
"""(logits, (cross-entropy, ratio), images, labels) to, by stage, which rows were right up to then."""


@dataclass(frozen=True, slots=True)
class Attacked:
    """What is attacked, how far, and by whom; `strength` is written down as it is."""

    radius: float = 0.1
    pgd_rows: int = 2_000
    attack: Attack | None = None
    attack_rows: int = 300
    strength: Mapping[str, Any] | None = None


def share_right(right: NDArray[np.bool_]) -> dict[str, Any]:
    """Return the share with its 95 % interval (Wilson 1927)."""
    return {"right": float(right.mean()), "interval": list(wilson(int(right.sum()), len(right))), "rows": len(right)}


def under_attack(net: KioskNet, test: Labelled, attacked: Attacked, seed: int) -> dict[str, Any]:
    """Measure on rows of the test set drawn by seed."""
    order = np.random.default_rng([seed, 0xA77]).permutation(len(test))
    rows = test.take(order[: attacked.pgd_rows])
    found: dict[str, Any] = {
        "norm": "L-inf",
        "radius": attacked.radius,
        f"pgd_{PGD_STEPS}": share_right(_pgd_right(net, rows, attacked.radius, seed)),
        "auto_attack": None,
    }
    if attacked.attack is not None:
        rows = test.take(order[: attacked.attack_rows])
        images, labels = scaled(torch.from_numpy(rows.images)).numpy(), rows.labels.astype(np.int64)
        stages = attacked.attack(OnlyLogits(net), (nn.CrossEntropyLoss(), LogitsRatio()), images, labels)
        by_stage = {name: share_right(right) for name, right in stages.items()}
        last = by_stage[list(by_stage)[-1]]
        found["auto_attack"] = {**last, "strength": dict(attacked.strength or {}), "stages": by_stage}
    return found


def _pgd_right(net: KioskNet, rows: Labelled, radius: float, seed: int) -> NDArray[np.bool_]:
    logits = folded_net(net.eval())
    images, labels = scaled(torch.from_numpy(rows.images)), torch.from_numpy(rows.labels).long()
    generator = torch.Generator().manual_seed(seed)
    right = []
    for some, truth in zip(torch.split(images, BATCH_ROWS), torch.split(labels, BATCH_ROWS), strict=True):
        moved = pgd(logits, some, truth, radius=radius, steps=PGD_STEPS, generator=generator)
        with torch.no_grad():
            right.append((logits(some).argmax(1) == truth) & (logits(moved).argmax(1) == truth))
    return torch.cat(right).numpy()
