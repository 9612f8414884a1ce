"""A small balanced sample of the test images, for demonstrations and for tests without the data set."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import safetensors.numpy

from serving.train.data import CLASS_NAMES, FashionMnist

__all__ = ["write_samples"]

ROWS_PER_CLASS = 100
LICENCE = "MIT, (c) 2017 Zalando SE; test images of https://github.com/zalandoresearch/fashion-mnist"


def write_samples(data: FashionMnist, path: Path) -> None:
    """Write the first 100 test images of each class, in the order of the test set.

    Tensors: images uint8 (1000, 28, 28), labels uint8 (1000,), test_rows int32 (1000,): where each stands in the set.
    """
    labels = data.test.labels
    rows = np.sort(np.concatenate([np.flatnonzero(labels == c)[:ROWS_PER_CLASS] for c in range(len(CLASS_NAMES))]))
    tensors = {"images": data.test.images[rows], "labels": labels[rows], "test_rows": rows.astype(np.int32)}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(safetensors.numpy.save(tensors, {"licence": LICENCE}))
