from __future__ import annotations

import bz2
import gzip
import lzma
import struct
import tracemalloc
import zlib

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from serving.train.errors import DatasetMalformed
from serving.train.payments import rtables
from serving.train.payments.rtables import Column, read_database, read_rda, table_digest
from tests.serving.train.applications import save, save_database, serialized

FRAME = pd.DataFrame(
    {
        "whole": pd.array([3, None, 5], dtype="Int32"),
        "real": [0.5, 1.5, float("nan")],
        "kind": pd.Categorical(["b", "a", None], categories=["b", "a"]),
        "text": ["y", "x", "y"],
    }
)


def malformed(read, *arguments):
    with pytest.raises(DatasetMalformed) as caught:
        read(*arguments)
    return caught.value.problem


def same(table):
    np.testing.assert_array_equal(table["whole"].values, [3, np.nan, 5])
    np.testing.assert_array_equal(table["real"].values, [0.5, 1.5, np.nan])
    assert table["kind"].levels == ("b", "a")
    np.testing.assert_array_equal(table["kind"].values, [0, 1, np.nan])
    assert table["text"].levels == ("x", "y")
    np.testing.assert_array_equal(table["text"].values, [1, 0, 1])
    return True


@pytest.mark.parametrize("compression", ["gzip", "bzip2", "xz", None])
@pytest.mark.parametrize("form", ["xdr", "ascii"])
def test_a_table_is_read_however_it_was_saved(tmp_path, compression, form):
    assert same(read_rda(save(tmp_path / "t.rda", FRAME, "t", compression=compression, file_format=form), "t"))


def lazy(kind):
    raw = serialized(FRAME)
    filters = [{"id": lzma.FILTER_LZMA2, "preset": 6}]
    bodies = {
        b"0": raw,
        b"1": zlib.compress(raw),
        b"2": bz2.compress(raw),
        b"Z": lzma.compress(raw, lzma.FORMAT_RAW, filters=filters),
    }
    return struct.pack(">I", len(raw)) + kind + bodies[kind]


@pytest.mark.parametrize("kind", [b"0", b"1", b"2", b"Z"])
def test_a_database_is_read_however_a_record_is_compressed(tmp_path, kind):
    assert same(read_database(save_database(tmp_path, FRAME, "t", compression=3, record=lazy(kind)), "t"))
    assert same(read_database(save_database(tmp_path, FRAME, "t"), "t"))


def test_what_is_wrong_with_a_database_is_said(tmp_path):
    assert "where u is" in malformed(read_database, save_database(tmp_path, FRAME, "t"), "u")
    record = lazy(b"1")
    assert "ends before" in malformed(
        read_database, save_database(tmp_path, FRAME, "t", record=record, place=(7, len(record) + 1)), "t"
    )
    assert "ends before" in malformed(read_database, save_database(tmp_path, FRAME, "t", place=(-1, 50)), "t")
    unknown = record[:4] + b"L" + record[5:]
    assert "not known" in malformed(
        read_database, save_database(tmp_path, FRAME, "t", compression=3, record=unknown), "t"
    )
    longer = struct.pack(">I", len(serialized(FRAME)) + 1) + record[4:]
    assert "does not decompress to" in malformed(
        read_database, save_database(tmp_path, FRAME, "t", compression=3, record=longer), "t"
    )
    (tmp_path / "Rdata.rdx").write_bytes(gzip.compress(serialized({"other": np.array([1])})))
    assert "where t is" in malformed(read_database, tmp_path, "t")


def test_what_is_wrong_with_a_file_is_said(tmp_path):
    file = tmp_path / "t.rda"
    assert "no table u" in malformed(read_rda, save(file, FRAME, "t"), "u")
    raw = file.read_bytes()
    file.write_bytes(raw[:-9])
    assert "cut off" in malformed(read_rda, file, "t")
    file.write_bytes(raw + b"\0")
    assert "more follows" in malformed(read_rda, file, "t")
    file.write_bytes(raw[:40] + b"\xff\xff\xff" + raw[43:])
    malformed(read_rda, file, "t")
    file.write_bytes(gzip.compress(gzip.decompress(raw)[:-30]))
    assert "serialization" in malformed(read_rda, file, "t")
    file.write_bytes(gzip.compress(raw))  # one inside the other would be inflated without a bound
    assert "save()" in malformed(read_rda, file, "t")
    save(file, {"a": [1.0]}, "t")
    assert "a" in malformed(read_rda, file, "t")


