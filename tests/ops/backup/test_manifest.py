"""Manifests and indexes: any bytes are a value or a named error, and no path leads out of the target."""

from contextlib import suppress
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ops.backup.errors import BackupDamaged, RestoreRefused
from ops.backup.manifest import (
    BackedLog,
    Manifest,
    StoredFile,
    check_path,
    encode_index,
    parse_index,
    parse_manifest,
)

HEX = "ab" * 32
LOG = BackedLog("note", "vkey", "log", "recorder", "keys/log.signed")


def stored(path: str, size: int = 0) -> StoredFile:
    return StoredFile(path, "file", 0o600, size, HEX, (HEX,) * (1 if size else 0))


def manifest(**changes: object) -> Manifest:
    values = {
        "format": 1,
        "id": "0" * 32,
        "created_ns": 1_800_000_000_000_000_000,
        "build": "test",
        "with_keys": False,
        "log": LOG,
        "files": 1,
        "bytes_in_all": 2,
        "keys_until_ns": 3,
        "index": (HEX,),
    }
    return Manifest(**{**values, **changes})


def test_a_manifest_comes_back():
    assert parse_manifest(manifest().to_json()) == manifest()
    assert parse_manifest(manifest(log=None).to_json()).log is None


@given(st.binary(max_size=300))
def test_any_bytes_are_a_value_or_a_named_error(data):
    for parse in (parse_manifest, parse_index):
        with suppress(BackupDamaged, RestoreRefused):
            parse(data)


@pytest.mark.parametrize(
    "change", [{"format": 2}, {"id": "0" * 31}, {"id": "G" * 32}, {"index": ("..",)}, {"created_ns": -1}, {"more": 1}]
)
def test_a_manifest_of_another_form_is_refused(change):
    values = msgspec.json.decode(manifest().to_json()) | change
    with pytest.raises(BackupDamaged):
        parse_manifest(msgspec.json.encode(values))


@pytest.mark.parametrize("field", ["directory", "state_directory", "memory"])
def test_the_log_stays_below_the_target(field):
    log = msgspec.structs.replace(LOG, **{field: "../log"})
    with pytest.raises(RestoreRefused):
        parse_manifest(manifest(log=log).to_json())


EVIL = ["", ".", "..", "../x", "a/../b", "a/..", "/etc/passwd", "a//b", "a/", "./a", "a\\b", "a\0b", "a\nb", "\udcff"]


@pytest.mark.parametrize("path", [*EVIL, "a" * 256, "/".join(["a" * 200] * 6)])
def test_a_path_that_may_lead_elsewhere_is_refused(path):
    with pytest.raises(RestoreRefused, match="not a path below"):
        check_path(path)


@given(st.text(max_size=40) | st.lists(st.sampled_from(["..", ".", "a", "", "b c", "ö"])).map("/".join))
def test_a_path_that_is_taken_stays_below_the_target(path):
    try:
        taken = check_path(path)
    except RestoreRefused:
        return
    target = Path("/target")
    assert (target / taken).resolve().is_relative_to(target)
    assert (target / taken).resolve() != target
    assert (target / taken).relative_to(target).as_posix() == path


def test_an_index_comes_back_in_the_order_of_paths():
    files = [stored("b"), stored("a/c", 7), stored("a/b")]
    assert [each.path for each in parse_index(encode_index(files))] == ["a/b", "a/c", "b"]


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ([stored("b"), stored("a")], "out of order"),
        ([stored("a"), stored("a")], "out of order"),
        ([stored("a"), stored("a-"), stored("a/b")], "a file and a directory"),
        ([StoredFile("a", "file", 0o600, 5, HEX, ())], "0 chunks are not 5 bytes"),
        ([StoredFile("a", "file", 0o600, 5, HEX, (HEX, HEX))], "2 chunks are not 5 bytes"),
    ],
)
def test_an_index_that_contradicts_itself_is_refused(files, words):
    with pytest.raises(BackupDamaged, match=words):
        parse_index(b"".join(msgspec.json.encode(each) + b"\n" for each in files))
