"""What every object store has to do, whatever is behind it: a directory, an S3 with Object Lock, and the tests' own."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from itertools import count
from pathlib import Path

import pytest

from ops.audit.copies.object_store import Inspected, open_store
from tests.ops.audit.stores import Spoiled, directory_store
from tests.seaweed import common_server, needs_seaweed

NUMBERS = count()


def in_s3(_: Path) -> Inspected:
    server = common_server()
    server.make_bucket("contract", 1)
    return open_store(server.place(f"s3://contract/{next(NUMBERS)}"))


STORES = {
    "directory": directory_store,
    "spoiled": lambda path: Spoiled(directory_store(path)),
    "s3": pytest.param(in_s3, marks=needs_seaweed),
}


@pytest.fixture(params=STORES.values(), ids=STORES)
def store(request, tmp_path: Path) -> Inspected:
    return request.param(tmp_path / "store")


def test_what_was_put_is_there(store):
    assert store.get("tile/0/000") is None
    store.put_new("tile/0/000", b"\x00\xff bytes")
    assert store.get("tile/0/000") == b"\x00\xff bytes"
    assert store.get("tile/0") is None
    assert store.get("tile/0/001") is None


def test_put_new_leaves_what_stands_there(store):
    store.put_new("checkpoints/1", b"first")
    store.put_new("checkpoints/1", b"second")
    assert store.get("checkpoints/1") == b"first"


def test_replace_replaces(store):
    for data in (b"first", b"second", b""):
        store.replace("checkpoint", data)
        assert store.get("checkpoint") == data


def test_of_many_who_put_at_once_one_wins_and_stays(store):
    def put(number: int) -> bytes | None:
        store.put_new("tile/0/000", bytes([number]) * 1000)
        return store.get("tile/0/000")

    with ThreadPoolExecutor(8) as pool:
        seen = set(pool.map(put, range(8)))
    assert len(seen) == 1
    assert seen == {store.get("tile/0/000")}


def test_keys_are_those_below_the_prefix(store):
    assert list(store.keys("tile/")) == []
    keys = {"tile/0/000", "tile/0/000.p/7", "tile/entries/x001/000", "tiles/0", "blobs/000", "checkpoint"}
    for key in keys:
        store.put_new(key, b"x")
    assert set(store.keys("tile/")) == {"tile/0/000", "tile/0/000.p/7", "tile/entries/x001/000"}


def test_more_than_a_part_is_one_object(store):
    """Above the size at which a client would upload in parts, which no condition holds together."""
    large = bytes(range(256)) * (6 << 12)
    store.put_new("blobs/000", large)
    store.put_new("blobs/000", b"second")
    assert store.get("blobs/000") == large
