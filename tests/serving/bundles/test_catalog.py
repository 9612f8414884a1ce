from __future__ import annotations

import pytest

from serving.bundles import catalog as catalog_module
from serving.bundles.catalog import find_bundles
from serving.errors import BundleRejected, Rejection


def test_bundles_are_found_two_levels_down_and_links_are_not_followed(tmp_path):
    for path in ("b/2", "a/1", "b/1"):
        (tmp_path / path).mkdir(parents=True)
    (tmp_path / "samples").mkdir()
    (tmp_path / "samples" / "images.safetensors").write_bytes(b"")
    (tmp_path / "release.pub").write_bytes(b"")
    (tmp_path / "c").symlink_to(tmp_path / "a")
    (tmp_path / "b" / "3").symlink_to(tmp_path / "b" / "1")
    assert find_bundles(tmp_path) == tuple(tmp_path / path for path in ("a/1", "b/1", "b/2"))


def test_number_of_bundles_at_the_limit_and_one_past_it(tmp_path, monkeypatch):
    monkeypatch.setattr(catalog_module, "BUNDLES_MAX", 2)
    (tmp_path / "a" / "1").mkdir(parents=True)
    (tmp_path / "a" / "2").mkdir()
    assert len(find_bundles(tmp_path)) == 2
    (tmp_path / "a" / "3").mkdir()
    with pytest.raises(BundleRejected) as caught:
        find_bundles(tmp_path)
    assert caught.value.reason is Rejection.COUNT


def test_a_root_that_is_not_there(tmp_path):
    with pytest.raises(BundleRejected) as caught:
        find_bundles(tmp_path / "absent")
    assert caught.value.reason is Rejection.UNREADABLE
