"""Images that are not products, for measuring what the energies notice. Never trained on, fitted to or calibrated with.

All are uint8 (n, 28, 28), drawn by seed:

- digits: 1,797 real handwritten digits (UCI Optical Recognition of Handwritten Digits, Alpaydin and Kaynak 1998, CC BY
  4.0, as shipped by scikit-learn), 8 x 8 in 17 grey levels, enlarged to 20 x 20 and centred as MNIST centres its own.
  This is *not* MNIST: no package ships that. Its strokes are smoother.
- noise: uniform, independent pixels.
- inverted: test images, 255 - x.
- shuffled: test images under one permutation of the pixels each, so the histogram stays.
- blank: constant images of 256 grey levels.
"""

from __future__ import annotations

import numpy as np
import sklearn.datasets
import torch
from numpy.typing import NDArray
from torch.nn import functional

SIDE = 28
DIGIT_SIDE = 20
DIGIT_LEVEL_MAX = 16
DIGITS_SOURCE = "UCI Optical Recognition of Handwritten Digits (CC BY 4.0), from scikit-learn, enlarged; not MNIST"


def foreign_images(test_images: NDArray[np.uint8], seed: int) -> dict[str, NDArray[np.uint8]]:
    """Return each kind by name; inverted and shuffled have a row for each test image, noise too."""
    rng = np.random.default_rng([seed, 0xF0])
    flat = test_images.reshape(len(test_images), -1)
    return {
        "digits": _digits(),
        "noise": rng.integers(0, 256, test_images.shape, dtype=np.uint8),
        "inverted": 255 - test_images,
        "shuffled": rng.permuted(flat, axis=1).reshape(test_images.shape),
        "blank": np.broadcast_to(np.arange(256, dtype=np.uint8)[:, None, None], (256, SIDE, SIDE)).copy(),
    }


def _digits() -> NDArray[np.uint8]:
    small = torch.from_numpy(sklearn.datasets.load_digits().images).float()[:, None] / DIGIT_LEVEL_MAX
    large = functional.interpolate(small, (DIGIT_SIDE, DIGIT_SIDE), mode="bicubic", align_corners=False)
    margin = (SIDE - DIGIT_SIDE) // 2
    framed = functional.pad(large.clamp(0.0, 1.0), (margin,) * 4)[:, 0]
    return (framed * 255.0).round().to(torch.uint8).numpy()
