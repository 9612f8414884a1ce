"""Small samples of the test rows, for demonstrations and for tests without the data sets."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy
from numpy.typing import NDArray

from serving.train.clickstream.ecom import Ecom, split_ecom
from serving.train.kiosk.data import CLASS_NAMES, FashionMnist

ROWS_PER_CLASS = 100
CLICK_ROWS = 1000
CLICK_LICENCE = (
    "Apache-2.0, (c) 2026 Maxim Godzi, Vladimir Kukushkin, Anatoly Zaytsev; windows made from ecom.csv.gz of "
    "https://pypi.org/project/retentioneering/5.2.4/"
)
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


def write_click_samples(data: Ecom, path: Path) -> None:
    """Write 1,000 test rows, evenly over the time of the test; which ones they are does not depend on a seed.

    Tensors: ids uint8 (1000, 32), labels uint8 (1000,), test_rows int32 (1000,): where each stands in the test part.
    """
    test = split_ecom(data, 0).test
    rows = np.linspace(0, len(test) - 1, min(CLICK_ROWS, len(test))).astype(np.intp)
    chosen = test.take(rows)
    tensors: dict[str, NDArray[Any]] = {
        "ids": chosen.ids.astype(np.uint8),
        "labels": chosen.labels.astype(np.uint8),
        "test_rows": rows.astype(np.int32),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(safetensors.numpy.save(tensors, {"licence": CLICK_LICENCE}))
