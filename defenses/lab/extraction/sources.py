"""What a thief asks: images of the service's own kind, images of another kind, and images of no kind.

- natural: images from where the victim's own came from, without their labels. The strongest thief: nothing about his
  queries is strange (in-distribution theft; nothing but rates and accounts stands in his way).
- foreign: real images of something else (handwritten digits from scikit-learn, moved, scaled and in other contrasts),
  as Knockoff Nets ask ("Knockoff Nets", Orekondy, Schiele, Fritz, CVPR 2019, arXiv 1812.02766).
- synthetic: dead leaves, overlapping ellipses and rectangles of random greys, for a thief without any images (Baradad
  et al., "Learning to See by Looking at Noise", NeurIPS 2021, section 3).
- augmented: a few natural images, then steps from them along the signs of the copy's own slopes (Jacobian-based
  augmentation; Papernot et al., "Practical Black-Box Attacks", Asia CCS 2017, section 4.2). Made round by round, in
  `defenses.lab.extraction.theft`.

Rows are float32 (n, side, side) in [0, 1] and come from the generator alone.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

FOREIGN_SOURCE: Final = "UCI Optical Recognition of Handwritten Digits (CC BY 4.0), from scikit-learn"
LEAVES: Final = (3, 12)
DIGIT_LEVEL_MAX: Final = 16.0


def foreign(count: int, side: int, rng: np.random.Generator) -> NDArray[np.float32]:
    """Draw handwritten digits, each in a size, place, contrast and ground of its own."""
    import sklearn.datasets  # noqa: PLC0415  it comes with ART, and takes a second

    digits = sklearn.datasets.load_digits().images / DIGIT_LEVEL_MAX
    rows = np.empty((count, side, side), np.float32)
    rows[:] = 0.0
    for row in rows:
        digit = digits[rng.integers(len(digits))]
        size = int(rng.integers(side // 2, side + 1))
        places = np.linspace(0.0, digit.shape[0] - 1.0, size)
        down, right = rng.integers(0, side - size + 1, 2)
        row[down : down + size, right : right + size] = _enlarged(digit, places) * rng.uniform(0.5, 1.0)
        if rng.random() < 0.25:
            np.subtract(1.0, row, out=row)
    return rows


def synthetic(count: int, side: int, rng: np.random.Generator) -> NDArray[np.float32]:
    """Draw dead leaves: a dark or grey ground, and on it ellipses and rectangles that hide each other."""
    down, right = np.mgrid[0:side, 0:side].astype(np.float32)
    rows = np.empty((count, side, side), np.float32)
    for row in rows:
        row[:] = rng.uniform(0.0, 1.0) if rng.random() < 0.3 else 0.0
        for _ in range(rng.integers(*LEAVES)):
            y, x = rng.uniform(0.0, side, 2)
            height, width = rng.uniform(1.0, side / 2.5, 2)
            away = np.abs((down - y) / height), np.abs((right - x) / width)
            inside = np.hypot(*away) < 1.0 if rng.random() < 0.5 else np.maximum(*away) < 1.0
            row[inside] = rng.uniform(0.0, 1.0)
        noise = rng.normal(0.0, rng.uniform(0.0, 0.05), row.shape)
        np.clip(row + noise, 0.0, 1.0, out=row)
    return rows


def _enlarged(image: NDArray[np.float64], places: NDArray[np.float64]) -> NDArray[np.float64]:
    """Read a square image between its pixels, at `places` along both axes."""
    grid = np.arange(len(image))
    down = np.array([np.interp(places, grid, column) for column in image.T])
    across = np.array([np.interp(places, grid, line) for line in down.T])
    return np.asarray(np.clip(across, 0.0, 1.0))
