"""The labelled data that `stockade models evaluate` takes where nobody names any: the model's own test set.

A manifest says which data a model learned from. Where that is one that we know and that is installed, its test rows are
what the manifest's metrics were measured on, so they can be measured again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from gateway.tools.samples import bundles_directory
from serving.train.clickstream.ecom import load_ecom, split_ecom
from serving.train.kiosk.data import load_fashion_mnist
from serving.train.pack import tensor_bytes
from serving.train.payments.data import load_applications, split
from serving.train.payments.schema import SCHEMAS

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from serving.bundles.bundle import Bundle


def fashion_mnist(_: Bundle) -> bytes:
    """Return its 10,000 test images as a dataset. Raises DatasetMissing, DatasetMalformed."""
    found = load_fashion_mnist().test
    return tensor_bytes({"images": found.images, "labels": found.labels})


def ecom(_: Bundle) -> bytes:
    """Return the clicks of its last sessions as a dataset. Raises DatasetMissing, DatasetMalformed."""
    found = split_ecom(load_ecom(), 0).test  # the last by time, whatever the seed
    return tensor_bytes({"ids": found.ids, "labels": found.labels})


def applications(bundle: Bundle) -> bytes:
    """Return the rows that the bundle's own seed held out. Raises DatasetMissing, DatasetMalformed."""
    data = load_applications(SCHEMAS[data_name(bundle)])
    found = data.take(split(data.labels, int(bundle.manifest["training"]["seed"])).test)
    return tensor_bytes({"features": found.features, "labels": found.labels})


TEST_SETS: Mapping[str, Callable[[Bundle], bytes]] = {
    "Fashion-MNIST": fashion_mnist,
    "retentioneering ecom": ecom,
    **dict.fromkeys(SCHEMAS, applications),
}
"""By the `name` in the manifest's `data`."""
SAMPLES: Mapping[str, str] = {
    "Fashion-MNIST": "fashion-mnist-1000.safetensors",
    "retentioneering ecom": "ecom-1000.safetensors",
    "credit_data": "credit-data-891.safetensors",
}
"""Files with 1,000 of those rows, or all where there are fewer, which come with the project."""


def held_out(bundle: Bundle) -> tuple[str, bytes] | None:
    """Return the name and the bytes of the test set that a bundle names; None where it is not one that we know.

    Raises:
        DatasetMissing, DatasetMalformed: it is known and cannot be read here.
    """
    name = data_name(bundle)
    return (f"test set of {name}", TEST_SETS[name](bundle)) if name in TEST_SETS else None


def sample_of(bundle: Bundle) -> Path | None:
    """Return the file with a sample of a bundle's test set, where one comes with the project."""
    name = SAMPLES.get(data_name(bundle))
    return bundles_directory() / "samples" / name if name is not None else None


def data_name(bundle: Bundle) -> str:
    """Return what a manifest calls the data that its model learned from."""
    return str(bundle.manifest["data"].get("name", ""))
