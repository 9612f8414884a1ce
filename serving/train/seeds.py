"""Figures over seeds, folds, subsets or classes: their means with 95 % intervals (Student's t)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

_QUANTILES = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776, 10: 2.262}  # 97.5 %, one degree of freedom less than values
COUNTS = tuple(_QUANTILES)
"""How many values there may be."""


def interval(values: Sequence[float]) -> dict[str, Any]:
    """Return the `values`, one a seed, their `mean` and `half` the width of its interval, 0 of one value."""
    half = _QUANTILES[len(values)] * float(np.std(values, ddof=1)) / math.sqrt(len(values)) if len(values) > 1 else 0.0
    return {"mean": float(np.mean(values)), "half": half, "values": list(values)}


def intervals(found: Sequence[Mapping[str, float]]) -> dict[str, dict[str, Any]]:
    """Return the interval of each figure; `found` has the same figures for each seed."""
    return {name: interval([one[name] for one in found]) for name in found[0]}
