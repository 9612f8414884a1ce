"""How a recipe has its screen calibrated: by callables that are handed in, because serving knows nothing of screens."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

Outputs = Mapping[str, NDArray[Any]]


@dataclass(frozen=True, slots=True)
class ScreenFitter:
    """How the bundle's screen is calibrated, given the model's outputs on rows.

    `fit(fit, calibrate, measure)` returns the arrays to store and a report in plain JSON; `measure(arrays, outputs)`
    returns how many rows are flagged at each operating point, with `fpr_max`, `rate` and `interval`.
    """

    fit: Callable[[Outputs, Outputs, Outputs], tuple[dict[str, NDArray[Any]], dict[str, Any]]]
    measure: Callable[[Outputs, Outputs], list[dict[str, Any]]]
