"""WaNet (Nguyen and Tran, ICLR 2021, arXiv 2102.10369, section 3): the mark is a smooth, faint warp of the image.

A field of `knots` x `knots` random displacements, stretched over the image and scaled to a mean of `strength` pixels
along either axis, says from where each pixel is taken. In noise mode (the cover) random displacements are added to the
field, others for each row, so that the model cannot take any warp for the mark.

The paper gives the strength in units of the sampling grid: its s = 0.5 is a mean of a quarter of a pixel, whatever the
side. The field is stretched linearly; the paper does it bicubically, which makes a smoother field of the same kind.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Self

import numpy as np
from numpy.typing import NDArray

Rows = NDArray[np.float32]
Field = NDArray[np.float32]  # (2, height, width): rows down, columns right, in pixels
NOISE_PIXELS_MAX = 0.5  # what noise mode adds at most, in pixels: the paper's 1 / side of a grid from -1 to 1


@dataclass(frozen=True, slots=True, eq=False)
class WaNet:
    """Build it with `drawn`."""

    shifts: Field = field(repr=False)
    payload_share: float = 0.1
    cover_share: float = 0.2
    name: str = "wanet"

    @classmethod
    def drawn(
        cls,
        seed: int,
        *,
        strength: float = 0.5,
        knots: int = 4,
        side: int = 28,
        payload_share: float = 0.1,
        cover_share: float = 0.2,
    ) -> Self:
        """Draw a field; `strength` is the mean absolute displacement in pixels along either axis."""
        coarse = np.random.default_rng([seed, 0x3A9]).uniform(-1, 1, (2, knots, knots))
        fine = _stretched(coarse, side)
        fine *= strength / np.abs(fine).mean()
        return cls(fine.astype(np.float32), payload_share, cover_share)

    def mark(self, rows: Rows) -> Rows:
        return _warped(rows, np.broadcast_to(self.shifts, (len(rows), *self.shifts.shape)))

    def payload(self, rows: Rows, rng: np.random.Generator) -> Rows:
        del rng  # always the same mark
        return self.mark(rows)

    def cover(self, rows: Rows, rng: np.random.Generator) -> Rows:
        noise = rng.uniform(-NOISE_PIXELS_MAX, NOISE_PIXELS_MAX, (len(rows), *self.shifts.shape))
        return _warped(rows, self.shifts + noise.astype(np.float32))


def _stretched(coarse: NDArray[np.float64], side: int) -> NDArray[np.float64]:
    """Return (2, k, k) as (2, side, side), linear between knots, the outermost knots on the edge."""
    knots = coarse.shape[1]
    at = np.linspace(0, knots - 1, side)
    weights = np.maximum(0.0, 1.0 - np.abs(at[:, None] - np.arange(knots)))  # (side, knots): hats
    return np.asarray(weights @ coarse @ weights.T, np.float64)


def _warped(rows: Rows, shifts: Field) -> Rows:
    """Take each pixel from where `shifts` (n, 2, height, width) says, bilinear, within the image."""
    count, height, width = rows.shape
    down = np.clip(np.arange(height, dtype=np.float32)[:, None] + shifts[:, 0], 0, height - 1)
    right = np.clip(np.arange(width, dtype=np.float32) + shifts[:, 1], 0, width - 1)
    top, left = np.minimum(down.astype(np.intp), height - 2), np.minimum(right.astype(np.intp), width - 2)
    low, aside = down - top, right - left
    row = np.arange(count)[:, None, None]
    upper = (1 - aside) * rows[row, top, left] + aside * rows[row, top, left + 1]
    lower = (1 - aside) * rows[row, top + 1, left] + aside * rows[row, top + 1, left + 1]
    return np.asarray((1 - low) * upper + low * lower, np.float32)
