from __future__ import annotations

import gzip
import hashlib
import struct
import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from serving.train.errors import DatasetMalformed, DatasetMissing
from serving.train.kiosk import data as data_module
from serving.train.kiosk.data import DEBIAN_DIRECTORY, Labelled, load_fashion_mnist, parse_idx, split


def idx(array, *, kind=8, dimensions=None, sizes=None, zero=0):
    sizes = array.shape if sizes is None else sizes
    header = struct.pack(">HBB", zero, kind, array.ndim if dimensions is None else dimensions)
    return header + struct.pack(f">{len(sizes)}I", *sizes) + array.tobytes()


PIXELS = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)


def malformed(raw, shape=(2, 3, 4)):
    with pytest.raises(DatasetMalformed) as caught:
        parse_idx(raw, shape, "f.gz")
    assert caught.value.file == "f.gz"
    return caught.value.problem


@given(arrays.arrays(np.uint8, arrays.array_shapes(min_dims=1, max_dims=3, max_side=4)))
def test_round_trip(array):
    np.testing.assert_array_equal(parse_idx(gzip.compress(idx(array)), array.shape, "f"), array)


def test_each_rule_of_the_header():
    assert "expected dimensions" in malformed(gzip.compress(idx(PIXELS, kind=9)))
    assert "expected dimensions" in malformed(gzip.compress(idx(PIXELS, zero=1)))
    assert "expected dimensions" in malformed(gzip.compress(idx(PIXELS, dimensions=2)))
    assert "shape" in malformed(gzip.compress(idx(PIXELS, sizes=(2, 4, 3))))


def test_each_rule_of_the_length():
    assert "exactly" in malformed(gzip.compress(idx(PIXELS)[:-1]))
    assert "exactly" in malformed(gzip.compress(idx(PIXELS) + b"\0"))
    assert "exactly" in malformed(gzip.compress(idx(PIXELS)) + b"\0")
    assert "exactly" in malformed(gzip.compress(idx(PIXELS))[:-3])
    assert "exactly" in malformed(b"")
    assert "gzip" in malformed(idx(PIXELS))


def test_a_damaged_stream_is_noticed():
    raw = bytearray(gzip.compress(idx(PIXELS)))
    raw[-5] ^= 1  # the checksum
    malformed(bytes(raw))


def test_a_bomb_is_not_inflated():
    bomb = gzip.compress(bytes(64 * 1024 * 1024), 1)
    tracemalloc.start()
    malformed(bomb)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 4 * 1024 * 1024


@given(st.binary(max_size=200))
def test_any_bytes_are_malformed(raw):
    malformed(raw)
    malformed(gzip.compress(raw, 1))


@given(st.data())
def test_a_changed_file_is_an_array_of_the_shape_or_malformed(data):
    raw = bytearray(gzip.compress(idx(PIXELS), mtime=0))
    raw[data.draw(st.integers(0, len(raw) - 1))] ^= data.draw(st.integers(1, 255))
    try:
        array = parse_idx(bytes(raw), PIXELS.shape, "f")
    except DatasetMalformed:
        return
    # gzip's own header has bytes that mean nothing: a flip there may pass, but never with other pixels.
    np.testing.assert_array_equal(array, PIXELS)


def test_an_explicit_place_is_the_only_one_looked_at(tmp_path):
    with pytest.raises(DatasetMissing, match="dataset-fashion-mnist") as caught:
        load_fashion_mnist(tmp_path)
    assert caught.value.looked_in == (tmp_path,)


def small_set(directory, monkeypatch, labels=(0, 9)):
    monkeypatch.setattr(
        data_module,
        "_FILES",
        {
            "train-images-idx3-ubyte.gz": (2, 28, 28),
            "train-labels-idx1-ubyte.gz": (2,),
            "t10k-images-idx3-ubyte.gz": (2, 28, 28),
            "t10k-labels-idx1-ubyte.gz": (2,),
        },
    )
    for part in ("train", "t10k"):
        (directory / f"{part}-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx(np.zeros((2, 28, 28), np.uint8))))
        (directory / f"{part}-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx(np.array(labels, np.uint8))))


def test_labels_are_classes_and_digests_are_of_the_files(tmp_path, monkeypatch):
    small_set(tmp_path, monkeypatch)
    loaded = load_fashion_mnist(tmp_path)
    assert len(loaded.pool) == len(loaded.test) == 2
    assert loaded.digests == {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in tmp_path.iterdir()}
    small_set(tmp_path, monkeypatch, labels=(0, 10))
    with pytest.raises(DatasetMalformed, match="above 9"):
        load_fashion_mnist(tmp_path)


def test_file_size_at_the_limit_and_one_past_it(tmp_path, monkeypatch):
    small_set(tmp_path, monkeypatch)
    largest = max(path.stat().st_size for path in tmp_path.iterdir())
    monkeypatch.setattr(data_module, "COMPRESSED_BYTES_MAX", largest)
    assert len(load_fashion_mnist(tmp_path).pool) == 2
    monkeypatch.setattr(data_module, "COMPRESSED_BYTES_MAX", largest - 1)
    with pytest.raises(DatasetMalformed, match="larger"):
        load_fashion_mnist(tmp_path)


def pool():
    numbers = np.arange(60_000)
    images = np.zeros((60_000, 28, 28), np.uint8)
    images[:, 0, 0], images[:, 0, 1] = numbers % 256, numbers // 256
    return Labelled(images, (numbers % 10).astype(np.uint8))


def numbers_of(part):
    return part.images[:, 0, 0].astype(int) + 256 * part.images[:, 0, 1].astype(int)


def test_splits_are_disjoint_complete_and_decided_by_the_seed():
    whole = pool()
    parts = split(whole, 0)
    assert (len(parts.train), len(parts.fit), len(parts.calibrate)) == (47_000, 3_000, 10_000)
    everything = np.concatenate([numbers_of(part) for part in (parts.train, parts.fit, parts.calibrate)])
    np.testing.assert_array_equal(np.sort(everything), np.arange(60_000))
    np.testing.assert_array_equal(numbers_of(split(whole, 0).fit), numbers_of(parts.fit))
    assert not np.array_equal(numbers_of(split(whole, 1).fit), numbers_of(parts.fit))
    np.testing.assert_array_equal(numbers_of(parts.fit) % 10, parts.fit.labels)


@pytest.mark.skipif(not DEBIAN_DIRECTORY.exists(), reason="the package dataset-fashion-mnist is not installed")
def test_the_real_data_set_loads_whole():
    loaded = load_fashion_mnist()
    assert loaded.pool.images.shape == (60_000, 28, 28)
    assert np.bincount(loaded.test.labels).tolist() == [1000] * 10