def test_text_in_another_encoding_is_refused_and_not_guessed(tmp_path):
    file = save(tmp_path / "t.rda", pd.DataFrame({"kind": pd.Categorical(["Köln", "x"])}), "t", compression=None)
    raw = file.read_bytes()
    utf8, latin1 = struct.pack(">I", 5) + "Köln".encode(), struct.pack(">I", 4) + "Köln".encode("latin1")
    assert raw.count(utf8) == 1
    file.write_bytes(raw.replace(utf8, latin1))
    assert "encoding" in malformed(read_rda, file, "t")
    # Format 2 does not say what the text is in when the text does not say it itself.
    plain = pd.DataFrame({"kind": pd.Categorical(["cold", "x"])})
    raw = save(file, plain, "t", compression=None, format_version=2).read_bytes()
    said, unsaid = (struct.pack(">II", flags, 4) + b"cold" for flags in (0x00040009, 0x00000009))
    assert raw.count(said) == 1
    file.write_bytes(raw.replace(said, unsaid))
    assert "encoding" in malformed(read_rda, file, "t")


def test_a_bomb_is_not_inflated(tmp_path, monkeypatch):
    monkeypatch.setattr(rtables, "TABLE_BYTES_MAX", 1 << 18)
    file = tmp_path / "t.rda"
    for compress in (gzip.compress, bz2.compress, lzma.compress):
        file.write_bytes(compress(bytes(16 << 20)))
        tracemalloc.start()
        assert "larger" in malformed(read_rda, file, "t")
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak < 12 << 20
    record = struct.pack(">I", (1 << 18) + 1) + bytes(9)
    assert "larger" in malformed(read_database, save_database(tmp_path, FRAME, "t", record=record), "t")


def test_file_size_at_the_limit_and_one_past_it(tmp_path, monkeypatch):
    file = save(tmp_path / "t.rda", FRAME, "t")
    monkeypatch.setattr(rtables, "FILE_BYTES_MAX", file.stat().st_size)
    assert same(read_rda(file, "t"))
    monkeypatch.setattr(rtables, "FILE_BYTES_MAX", file.stat().st_size - 1)
    assert "larger" in malformed(read_rda, file, "t")


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return save(tmp_path_factory.mktemp("whole") / "t.rda", FRAME, "t", compression=None).read_bytes()


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(position=st.floats(0, 1, exclude_max=True), change=st.integers(1, 255))
def test_a_changed_file_is_a_table_or_malformed(tmp_path, whole, position, change):
    raw = bytearray(whole)
    raw[int(position * len(raw))] ^= change
    file = tmp_path / "changed.rda"
    file.write_bytes(raw)
    try:
        read_rda(file, "t")
    except DatasetMalformed:
        return


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=120))
def test_any_bytes_are_malformed(tmp_path, raw):
    file = tmp_path / "t.rda"
    for written in (raw, b"RDX3\nX\n" + raw, gzip.compress(raw)):
        file.write_bytes(written)
        malformed(read_rda, file, "t")


def test_the_digest_is_of_the_content(tmp_path):
    table = dict(read_rda(save(tmp_path / "t.rda", FRAME, "t"), "t"))
    digest = table_digest(table)
    assert digest == table_digest(read_database(save_database(tmp_path, FRAME, "t"), "t"))
    assert digest == table_digest(dict(reversed(table.items())))
    kind = table["kind"]
    for changed in (Column(kind.values, ("b", "c")), Column(np.array([1.0, 1.0, np.nan]), kind.levels)):
        assert table_digest(table | {"kind": changed}) != digest
    assert table_digest(table | {"more": kind}) != digest
