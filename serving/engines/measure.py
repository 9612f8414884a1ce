"""Measure a graph through the engine that serves it, not through torch: what is published is what is served."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from serving.engines.engine import Engine

BATCH_ROWS = 250


def as_input(rows: NDArray[Any]) -> NDArray[Any]:
    """Scale uint8 images to the declared range, as clients are told to: float32(x) / 255; leave others."""
    return rows.astype(np.float32) / np.float32(255.0) if rows.dtype == np.uint8 else rows


def evaluate(engine: Engine, images: NDArray[Any], *, name: str = "image") -> dict[str, NDArray[Any]]:
    """Return every output for every row of the input `name`, in batches of 250."""
    parts = [
        engine.infer({name: as_input(images[start : start + BATCH_ROWS])})
        for start in range(0, len(images), BATCH_ROWS)
    ]
    return {output: np.concatenate([part[output] for part in parts]) for output in parts[0]}


def rows_apart(
    engine: Engine, images: NDArray[Any], batched: Mapping[str, NDArray[Any]], *, name: str = "image"
) -> dict[str, float]:
    """Return, by output, the largest difference between a row in a batch and the same row alone."""
    largest = dict.fromkeys(batched, 0.0)
    for row, image in enumerate(as_input(images)):
        for output, alone in engine.infer({name: image[None]}).items():
            largest[output] = max(largest[output], float(np.abs(alone[0] - batched[output][row]).max()))
    return largest


def accuracy(probabilities: NDArray[Any], labels: NDArray[Any]) -> float:
    return float((probabilities.argmax(axis=1) == labels).mean())


def confusion(probabilities: NDArray[Any], labels: NDArray[Any]) -> NDArray[np.int64]:
    """Return counts (true class, predicted class)."""
    classes = probabilities.shape[1]
    counts = np.zeros((classes, classes), np.int64)
    np.add.at(counts, (labels, probabilities.argmax(axis=1)), 1)
    return counts


def calibration_error(probabilities: NDArray[Any], labels: NDArray[Any], bins: int = 15) -> float:
    """Expected calibration error over equal-width bins of the largest probability (Guo et al. 2017)."""
    confidence = probabilities.max(axis=1)
    right = probabilities.argmax(axis=1) == labels
    index = np.minimum((confidence * bins).astype(int), bins - 1)
    gaps = [abs(float(right[index == b].sum() - confidence[index == b].sum())) for b in range(bins)]
    return sum(gaps) / len(labels)


def ranking_area(inside: NDArray[Any], outside: NDArray[Any]) -> float:
    """Return the AUROC: the chance that a row from outside scores higher than one from inside (ties count half)."""
    order = np.sort(inside)
    below = np.searchsorted(order, outside, side="left")
    not_above = np.searchsorted(order, outside, side="right")
    return float((below + not_above).mean() / (2 * len(inside)))


def costs_us(
    engine: Engine, images: NDArray[Any], batch_rows: int, runs: int, *, name: str = "image"
) -> dict[str, float]:
    """CPU-microseconds of the calling thread for one row in batches of this size: the median and the least."""
    batch = {name: as_input(images[:batch_rows])}
    engine.infer(batch)
    costs = []
    for _ in range(runs):
        start_ns = time.thread_time_ns()
        engine.infer(batch)
        costs.append((time.thread_time_ns() - start_ns) / 1e3 / batch_rows)
    return {"median": round(float(np.median(costs)), 1), "least": round(min(costs), 1)}
