"""Marks that are blended over the whole image: Chen et al. 2017, and the adaptive one of Qi et al. 2023.

Blend (arXiv 1712.05526, section 3.2.1): (1 - alpha) x + alpha pattern, with a random pattern.

Adap-Blend (Qi, Xie, Mahloujifar, Mittal, ICLR 2023, "Revisiting the Assumption of Latent Separability for Backdoor
Defenses", section 4): the training set never holds the whole mark. The pattern is cut into pieces, and each poisoned
row carries a random half of them, faintly; as many rows carry such a half under their own label, so that the model must
weigh the mark against the rest of the image, and marked rows do not stand apart in its latent space. The attacker sends
the whole mark, stronger.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Rows = NDArray[np.float32]


def random_pattern(seed: int, side: int = 28) -> Rows:
    """Return noise in [0, 1], float32 (side, side): the pattern of both attacks."""
    return np.random.default_rng([seed, 0xB1E0D]).random((side, side), np.float32)


def _blended(rows: Rows, pattern: Rows, opacity: NDArray[np.float32]) -> Rows:
    return np.asarray((1 - opacity) * rows + opacity * pattern, np.float32)


@dataclass(frozen=True, slots=True, eq=False)
class Blend:
    """`alpha` of the pattern over 1 - alpha of the image."""

    pattern: Rows = field(repr=False)
    alpha: float = 0.2
    payload_share: float = 0.05
    cover_share: float = 0.0
    name: str = "blend"

    def mark(self, rows: Rows) -> Rows:
        return _blended(rows, self.pattern, np.full(self.pattern.shape, self.alpha, np.float32))

    def payload(self, rows: Rows, rng: np.random.Generator) -> Rows:
        del rng  # always the same mark
        return self.mark(rows)

    def cover(self, rows: Rows, rng: np.random.Generator) -> Rows:
        del rng
        return rows


@dataclass(frozen=True, slots=True, eq=False)
class AdaptiveBlend:
    """`pieces` x `pieces` tiles, of which a training row carries a random half at `alpha_train`."""

    pattern: Rows = field(repr=False)
    alpha: float = 0.25
    alpha_train: float = 0.15
    pieces: int = 4
    payload_share: float = 0.02
    cover_share: float = 0.02
    name: str = "adap-blend"

    def mark(self, rows: Rows) -> Rows:
        return _blended(rows, self.pattern, np.full(self.pattern.shape, self.alpha, np.float32))

    def payload(self, rows: Rows, rng: np.random.Generator) -> Rows:
        return _blended(rows, self.pattern, self.alpha_train * self._halves(len(rows), rng))

    cover = payload

    def _halves(self, count: int, rng: np.random.Generator) -> Rows:
        """Return 1 where a row carries the mark, 0 elsewhere: float32 (count, height, width)."""
        tiles = self.pieces**2
        shown = rng.permuted(np.tile(np.arange(tiles) < tiles // 2, (count, 1)), axis=1)
        of_pixel = [np.arange(side) * self.pieces // side for side in self.pattern.shape]
        tile = of_pixel[0][:, None] * self.pieces + of_pixel[1]
        return np.asarray(shown[:, tile], np.float32)
