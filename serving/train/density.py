"""Two densities over what training looked like, fitted in float64 and handed on as float32 constants of the graph.

- Residual: the root mean square of what the leading principal components of the images leave over. Images outside the
  plane the training images lie near (noise, other alphabets of shapes) leave much.
- Mahalanobis: distance in the latent to the nearest class mean under one covariance for all classes (Lee et al. 2018,
  arXiv 1807.03888), shrunk towards its diagonal mean by the oracle-approximating formula (Chen et al. 2010,
  arXiv 0907.4698, eq. 23), so that thin directions do not turn rounding into distance.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Latents", "Plane", "fit_latents", "fit_plane"]


@dataclass(frozen=True, slots=True)
class Plane:
    """Mean (pixels,) and orthonormal components (pixels, k) of the leading plane; float64."""

    mean: NDArray[np.float64]
    components: NDArray[np.float64]
    explained: float


@dataclass(frozen=True, slots=True)
class Latents:
    """Whitening map (D, D) and whitened class means (classes, D); float64. Distance^2 = |latent @ map - mean|^2."""

    whitening: NDArray[np.float64]
    means: NDArray[np.float64]
    shrinkage: float


def fit_plane(images: NDArray[np.uint8], components: int) -> Plane:
    """Fit to images (n, 28, 28) uint8, scaled to [0, 1]."""
    pixels = images.reshape(len(images), -1).astype(np.float64) / 255.0
    mean = pixels.mean(axis=0)
    pixels -= mean
    values, vectors = np.linalg.eigh(pixels.T @ pixels / len(pixels))
    leading = vectors[:, ::-1][:, :components]
    return Plane(mean, np.ascontiguousarray(leading), float(values[::-1][:components].sum() / values.sum()))


def fit_latents(latents: NDArray[np.float64], labels: NDArray[np.uint8], classes: int) -> Latents:
    """Fit to latents (n, D) float64 of rows that the weights were not fitted to."""
    rows, width = latents.shape
    means = np.stack([latents[labels == label].mean(axis=0) for label in range(classes)])
    centred = latents - means[labels]
    covariance = centred.T @ centred / rows
    trace, trace_square = np.trace(covariance), np.trace(covariance @ covariance)
    numerator = (1 - 2 / width) * trace_square + trace**2
    shrinkage = float(min(1.0, numerator / ((rows + 1 - 2 / width) * (trace_square - trace**2 / width))))
    shrunk = (1 - shrinkage) * covariance + shrinkage * trace / width * np.eye(width)
    values, vectors = np.linalg.eigh(shrunk)
    whitening = vectors / np.sqrt(values)
    return Latents(whitening, means @ whitening, shrinkage)
