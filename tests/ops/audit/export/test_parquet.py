"""The log as Parquet, and questions to it: deterministic, complete, verified; an index cannot hide a row."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from ops.audit.errors import EntryError, IndexRejected, ProofError, QueryRefused
from ops.audit.export import parquet
from ops.audit.export.parquet import check_index, file_of, index_files, update_index
from ops.audit.export.query import QueryLimits, ask
from ops.audit.log.entry import canonical
from ops.audit.log.merkle import leaf_hash
from ops.audit.reader.read import LogReader
from ops.audit.verify.report import Report
from tests.faults.recorder_process import KEY
from tests.ops.audit.open_log import open_log
from tests.ops.audit.samples import request, small

pq = pytest.importorskip("pyarrow.parquet")
pytest.importorskip("duckdb")

LIMITS = QueryLimits()
ENTRIES = [small(number) if number % 3 else canonical(request(number)) for number in range(700)]


@pytest.fixture
def log(tmp_path, monkeypatch):
    monkeypatch.setattr(parquet, "FILE_RECORDS", 256)
    with open_log(tmp_path / "home") as made:
        made.say(ENTRIES)
        yield made


def reader(log) -> LogReader:
    return LogReader.open(log.directory, KEY.verifier)


def findings(index: Path, log) -> list[tuple[str, str]]:
    report = Report()
    check_index(index, reader(log), report)
    return [(finding.severity, finding.where) for finding in report.findings]


def test_every_entry_is_a_row_with_its_leaf(log, tmp_path):
    index = update_index(tmp_path / "index", reader(log))
    rows = ask(tmp_path / "index", "SELECT leaf_index, leaf_hash, entry FROM entries ORDER BY ALL", LIMITS).rows
    entries = reader(log).entries(0, index.size)
    assert rows == [(at, leaf_hash(entry).hex(), entry.decode()) for at, entry in enumerate(entries)]
    assert len(index_files(tmp_path / "index")) == -(-index.size // 256)


def test_flat_columns_hold_what_the_entry_says(tmp_path):
    (tmp_path / "000000.parquet").write_bytes(file_of(5, [canonical(request(3)), small(4)]))
    names = "leaf_index, tenant, credential, model, version, status, p_min, verdict, limit_rule, admit_us, batch_size"
    rows = ask(tmp_path, f"SELECT {names}, time, screens[1].score FROM entries ORDER BY leaf_index", LIMITS).rows
    assert rows[0][:11] == (5, "store-7", "kiosk-7-a", "kiosk", "1", 0, 0.5, "pass", None, 12, 60)
    assert rows[0][11].isoformat() == "2027-01-15T08:00:00"
    assert rows[0][12] == -0.000123
    assert rows[1][:11] == (6, None, None, None, None, 5, None, None, None, None, None)


def test_the_same_entries_give_the_same_bytes_and_others_do_not(log, tmp_path):
    update_index(tmp_path / "one", reader(log))
    update_index(tmp_path / "two", reader(log))
    one, two = (index_files(tmp_path / name) for name in ("one", "two"))
    assert [file.read_bytes() for file in one] == [file.read_bytes() for file in two]
    assert file_of(0, ENTRIES[:9]) != file_of(0, [*ENTRIES[:8], ENTRIES[9]])


def test_an_index_that_grew_is_one_that_was_made_at_once(log, tmp_path):
    update_index(tmp_path / "grown", reader(log))
    untouched = (tmp_path / "grown" / "000000.parquet").stat().st_ino
    log.say([small(number) for number in range(2000, 2500)])
    grown, fresh = (update_index(tmp_path / name, reader(log)) for name in ("grown", "fresh"))
    assert grown == fresh
    files = [[file.read_bytes() for file in index_files(tmp_path / name)] for name in ("grown", "fresh")]
    assert files[0] == files[1]
    assert (tmp_path / "grown" / "000000.parquet").stat().st_ino == untouched
    assert findings(tmp_path / "grown", log) == []


def test_an_index_that_is_behind_is_a_notice(log, tmp_path):
    update_index(tmp_path / "index", reader(log))
    log.say([small(5000)])
    assert findings(tmp_path / "index", log) == [("notice", "index.json")]


def hide_row(index: Path) -> None:
    table = pq.read_table(index / "000001.parquet")
    pq.write_table(table.filter([at != 300 for at in table["leaf_index"].to_pylist()]), index / "000001.parquet")


def change_row(index: Path) -> None:
    file = index / "000001.parquet"
    changed = ENTRIES[:256]
    changed[40] = small(40, reason="OK")
    file.write_bytes(file_of(256, changed))


def hide_end(index: Path) -> None:
    """A forger who knows the format takes the last rows away, and the word that they were there."""
    file, state = index_files(index)[-1], json.loads((index / "index.json").read_text())
    start = 256 * int(file.stem)
    table = pq.read_table(file)
    kept = [entry.encode() for entry in table["entry"].to_pylist()[:-5]]
    file.write_bytes(file_of(start, kept))
    (index / "index.json").write_text(json.dumps(state | {"size": start + len(kept)}))


@pytest.mark.parametrize(
    ("tamper", "severity", "where"),
    [
        (hide_row, "tampered", "000001.parquet"),
        (change_row, "tampered", "000001.parquet"),
        (hide_end, "tampered", "index.json"),
        (lambda index: (index / "000001.parquet").unlink(), "incomplete", "000001.parquet"),
        (lambda index: shutil.copy(index / "000001.parquet", index / "000009.parquet"), "tampered", "000009.parquet"),
    ],
)
def test_an_index_cannot_hide_or_add_a_row(log, tmp_path, tamper, severity, where):
    index = tmp_path / "index"
    update_index(index, reader(log))
    assert findings(index, log) == []
    tamper(index)
    assert (severity, where) in findings(index, log)


def test_entries_that_were_not_signed_are_not_indexed(log, tmp_path):
    (file,) = log.directory.glob("tile/entries/001")
    data = file.read_bytes()
    at = data.rfind(b'"id":"') + 6
    file.write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
    with pytest.raises((ProofError, EntryError)):
        update_index(tmp_path / "index", reader(log))
    assert list((tmp_path / "index").glob("*")) == []


def test_the_index_of_another_log_is_not_gone_on_with(log, tmp_path):
    update_index(tmp_path / "index", reader(log))
    state = tmp_path / "index" / "index.json"
    state.write_text(state.read_text().replace(json.loads(state.read_text())["root"], "ab" * 32))
    with pytest.raises(ProofError, match="another log"):
        update_index(tmp_path / "index", reader(log))


def test_another_writer_s_index_is_made_anew_and_not_compared(log, tmp_path):
    index = tmp_path / "index"
    made = update_index(index, reader(log))
    state = index / "index.json"
    state.write_text(state.read_text().replace(made.writer, "pyarrow 0.1"))
    with pytest.raises(IndexRejected, match=r"pyarrow 0\.1"):
        findings(index, log)
    assert update_index(index, reader(log)) == made


@pytest.mark.parametrize("content", ["", "[]", '{"size": -1}', "\x00"])
def test_a_directory_that_holds_something_else_is_left_alone(log, tmp_path, content):
    (tmp_path / "index").mkdir()
    (tmp_path / "index" / "index.json").write_text(content)
    with pytest.raises(IndexRejected):
        update_index(tmp_path / "index", reader(log))
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "letter.txt").touch()
    with pytest.raises(IndexRejected, match="not empty"):
        update_index(tmp_path / "other", reader(log))


@pytest.fixture(scope="module")
def small_index(tmp_path_factory):
    directory = tmp_path_factory.mktemp("index")
    (directory / "000000.parquet").write_bytes(file_of(0, ENTRIES[:50]))
    (directory / "secret.csv").write_text("a\n1\n")
    return directory


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT * FROM read_csv('{}/secret.csv')",
        "SELECT * FROM '{}/secret.csv'",
        "SELECT * FROM read_parquet('{}/000000.parquet')",
        "COPY entries TO '{}/out.csv'",
        "COPY (SELECT 1) TO '{}/out.csv'",
        "ATTACH '{}/other.db'",
        "INSTALL httpfs",
        "LOAD httpfs",
        "SET enable_external_access = true",
        "SELECT 1; SELECT 2",
        "CREATE TABLE t AS SELECT * FROM entries",
        "PRAGMA database_list",
        "SELECT * FROM index_files",
        "SELECT getenv('HOME')",
        "SELECT nothing FROM entries",
        "",
        "SELEC",
        "SELECT 1 -- " + "x" * 70_000,
    ],
)
def test_a_question_reaches_nothing_but_the_entries(small_index, sql):
    with pytest.raises(QueryRefused):
        ask(small_index, sql.replace("{}", str(small_index)), LIMITS)
    assert not (small_index / "out.csv").exists()


def test_a_question_takes_no_more_than_it_may(small_index):
    answer = ask(small_index, "SELECT leaf_index FROM entries ORDER BY ALL", QueryLimits(rows_max=49))
    assert (len(answer.rows), answer.cut) == (49, True)
    answer = ask(small_index, "SELECT leaf_index FROM entries ORDER BY ALL", QueryLimits(rows_max=50))
    assert (len(answer.rows), answer.cut) == (50, False)
    endless = "SELECT count(*) FROM range(100000000000) a, range(100000000000) b"
    with pytest.raises(QueryRefused, match="more than"):
        ask(small_index, endless, QueryLimits(timeout_s=0.2))
    large = "SELECT list(a.range) FROM range(100000000) a"
    with pytest.raises(QueryRefused, match=r"(?i)memory"):
        ask(small_index, large, QueryLimits(memory_mib_max=64))
