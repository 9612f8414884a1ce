"""Which bundles a gateway takes from its directory."""

from __future__ import annotations

import pytest

from gateway.config.load import load_config
from gateway.models.models import load_bundles
from serving.errors import BundleDuplicate
from tests.e2e.site import copy_site
from tests.serving.tiny import tiny_sealed, write


def test_versions_side_by_side_are_taken_and_one_twice_is_not(made_site, tmp_path):
    site = copy_site(made_site, tmp_path / "site")
    write(tiny_sealed("2"), site.directory / "bundles/tiny/2")
    bundles = load_bundles(load_config(site.config), lambda *_, **__: None).values()
    loaded = [(bundle.name, bundle.version) for bundle in bundles]
    assert loaded == [("kiosk", "1"), ("tiny", "1"), ("tiny", "2")]
    write(tiny_sealed("2"), site.directory / "bundles/another-name/9")
    with pytest.raises(BundleDuplicate, match="two bundles are 'tiny' version '2'"):
        load_bundles(load_config(site.config), lambda *_, **__: None)
