"""The labelled data that `stockade models evaluate` takes where nobody names any: the model's own test set.

A manifest says which data a model learned from. Where that is one that we know and that is installed, its test rows are
what the manifest's metrics were measured on, so they can be measured again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from serving.train.data import load_fashion_mnist
from serving.train.pack import tensor_bytes

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from serving.bundle import Bundle

__all__ = ["test_set"]


def fashion_mnist() -> bytes:
    """Return its 10,000 test images as a dataset. Raises DatasetMissing, DatasetMalformed."""
    found = load_fashion_mnist().test
    return tensor_bytes({"images": found.images, "labels": found.labels})


TEST_SETS: Mapping[str, Callable[[], bytes]] = {"Fashion-MNIST": fashion_mnist}
"""By the `name` in the manifest's `data`."""


def test_set(bundle: Bundle) -> tuple[str, bytes] | None:
    """Return the name and the bytes of the test set that a bundle names; None where it is not one that we know.

    Raises:
        DatasetMissing, DatasetMalformed: it is known and cannot be read here.
    """
    name = str(bundle.manifest["data"].get("name", ""))
    return (f"test set of {name}", TEST_SETS[name]()) if name in TEST_SETS else None
