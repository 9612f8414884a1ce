"""Where is this point? A layer of local units, and the mixture of experts that it is cut into.

    direction x (3,) -> units relu(1 - |x - k|^2 / r_k^2) -> weights -> a score for each of 1,024 regions

On the sphere |x - k|^2 = 2 - 2 xk, so a unit is an ordinary ReLU of a linear map, and the whole a network with one
hidden layer. Units stand on training places, as wide as places are apart there, and only their weights are learned
(Moody and Darken 1989, section 3): softmax regression by stochastic gradients, which touch the few units awake.

The dense one needs its size because a border is as fine as the units along it: a unit knows its surroundings and
nothing else. For the same reason it can be cut: into cells of about as many units, of which a row asks the nearest two.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.neighbors import KDTree
from torch.nn import functional

from serving.train.regions.places import Places

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class RegionSettings:
    """What decides the weights beside the data. `awake`: how many of the nearest units are looked at while learning."""

    units: int = 16_384
    experts: int = 16
    active: int = 2
    epochs: int = 3
    batch_rows: int = 1024
    rate: float = 1.0
    awake: int = 20
    neighbour: int = 4
    reach: float = 1.5
    start: float = 4.0
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Cells:
    """A row's cells are those with the greatest score x @ centres.T + offsets; `owner` (units,) is each unit's."""

    centres: Floats
    offsets: Floats
    owner: NDArray[np.int64]

    def scores(self, directions: NDArray[np.float32]) -> Floats:
        return directions @ self.centres.T + self.offsets


@dataclass(frozen=True, slots=True)
class RegionNet:
    """Units at `keys` (units, 3), with `radii` (units,) and `weights` (units, regions); `cells` of a mixture."""

    keys: Floats
    radii: Floats
    weights: NDArray[np.float32]
    cells: Cells | None
    active: int


def place_units(train: Places, settings: RegionSettings) -> tuple[Floats, Floats, NDArray[np.intp]]:
    """Return keys, radii, and on which training rows they stand."""
    rows = np.random.default_rng([settings.seed, 0x0E7]).permutation(len(train))[: settings.units]
    keys = train.directions[rows].astype(np.float64)
    keys /= np.linalg.norm(keys, axis=1, keepdims=True)
    near = min(settings.neighbour, len(rows) - 1)
    distances = KDTree(keys).query(keys, near + 1)[0][:, -1]
    return keys, settings.reach * np.maximum(distances, 1e-4), rows


def cut_cells(keys: Floats, experts: int, seed: int, rounds: int = 200) -> Cells:
    """Cut units into cells of about equal numbers: k-means on the sphere, with offsets that hold the large ones back.

    The offsets are moved as the biases that balance a router's load are (Wang et al., arXiv 2408.15664, section 3.1).
    """
    rng = np.random.default_rng([seed, 0xCE1])
    centres, offsets = keys[rng.permutation(len(keys))[:experts]].copy(), np.zeros(experts)
    even = len(keys) / experts
    owner = np.zeros(len(keys), np.int64)
    for step in range(rounds):
        owner = np.argmax(keys @ centres.T + offsets, axis=1)
        counts = np.bincount(owner, minlength=experts)
        offsets += 0.05 * (1 - step / rounds) * np.clip(1 - counts / even, -1, 1)
        if step < rounds // 2:
            sums = np.zeros_like(centres)
            np.add.at(sums, owner, keys)
            lengths = np.linalg.norm(sums, axis=1, keepdims=True)
            centres = np.where(lengths > 0, sums / np.maximum(lengths, 1e-12), centres)
    return Cells(centres, offsets, owner)


def train_regions(
    train: Places,
    settings: RegionSettings,
    *,
    mixture: bool,
    on_step: Callable[[int, int], None] | None = None,
) -> RegionNet:
    """Learn the weights; with `mixture` a row wakes no unit outside its active cells, as when it is served."""
    keys, radii, rows = place_units(train, settings)
    cells = cut_cells(keys, settings.experts, settings.seed) if mixture else None
    units, awake = _awake(train.directions, keys, radii, min(settings.awake, len(keys)))
    if cells is not None:
        nearest = np.argsort(-cells.scores(train.directions), axis=1)[:, : settings.active]
        awake = awake * (cells.owner[units][:, :, None] == nearest[:, None, :]).any(2)
    weights = torch.zeros(len(keys), len(train.names))
    weights[torch.arange(len(keys)), torch.from_numpy(train.regions[rows])] = settings.start
    _descend(weights, (units, awake), train.regions, settings, on_step)
    return RegionNet(keys, radii, weights.numpy(), cells, settings.active)


def _awake(
    directions: NDArray[np.float32], keys: Floats, radii: Floats, count: int
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Return the nearest units of each row (n, count) and how awake they are."""
    distances, units = KDTree(keys).query(directions, count)
    distances, units = distances.reshape(len(directions), -1), units.reshape(len(directions), -1).astype(np.int64)
    return units, np.maximum(0.0, 1.0 - (distances / radii[units]) ** 2).astype(np.float32)


def _descend(
    weights: torch.Tensor,
    rows: tuple[NDArray[np.int64], NDArray[np.float32]],
    labels: NDArray[np.int64],
    settings: RegionSettings,
    on_step: Callable[[int, int], None] | None,
) -> None:
    """Softmax regression in place, the rate falling linearly to nothing; gradients by hand, because they are sparse."""
    units, awake, targets = torch.from_numpy(rows[0]), torch.from_numpy(rows[1]), torch.from_numpy(labels)
    generator = torch.Generator().manual_seed(settings.seed)
    batches = -(-len(labels) // settings.batch_rows)
    steps = settings.epochs * batches
    for epoch in range(settings.epochs):
        order = torch.randperm(len(labels), generator=generator)
        for batch, chosen in enumerate(torch.split(order, settings.batch_rows)):
            woken = awake[chosen] > 0
            near, values, counts = units[chosen][woken], awake[chosen][woken], woken.sum(1)
            starts = counts.cumsum(0) - counts
            scores = functional.embedding_bag(near, weights, starts, per_sample_weights=values, mode="sum")
            error = scores.softmax(1)
            error[torch.arange(len(chosen)), targets[chosen]] -= 1
            done = epoch * batches + batch
            push = error.repeat_interleave(counts, 0) * values[:, None]
            weights.index_add_(0, near, push, alpha=-settings.rate * (1 - done / steps))
            if on_step is not None:
                on_step(done + 1, steps)
