"""Which data a model is measured on where nobody names any: the test rows of what its manifest names."""

from __future__ import annotations

import sys
from dataclasses import replace

import numpy as np
import pytest
import safetensors.numpy

from gateway.tools.registry import data as registry_data
from gateway.tools.registry.data import held_out, sample_of
from gateway.tools.samples import sample_images
from serving.train.clickstream.ecom import parse_ecom, split_ecom
from serving.train.errors import DatasetMissing
from serving.train.kiosk.data import FashionMnist, Labelled
from serving.train.payments.data import Applications, load_applications, split
from serving.train.payments.schema import CREDIT_DATA
from tests.serving.tiny import tiny_bundle
from tests.serving.train.clicks import compressed


def named(name: str):
    """A bundle that learned from data of this name."""
    bundle = tiny_bundle()
    return replace(bundle, manifest={**bundle.manifest, "data": {"name": name}})


def labelled(rows: int, seed: int) -> Labelled:
    rng = np.random.default_rng(seed)
    return Labelled(rng.integers(0, 255, (rows, 28, 28), np.uint8), rng.integers(0, 10, rows, np.uint8))


def test_images_are_those_of_the_test(monkeypatch):
    found = FashionMnist(labelled(20, 0), labelled(10, 1), {})
    monkeypatch.setattr(registry_data, "load_fashion_mnist", lambda: found)
    name, data = held_out(named("Fashion-MNIST"))
    tensors = safetensors.numpy.load(data)
    assert name == "test set of Fashion-MNIST"
    assert (tensors["images"] == found.test.images).all()
    assert (tensors["labels"] == found.test.labels).all()
    assert held_out(named("Fashion-MNIST"))[1] == data  # the same bytes, and so the same digest
    assert sample_of(named("Fashion-MNIST")) == sample_images()


@pytest.mark.parametrize("seed", [0, 1])
def test_clicks_are_those_of_the_last_sessions_whatever_the_seed(monkeypatch, seed):
    found = parse_ecom(compressed(), "ecom.csv.gz")
    monkeypatch.setattr(registry_data, "load_ecom", lambda: found)
    tensors = safetensors.numpy.load(held_out(named("retentioneering ecom"))[1])
    test = split_ecom(found, seed).test
    assert len(test) > 0
    assert (tensors["ids"] == test.ids).all()
    assert sample_of(named("retentioneering ecom")).is_file()
    assert (tensors["labels"] == test.labels).all()


@pytest.mark.parametrize("seed", [0, 1])
def test_applications_are_those_that_the_bundles_seed_held_out(monkeypatch, seed):
    rng = np.random.default_rng(0)
    found = Applications(rng.random((60, 11), np.float32), np.arange(60, dtype=np.uint8) % 2)
    monkeypatch.setattr(registry_data, "load_applications", lambda schema: {"credit_data": found}[schema.table])
    bundle = named("credit_data")
    bundle = replace(bundle, manifest={**bundle.manifest, "training": {"seed": seed}})
    name, data = held_out(bundle)
    tensors, rows = safetensors.numpy.load(data), split(found.labels, seed).test
    assert name == "test set of credit_data"
    assert (tensors["features"] == found.features[rows]).all()
    assert (tensors["labels"] == found.labels[rows]).all()
    assert sample_of(bundle).is_file()


def test_what_reads_rs_tables_need_not_be_where_models_are_served(monkeypatch, tmp_path):
    (tmp_path / "credit_data.rda").write_bytes(b"RDX3\nX\n")
    monkeypatch.setitem(sys.modules, "rdata", None)
    with pytest.raises(DatasetMissing, match="install the PyPI package `rdata`"):
        load_applications(CREDIT_DATA, tmp_path)


def test_other_data_is_for_the_person_to_name():
    assert held_out(tiny_bundle()) is None
    assert sample_of(tiny_bundle()) is None
    assert held_out(named("somebody's own")) is None
