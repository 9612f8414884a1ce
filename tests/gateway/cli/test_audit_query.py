"""`stockade audit query` and `audit verify --query` as they are called: answers for people and machines, exit codes."""

from __future__ import annotations

import csv
import io
import json

import pytest

from gateway.cli.main import main
from ops.audit.log.entry import canonical
from tests.ops.audit.open_log import VKEY, open_log
from tests.ops.audit.samples import request, small

pq = pytest.importorskip("pyarrow.parquet")
pytest.importorskip("duckdb")

COUNT = "SELECT kind, count(*) AS n FROM entries GROUP BY ALL ORDER BY ALL"


@pytest.fixture(scope="module")
def log(tmp_path_factory):
    with open_log(tmp_path_factory.mktemp("query") / "home") as made:
        made.append([small(number) if number % 3 else canonical(request(number)) for number in range(300)])
        made.publish()
        yield made.directory


def ask(log, *arguments: object) -> int:
    return main(["audit", "query", str(log), *map(str, arguments), "--vkey", VKEY])


def test_one_question_three_forms(log, tmp_path, capsys):
    where = ("--index", tmp_path / "index")
    assert ask(log, COUNT, *where) == 0
    assert "200" in capsys.readouterr().out
    assert ask(log, COUNT, *where, "--json") == 0
    said = json.loads(capsys.readouterr().out)
    assert said["rows"] == [{"kind": "genesis", "n": 1}, {"kind": "refused", "n": 200}, {"kind": "served", "n": 100}]
    assert (said["size"], said["cut"]) == (301, False)
    assert ask(log, "SELECT leaf_index, time FROM entries ORDER BY 1", *where, "--csv", "--rows", 2) == 0
    said = capsys.readouterr()
    assert "\r" not in said.out
    rows = list(csv.reader(io.StringIO(said.out)))
    assert rows[0] == ["leaf_index", "time"]
    assert [row[0] for row in rows[1:]] == ["0", "1"]
    assert rows[2][1] == "2027-01-15T08:00:00.000000Z"
    assert "cut" in said.err


def test_a_row_of_more_columns_than_fit_is_printed_downwards(log, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    assert ask(log, "SELECT * FROM entries WHERE kind = 'served' LIMIT 2", "--index", tmp_path / "index") == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split() for line in lines if line.startswith("kind ")] == [["kind", "served"]] * 2
    assert max(map(len, lines)) <= 80


@pytest.mark.parametrize(
    "sql", ["SELECT nothing FROM entries", "SELECT * FROM read_csv('/etc/passwd')", "DROP VIEW entries"]
)
def test_a_question_that_is_refused_is_usage(log, tmp_path, capsys, sql):
    assert ask(log, sql, "--index", tmp_path / "index") == 4
    assert "stockade:" in capsys.readouterr().err


def test_an_index_that_hides_a_row_is_tampered_with(log, tmp_path, capsys):
    index = tmp_path / "index"
    assert ask(log, COUNT, "--index", index) == 0
    verify = ["audit", "verify", str(log), "--vkey", VKEY, "--query", str(index), "--json"]
    capsys.readouterr()
    assert main(verify) == 0
    table = pq.read_table(index / "000000.parquet")
    pq.write_table(table.slice(1), index / "000000.parquet")
    capsys.readouterr()
    assert main(verify) == 1
    [finding] = json.loads(capsys.readouterr().out)["findings"]
    assert (finding["severity"], finding["where"]) == ("tampered", "000000.parquet")
    assert main([*verify[:-3], "--query", str(tmp_path), "--json"]) == 4
