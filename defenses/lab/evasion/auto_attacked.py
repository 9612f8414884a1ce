"""AutoAttack for the lab: ART's attacks on the classifier alone. The ratio loss is handed in (ART's mixes rows)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from defenses.art_adapter import SMOKE_BUDGET, AutoAttackBudget, auto_attack
from defenses.lab.attack import Size

if TYPE_CHECKING:
    from defenses.lab.evasion.whitebox_trials import Static
    from defenses.lab.pipeline import Pipeline


def auto_attacked(size: Size, ratio: nn.Module) -> Static:
    """Return the attack at the budget of this size; a row that withstands every stage is given back untouched."""
    budget = SMOKE_BUDGET if size is Size.SMOKE else AutoAttackBudget()

    def run(pipeline: Pipeline, images: Tensor, labels: Tensor, radius: float, seed: int) -> Tensor:
        pixels = images.unsqueeze(1).numpy()
        moved = pixels.copy()
        auto_attack(
            pipeline,
            (nn.CrossEntropyLoss(), ratio),
            pixels,
            labels.numpy(),
            classes=pipeline(images[:1]).shape[1],
            radius=radius,
            budget=budget,
            seed=seed,
            moved=moved,
        )
        return torch.from_numpy(np.ascontiguousarray(moved[:, 0]))

    return run
