"""The classification extension: the best classes of each row, written as strings.

An element reads "score:index" or "score:index:label", the score with six decimals, best first; equal scores stand in
the order of their indices (Triton's form of it).
"""

from collections.abc import Sequence

import numpy as np

from gateway.codec.datatypes import Array


def best_classes(scores: Array, count: int, class_names: Sequence[str]) -> Array:
    """(rows, ...) to an object array (rows, min(count, classes)) of `bytes`, labelled if every class has a name."""
    flat = scores.reshape(len(scores), -1)
    classes = flat.shape[1]
    count = min(count, classes)
    labels = [f":{name}" for name in class_names] if len(class_names) == classes else [""] * classes
    order = np.argsort(-flat.astype(np.float64), axis=1, kind="stable")[:, :count]
    best = np.empty(order.shape, object)
    for row, indices in enumerate(order.tolist()):
        best[row, :] = [f"{float(flat[row, index]):f}:{index}{labels[index]}".encode() for index in indices]
    return best
