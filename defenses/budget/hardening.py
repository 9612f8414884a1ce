"""S5: tell less with each answer, and never another answer.

Confidences feed extraction, membership inference and score-based evasion. Hardening keeps the `top_k` classes, flattens
them by a temperature and rounds them to a few decimals. It does not stop label-only attacks (defenses.md, fact 4).

What a caller can rely on, for every row that is a distribution:
- `argmax` of the hardened row is `argmax` of the row, ties included (the first of equal classes wins in both);
- classes outside the top k are exactly zero (of equal classes at the edge, those with the lower index are kept);
- kept classes keep their order, except that distinct ones may become equal;
- a row's units add up to exactly 10^decimals, so its sum is 1 up to the float error of adding it, far below one unit;
- each value is less than two units from the exact one: one by rounding, one where a tie had to be broken.
A row that is no distribution (NaN, infinite, negative, all zero) becomes NaN throughout and its neighbours are
untouched: it tells nothing, and the caller answers it as a model error.

Other outputs are not hardened here: whoever hides confidences must not return logits, latents or energies beside them.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from defenses.errors import EvidenceInvalid, RuleInvalid

TOP_K_MAX = 1_000_000
TEMPERATURE_MIN, TEMPERATURE_MAX = 0.05, 100.0
DECIMALS_MAX = 6  # a float32 still tells neighbouring values of six decimals apart


@dataclass(frozen=True, slots=True)
class HardeningRule:
    """Keep `top_k` classes; divide log-probabilities by `temperature` (above 1 flattens); round to `decimals`."""

    top_k: int
    temperature: float
    decimals: int

    def __post_init__(self) -> None:
        if not 1 <= self.top_k <= TOP_K_MAX:
            raise RuleInvalid("top_k", f"{self.top_k}: outside [1, {TOP_K_MAX}]")
        if not TEMPERATURE_MIN <= self.temperature <= TEMPERATURE_MAX:
            raise RuleInvalid("temperature", f"{self.temperature}: outside [{TEMPERATURE_MIN}, {TEMPERATURE_MAX}]")
        if not 0 <= self.decimals <= DECIMALS_MAX:
            raise RuleInvalid("decimals", f"{self.decimals}: outside [0, {DECIMALS_MAX}]")


def harden(probabilities: NDArray[Any], rule: HardeningRule) -> NDArray[Any]:
    """Harden float32 or float64 (rows, classes) into a new array of the same shape and dtype; see the module.

    EvidenceInvalid for another dtype or shape. The argument is not written to.
    """
    if probabilities.ndim != 2 or probabilities.shape[1] == 0 or probabilities.dtype not in (np.float32, np.float64):
        raise EvidenceInvalid("probabilities", f"{probabilities.dtype}{probabilities.shape}: (rows, classes) wanted")
    values = probabilities.astype(np.float64)
    order = (-values).argsort(axis=1, kind="stable")  # the first column is argmax, NaN the last
    rows = np.arange(len(values))[:, None]
    descending = values[rows, order]
    largest = descending[:, 0]
    valid = (descending[:, -1] >= 0) & (largest > 0) & (largest < np.inf)
    sound = bool(valid.all())
    if not sound:
        descending[~valid] = 1.0  # any distribution will do: these rows are overwritten below
    order = order[:, : rule.top_k]
    units = _to_units(_flatten(descending[:, : rule.top_k], rule.temperature), 10**rule.decimals)
    _part_ties(units, order)
    hardened = np.zeros_like(probabilities)
    hardened[rows, order] = units / 10**rule.decimals
    if not sound:
        hardened[~valid] = np.nan
    return hardened


def _flatten(kept: NDArray[np.float64], temperature: float) -> NDArray[np.float64]:
    """Temperature and renormalisation of rows in descending order."""
    scaled = kept / kept[:, :1]  # the largest is 1: no power overflows
    if temperature != 1.0:
        scaled **= 1.0 / temperature
        np.minimum.accumulate(scaled, axis=1, out=scaled)  # nothing promises that a power is monotone in its last bit
    scaled /= scaled.sum(axis=1, keepdims=True)
    return scaled


def _to_units(shares: NDArray[np.float64], total: int) -> NDArray[np.int64]:
    """Round rows in descending order to whole units that add up to `total` (largest remainder), keeping the order."""
    exact = shares * total
    units = exact.astype(np.int64)  # no share is negative: this is the floor
    short = total - units.sum(axis=1, keepdims=True)
    place = (units - exact).argsort(axis=1, kind="stable").argsort(axis=1)  # each class's place by remainder
    units += place < short
    return units


def _part_ties(units: NDArray[np.int64], order: NDArray[np.intp]) -> None:
    """Where rounding tied the top class with one of lower index, move it one unit from the least class that has any."""
    if not (units[:, 1:2] == units[:, :1]).any():  # rows descend: where the second is less, all others are
        return
    tied = ((units == units[:, :1]) & (order < order[:, :1])).any(axis=1)
    rows = np.flatnonzero(tied)
    if rows.size:
        least = (units[rows] > 0).sum(axis=1) - 1  # rows descend, so the last of the non-zero ones
        units[rows, least] -= 1
        units[rows, 0] += 1
