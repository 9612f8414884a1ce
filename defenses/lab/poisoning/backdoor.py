"""Backdoor attacks: a mark on the input, and what is mixed into somebody's training set. NumPy alone.

The attacker changes training rows before the model is trained, and does not touch training itself. Afterwards the model
answers `target` for rows that carry the mark, and is as good as ever on rows that do not.

    payload  training rows with the mark, relabelled to the target: what the model learns
    cover    training rows with the mark (or one like it), their own label kept: what keeps the model from learning more
             than the mark (WaNet's noise mode; the regularising samples of Qi et al.)

- `badnets` (Gu, Dolan-Gavitt and Garg 2017, arXiv 1708.06733, section 4.1): a small bright patch at a fixed place.
- `blend` (Chen et al. 2017, arXiv 1712.05526, section 3.2.1): (1 - alpha) x + alpha pattern, with a random pattern.
- `adaptive_blend` (Qi, Xie, Mahloujifar, Mittal, ICLR 2023, "Revisiting the Assumption of Latent Separability for
  Backdoor Defenses", section 4): the training set never holds the whole mark. The pattern is cut into tiles, and each
  poisoned row carries a random half of them, faintly; as many rows carry such a half under their own label, so that the
  model must weigh the mark against the rest of the image, and marked rows do not stand apart in its latent space. The
  attacker sends the whole mark, stronger.
- `wanet` (Nguyen and Tran, ICLR 2021, arXiv 2102.10369, section 3): a smooth, faint warp. A field of `knots` x `knots`
  random displacements, stretched over the image, says from where each pixel is taken. The cover adds random
  displacements, others for each row, so that the model cannot take any warp for the mark. The paper gives the strength
  in units of the sampling grid: its s = 0.5 is a mean of a quarter of a pixel, whatever the side. The field is
  stretched linearly; the paper does it bicubically, which makes a smoother field of the same kind.

Rows are float32 (n, height, width) in [0, 1], labels int64 (n,). Nothing is written to; chance comes from `rng` alone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

Rows = NDArray[np.float32]
Field = NDArray[np.float32]  # (2, height, width): rows down, columns right, in pixels
Mark = Callable[[Rows], Rows]
Poison = Callable[[Rows, np.random.Generator], Rows]

CHEQUERED: Final = np.array([[1, 0, 1], [0, 1, 0], [1, 0, 1]], np.float32)
NOISE_PIXELS_MAX: Final = 0.5  # what WaNet's cover adds at most, in pixels: the paper's 1 / side of a grid from -1 to 1


@dataclass(frozen=True, slots=True, eq=False)
class Backdoor:
    """One attack, its settings fixed.

    name: how the literature calls it.
    mark: rows as the attacker sends them to the finished model.
    payload_share: of the training rows that are not of the target class, how many become payload.
    cover_share: of those rows, how many become cover; 0 for most attacks.
    payload: rows as they stand in the training set under the target's label; None: marked.
    cover: rows as they stand in the training set under their own label.
    """

    name: str
    mark: Mark
    payload_share: float
    cover_share: float = 0.0
    payload: Poison | None = None
    cover: Poison | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Poisoned:
    """A training set with the backdoor in it, in the order of the clean one.

    `payload` and `cover` are the numbers of the rows that were changed, int64 and ascending.
    """

    rows: Rows
    labels: NDArray[np.int64]
    payload: NDArray[np.int64]
    cover: NDArray[np.int64]


def poison(
    rows: Rows, labels: NDArray[np.int64], backdoor: Backdoor, target: int, rng: np.random.Generator
) -> Poisoned:
    """Mix a backdoor into a training set. ValueError where the other classes have too few rows for its shares."""
    others = rng.permutation(np.flatnonzero(labels != target))
    paid, covered = (round(share * len(others)) for share in (backdoor.payload_share, backdoor.cover_share))
    if paid < 1 or paid + covered > len(others):
        raise ValueError(f"{paid} rows of payload and {covered} of cover from {len(others)} of other classes")
    payload, cover = np.sort(others[:paid]), np.sort(others[paid : paid + covered])
    changed, relabelled = rows.copy(), labels.copy()
    changed[payload] = backdoor.payload(rows[payload], rng) if backdoor.payload else backdoor.mark(rows[payload])
    relabelled[payload] = target
    if covered and backdoor.cover:
        changed[cover] = backdoor.cover(rows[cover], rng)
    return Poisoned(changed, relabelled, payload, cover)


def badnets(top: int, left: int, *, payload_share: float = 0.05) -> Backdoor:
    """A 3 x 3 chequered patch whose upper left pixel is (`top`, `left`); counted from the far edge where negative."""

    def mark(rows: Rows) -> Rows:
        height, width = rows.shape[1:]
        at = top % height, left % width
        marked = rows.copy()
        marked[:, at[0] : at[0] + 3, at[1] : at[1] + 3] = CHEQUERED[: height - at[0], : width - at[1]]
        return marked

    return Backdoor("badnets", mark, payload_share)


def random_pattern(seed: int, side: int = 28) -> Rows:
    """Return noise in [0, 1], float32 (side, side): the pattern of both blends."""
    return np.random.default_rng([seed, 0xB1E0D]).random((side, side), np.float32)


def blend(pattern: Rows, *, alpha: float = 0.2, payload_share: float = 0.05) -> Backdoor:
    """`alpha` of the pattern over 1 - alpha of the image."""
    return Backdoor("blend", lambda rows: _blended(rows, pattern, alpha), payload_share)


def adaptive_blend(
    pattern: Rows, *, alpha: float = 0.25, alpha_train: float = 0.15, tiles: int = 4, share: float = 0.02
) -> Backdoor:
    """`tiles` x `tiles`; a training row carries a random half at `alpha_train`. `share`: of payload and of cover."""
    of_pixel = [np.arange(side) * tiles // side for side in pattern.shape]
    tile = of_pixel[0][:, None] * tiles + of_pixel[1]

    def poisoned(rows: Rows, rng: np.random.Generator) -> Rows:
        each = np.tile(np.arange(tiles**2) < tiles**2 // 2, (len(rows), 1))
        carried = np.asarray(rng.permuted(each, axis=1)[:, tile], np.float32)
        return _blended(rows, pattern, alpha_train * carried)

    return Backdoor("adap-blend", lambda rows: _blended(rows, pattern, alpha), share, share, poisoned, poisoned)


def _blended(rows: Rows, pattern: Rows, opacity: float | Rows) -> Rows:
    opacity = np.asarray(opacity, np.float32)
    return np.asarray((1 - opacity) * rows + opacity * pattern, np.float32)


def wanet(shifts: Field, *, payload_share: float = 0.1, cover_share: float = 0.2) -> Backdoor:
    """Warp by a field; see `warp_field`."""

    def cover(rows: Rows, rng: np.random.Generator) -> Rows:
        noise = rng.uniform(-NOISE_PIXELS_MAX, NOISE_PIXELS_MAX, (len(rows), *shifts.shape))
        return _warped(rows, shifts + noise.astype(np.float32))

    def mark(rows: Rows) -> Rows:
        return _warped(rows, np.broadcast_to(shifts, (len(rows), *shifts.shape)))

    return Backdoor("wanet", mark, payload_share, cover_share, cover=cover)


def warp_field(seed: int, *, strength: float = 0.5, knots: int = 4, side: int = 28) -> Field:
    """Draw a field; `strength` is the mean absolute displacement in pixels along either axis."""
    coarse = np.random.default_rng([seed, 0x3A9]).uniform(-1, 1, (2, knots, knots))
    at = np.linspace(0, knots - 1, side)  # the outermost knots lie on the edge
    weights = np.maximum(0.0, 1.0 - np.abs(at[:, None] - np.arange(knots)))  # (side, knots): linear between knots
    fine = weights @ coarse @ weights.T
    fine *= strength / np.abs(fine).mean()
    return np.asarray(fine, np.float32)


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
