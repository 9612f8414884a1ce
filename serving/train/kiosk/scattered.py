"""Teach the kiosk from few labels without a network: kernel ridge regression, and what the neighbours are taken for.

Images become components: the principal ones of the log scattering of images without labels, half whitened (divided by
the root of their standard deviation, so that what varies less still counts). A labelled image stands beside its mirror
image; their answers, one-hot, are fitted by least squares in the space of a Gaussian kernel. An image's score is half
its own and half the mean over its nearest images without labels: they lie densely where few have labels.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.decomposition import PCA
from sklearn.kernel_ridge import KernelRidge
from sklearn.neighbors import NearestNeighbors

from serving.train.kiosk.data import CLASS_NAMES, Labelled
from serving.train.kiosk.scattering import log_scattering

Floats = NDArray[np.float32]
SCALE_FLOOR_SHARE = 0.01  # of the spread of all features; at the border some hardly vary


@dataclass(frozen=True, slots=True)
class ScatteredSettings:
    """What decides the answers, beside data. `gamma` is for components whose squared length is 1 on average."""

    components: int = 256
    whitening: float = 0.5
    gamma: float = 0.5
    ridge: float = 0.3
    neighbours: int = 8
    neighbours_share: float = 0.5


@dataclass(frozen=True, slots=True)
class Components:
    """An affine map of log scattering, and where it sends the images it was learned from, (n, components)."""

    mean: Floats
    scale: Floats
    axes: Floats
    learned_from: Floats

    def __call__(self, images: NDArray[np.uint8]) -> Floats:
        """Return the components float32 (n, components) of images uint8 (n, 28, 28)."""
        return _centred(_features(images), self.mean, self.scale) @ self.axes


def learn_components(unlabelled: NDArray[np.uint8], settings: ScatteredSettings) -> Components:
    """Learn the components from images uint8 (n, 28, 28)."""
    features = _features(unlabelled)
    mean, scale = features.mean(axis=0), features.std(axis=0) + np.float32(SCALE_FLOOR_SHARE) * features.std()
    seen = _centred(features, mean, scale)
    fitted = PCA(settings.components, svd_solver="randomized", random_state=0).fit(seen)
    stretched = fitted.explained_variance_ ** (-settings.whitening / 2)
    length = np.sqrt((fitted.explained_variance_ * stretched**2).sum())
    axes = (fitted.components_.T * stretched / length).astype(np.float32)
    return Components(mean, scale, axes, seen @ axes)


def taught(components: Components, labelled: Labelled, settings: ScatteredSettings) -> Callable[[Floats], Floats]:
    """Return what gives the scores float32 (n, classes) of components (n, components), taught by labelled images."""
    both = np.concatenate([labelled.images, labelled.images[:, :, ::-1]])
    answers = np.eye(len(CLASS_NAMES), dtype=np.float32)[np.tile(labelled.labels, 2)]
    ridge: Any = KernelRidge(alpha=settings.ridge, kernel="rbf", gamma=settings.gamma)
    ridge.fit(components(both), answers - answers.mean(axis=0))
    others: Floats = ridge.predict(components.learned_from)
    near: Any = NearestNeighbors(n_neighbors=settings.neighbours, metric="cosine").fit(components.learned_from)

    def scores(places: Floats) -> Floats:
        around = others[near.kneighbors(places, return_distance=False)].mean(axis=1)
        own = ridge.predict(places)
        mixed: Floats = own + np.float32(settings.neighbours_share) * (around - own)
        return mixed

    return scores


def _features(images: NDArray[np.uint8]) -> Floats:
    return log_scattering(torch.from_numpy(images.copy())).numpy()


def _centred(features: Floats, mean: Floats, scale: Floats) -> Floats:
    return (features - mean) / scale
