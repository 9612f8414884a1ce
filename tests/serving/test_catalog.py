from __future__ import annotations

from dataclasses import replace

import pytest

from serving import catalog as catalog_module
from serving.catalog import Catalog, find_bundles
from serving.errors import BundleDuplicate, BundleRejected, ModelUnknown, Rejection
from tests.serving.tiny import tiny_bundle

TINY = tiny_bundle()
CATALOG = Catalog([TINY, replace(TINY, version="10"), replace(TINY, version="9"), replace(TINY, name="other")])


def test_an_empty_version_is_the_highest_by_number():
    assert CATALOG.resolve("tiny").version == "10"
    assert CATALOG.resolve("tiny", "9").version == "9"
    assert CATALOG.resolve("other").name == "other"


@pytest.mark.parametrize(
    ("name", "version"), [("tiny", "2"), ("nobody", ""), ("nobody", "1"), ("", ""), ("tiny", "01")]
)
def test_what_is_not_there_is_unknown(name, version):
    with pytest.raises(ModelUnknown) as caught:
        CATALOG.resolve(name, version)
    assert (caught.value.name, caught.value.version) == (name, version)


def test_names_and_versions():
    assert CATALOG.names == ("other", "tiny")
    assert CATALOG.versions("tiny") == ("1", "9", "10")
    assert len(CATALOG) == len(list(CATALOG)) == 4
    with pytest.raises(ModelUnknown):
        CATALOG.versions("nobody")


def test_two_bundles_cannot_share_a_name_and_version():
    with pytest.raises(BundleDuplicate):
        Catalog([TINY, TINY])


def test_an_empty_catalog_knows_nothing():
    assert Catalog([]).names == ()
    with pytest.raises(ModelUnknown):
        Catalog([]).resolve("tiny")


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
