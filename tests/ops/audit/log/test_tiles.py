"""Paths, widths and containers."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ops.audit.errors import TileError
from ops.audit.log import merkle, tiles
from ops.audit.log.tiles import BLOBS, ENTRIES, INDEX_MAX, Tile
from tests.ops.audit.vectors import vector

levels = st.sampled_from([BLOBS, ENTRIES, *range(8)])


def test_the_example_of_the_specification():
    known = vector("tiles-70000")
    for level, wanted in known["levels"].items():
        found = list(tiles.tiles_between(int(level), 0, known["size"]))
        assert sum(not each.partial for each in found) == wanted["full"]
        assert [each.width for each in found if each.partial] == [wanted["partial"]]
        assert found[-1].path == wanted["last"]
    assert list(tiles.hash_levels(known["size"])) == [0, 1, 2]
    for index, path in known["paths"].items():
        assert Tile(0, int(index)).path == path


@given(levels, st.integers(0, INDEX_MAX - 1), st.integers(1, 256))
def test_paths_round_trip(level, index, width):
    tile = Tile(level, index, width)
    assert tiles.parse_path(tile.path) == tile


@given(st.one_of(st.text(max_size=40), st.from_regex(r"tile/\d/(x\d{3}/){0,3}\d{3}(\.p/\d{1,3})?", fullmatch=True)))
def test_any_text_is_a_canonical_path_or_refused(text):
    try:
        tile = tiles.parse_path(text)
    except TileError:
        return
    assert tile.path == text


@pytest.mark.parametrize(
    "path", ["tile/8/000", "tile/0/x000/001", "tile/0/00", "tile/0/000.p/256", "tile/0/000.p/0", "tile/0/000\n"]
)
def test_paths_that_are_almost_right_are_refused(path):
    with pytest.raises(TileError):
        tiles.parse_path(path)


@given(st.integers(0, 200_000), st.integers(0, 3000))
def test_growing_in_steps_writes_every_full_tile_once_and_ends_with_what_the_size_has(old, more):
    new = old + more
    for level in (ENTRIES, 0, 1, 2):
        fresh = list(tiles.tiles_between(level, old, new))
        full_before = tiles.level_size(level, old) // 256
        full_after = tiles.level_size(level, new) // 256
        assert [each.index for each in fresh if not each.partial] == list(range(full_before, full_after))
        whole = list(tiles.tiles_between(level, 0, new))
        assert set(fresh) <= set(whole)
        if more:
            assert whole == [] or fresh == [] or fresh[-1] == whole[-1]


@pytest.mark.parametrize(("size", "count"), [(0, 0), (1, 1), (255, 1), (256, 2), (65_535, 2), (65_536, 3)])
def test_levels_at_their_limits(size, count):
    assert len(tiles.hash_levels(size)) == count
    assert all(tiles.level_size(level, size) > 0 for level in tiles.hash_levels(size))
    assert tiles.level_size(count, size) == 0


@given(st.lists(st.binary(max_size=300), max_size=20))
def test_bundles_and_packs_round_trip(items):
    bundle = b"".join(map(tiles.frame_entry, items))
    assert tiles.split_bundle(bundle) == tiles.split_entries(bundle) == items
    assert tiles.split_bundle(memoryview(bundle)) == items
    assert tiles.split_pack(tiles.join_pack(items)) == items


def test_a_bundle_is_not_split_into_any_number_of_entries():
    assert len(tiles.split_bundle(bytes(2 * 512))) == 512
    assert len(tiles.split_entries(bytes(2 * 513))) == 513
    with pytest.raises(TileError, match="more than 512"):
        tiles.split_bundle(bytes(2 * 513))


@given(st.binary(max_size=200))
def test_any_bytes_are_a_container_or_refused(data):
    for split, join in (
        (tiles.split_bundle, lambda items: b"".join(map(tiles.frame_entry, items))),
        (tiles.split_pack, tiles.join_pack),
        (tiles.split_hashes, b"".join),
    ):
        try:
            items = split(data)
        except TileError:
            continue
        assert join(items) == data


@pytest.mark.parametrize("length", [0, 31, 33, 257 * 32])
def test_a_tile_is_1_to_256_hashes(length):
    with pytest.raises(TileError):
        tiles.split_hashes(bytes(length))


def test_nodes_at_any_height_come_from_tiles():
    leaves = [merkle.leaf_hash(b"%d" % n) for n in range(1024)]
    rows = [leaves, [merkle.fold(leaves[n : n + 256]) for n in range(0, 1024, 256)]]
    node = tiles.node_from(lambda level, first, count: rows[level][first : first + count])
    for height in range(11):
        for index in range(1024 >> height):
            assert node(height, index) == merkle.fold(leaves[index << height : (index + 1) << height])
