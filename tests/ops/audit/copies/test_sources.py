"""What a log is restored from: what cannot be read is missing there, and a store that is gone is not an empty one."""

from pathlib import Path

import pytest

from ops.audit.copies.sources import UNANSWERED_MAX, DirectorySource, Source, StoreSource, numbers, versions
from ops.audit.errors import StoreRefused, StoreUnavailable
from ops.audit.log.tiles import ENTRIES, Tile
from tests.ops.audit.stores import Spoiled, directory_store

PLACES = {
    "tile/0/000": b"full",
    "tile/0/000.p/9": b"nine",
    "tile/0/000.p/12": b"twelve",
    "tile/0/000.p/x": b"none",
    "tile/0/000.p/\u0663": b"three, in Arabic",
}


@pytest.fixture(params=["directory", "store"])
def source(request, tmp_path: Path) -> Source:
    for path, data in PLACES.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_bytes(data)
    return DirectorySource(tmp_path) if request.param == "directory" else StoreSource(directory_store(tmp_path), "it")


def test_files_are_read_and_named(source):
    assert source.read("tile/0/000") == b"full"
    assert source.read("tile/0/001") is None
    assert numbers(source, "tile/0/000.p") == [9, 12]
    assert numbers(source, "tile/0/001.p") == []


def test_a_tile_is_looked_for_at_its_width_and_wider(source):
    assert [*versions(source, Tile(0, 0))] == [b"full"]
    assert [*versions(source, Tile(0, 0, 10))] == [b"full", b"twelve"]
    assert [*versions(source, Tile(0, 0, 9))] == [b"full", b"nine", b"twelve"]
    assert [*versions(source, Tile(ENTRIES, 0, 9))] == []


def spoiled(path: Path, failing: set[str], error: Exception) -> StoreSource:
    def before(_call: str, key: str) -> None:
        if key in failing or "all" in failing:
            raise error

    (path / "file").write_bytes(b"here")
    return StoreSource(Spoiled(directory_store(path), before), "it")


def test_one_object_that_cannot_be_read_is_missing(tmp_path):
    source = spoiled(tmp_path, {"bad"}, StoreUnavailable("a broken disk behind it"))
    for _ in range(2 * UNANSWERED_MAX):
        assert source.read("file") == b"here"
        assert source.read("bad") is None


def test_a_store_that_never_answers_is_not_empty(tmp_path):
    source = spoiled(tmp_path, {"all"}, StoreUnavailable("away"))
    with pytest.raises(StoreUnavailable):
        source.read("file")


def test_a_store_that_goes_away_is_not_taken_for_a_hole(tmp_path):
    failing: set[str] = set()
    source = spoiled(tmp_path, failing, StoreUnavailable("away"))
    assert source.read("file") == b"here"
    failing.add("all")
    assert [source.read("file") for _ in range(UNANSWERED_MAX)] == [None] * UNANSWERED_MAX
    with pytest.raises(StoreUnavailable):
        source.read("file")


def test_a_store_that_refuses_is_asked_no_more(tmp_path):
    source = spoiled(tmp_path, {"bad"}, StoreRefused("no"))
    assert source.read("file") == b"here"
    with pytest.raises(StoreRefused):
        source.read("bad")
