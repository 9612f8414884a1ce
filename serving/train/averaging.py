"""Averaged weights: what is measured and kept is the exponential moving average of what is trained."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor


def average(kept: Iterable[Tensor], new: Iterable[Tensor], step: int, decay: float) -> None:
    """Move averages towards the values after a step (from 0), with a warm-up so that the first steps are forgotten.

    What is not floating is copied.
    """
    now = min(decay, (1 + step) / (10 + step))
    with torch.no_grad():
        for before, after in zip(kept, new, strict=True):
            if before.dtype.is_floating_point:
                before.lerp_(after, 1 - now)
            else:
                before.copy_(after)
