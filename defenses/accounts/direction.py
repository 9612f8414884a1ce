"""S3 update direction: do an account's repeats move as a search moves?

Within one ball, look at the difference d between a repeat's code and its anchor's. Searches leave marks in successive
differences: steps that build on each other (cosine near 1: Square, Boundary), pairs of opposite probes (near -1: NES,
antithetic gradient estimates), fresh directions of one length (near 0 with lengths alike: HopSkipJump, FRESH). Benign
near duplicates have marks of their own (the same noise source, a product moved a little), so nothing here is absolute:
an outcome is a bin of (cosine, ratio of lengths), judged against an upper bound of how often benign repeats fall into
it given the bin of the cosine before.

State: one code and a few numbers an account, less than 1 KiB, and only where it repeats something.
Idea: PRADA's regularity of differences (Juuti et al., EuroS&P 2019, section 5), on directions instead of distances.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Self

import numpy as np
from numpy.typing import NDArray

from defenses.accounts.similarity import Codes
from defenses.errors import CalibrationInvalid

NAME: Final = "direction"
TECHNIQUE: Final = "AML.T0043.001"  # MITRE ATLAS: Craft Adversarial Data, black-box optimization
BOUNDS: Final = f"{NAME}.bounds"
COSINES: Final = (-0.75, -0.25, 0.25, 0.6, 0.85)
RATIOS: Final = (0.8, 1.25)
COSINE_BINS: Final = len(COSINES) + 1
RATIO_BINS: Final = len(RATIOS) + 1
BINS: Final = COSINE_BINS * RATIO_BINS
CONTEXTS: Final = COSINE_BINS + 1  # the bin of the cosine before, and none
FIRST: Final = COSINE_BINS
PATTERNS: Final = ((5, 1, 0.7), (0, 1, 0.8), (2, 1, 0.8))  # cosine bin, ratio bin, how much of an attack falls there
BETS: Final = len(PATTERNS)


@dataclass(slots=True)
class Motion:
    """How an account last moved: from which anchor, by what, and the bin of its last cosine."""

    ball: tuple[str, int]  # tenant, and the anchor's place in its window
    step: NDArray[np.int16]
    bin: int = FIRST


@dataclass(frozen=True, slots=True, eq=False)
class Direction:
    """Bounds on benign motion. Build it with `from_calibration`."""

    log_e: NDArray[np.float64]  # (bets, contexts, bins)
    tails: NDArray[np.float64]  # (contexts, bins): p-value of a bin or a rarer one

    @classmethod
    def from_calibration(cls, arrays: Mapping[str, NDArray[Any]]) -> Self:
        """Read "direction.bounds": float64 (contexts, bins), upper bounds; CalibrationInvalid if malformed."""
        bounds = arrays.get(BOUNDS)
        if bounds is None or bounds.dtype != np.float64 or bounds.shape != (CONTEXTS, BINS):
            raise CalibrationInvalid(BOUNDS, f"float64 ({CONTEXTS}, {BINS}) wanted")
        if not ((bounds > 0) & (bounds <= 1)).all():
            raise CalibrationInvalid(BOUNDS, "no probabilities")
        log_e = [np.log(hope(*pattern) / bounds) for pattern in PATTERNS]
        order = np.where(bounds[:, None, :] <= bounds[:, :, None], bounds[:, None, :], 0.0).sum(axis=2)
        return cls(np.array(log_e), np.minimum(order, 1.0))


def hope(cosine_bin: int, ratio_bin: int, share: float) -> NDArray[np.float64]:
    """Return how an attack of a pattern spreads over the bins: most in one, the rest evenly; sums to 1.

    E-values are hope over bound: the mean under any distribution within the bounds is at most the sum of hopes.
    """
    spread = np.full(BINS, (1.0 - share) / BINS)
    spread[cosine_bin * RATIO_BINS + ratio_bin] += share
    return spread


def step_of(code: Codes, anchor: Codes) -> NDArray[np.int16]:
    """Return the difference of two codes, int16 (cells,)."""
    return code.astype(np.int16) - anchor.astype(np.int16)


def bin_of(before: NDArray[np.int16], step: NDArray[np.int16]) -> tuple[int, int] | None:
    """Return the bin of two successive differences, and that of their cosine; None where one of them is nothing."""
    one, other = before.astype(np.float32), step.astype(np.float32)
    first, second = float(one @ one), float(other @ other)
    if not first or not second:
        return None
    cosine, ratio = float(one @ other) / (first * second) ** 0.5, (second / first) ** 0.5
    angle, length = sum(cosine >= edge for edge in COSINES), sum(ratio >= edge for edge in RATIOS)
    return angle * RATIO_BINS + length, angle
