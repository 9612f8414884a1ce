"""`stockade audit tail`: what is printed is what the log signed, as it grows."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway.cli.main import main
from ops.audit.errors import ProofError
from ops.audit.log.entry import canonical
from ops.audit.reader.scan import Follower
from tests.faults.recorder_process import KEY
from tests.ops.audit.open_log import VKEY, OpenLog, open_log
from tests.ops.audit.samples import request, small
from tests.ops.audit.verify.test_epochs import Series

OK, TAMPERED, USAGE = 0, 1, 4


@pytest.fixture
def log(tmp_path: Path) -> Iterator[OpenLog]:
    with open_log(tmp_path / "log") as made:
        made.append([small(1, reason="RATE_LIMITED"), canonical(request(2)), small(3)])
        made.publish()
        yield made


def tail(*arguments: object) -> int:
    try:
        return main(["audit", "tail", *map(str, arguments)])
    except SystemExit as stopped:
        return int(str(stopped.code))


def test_a_line_says_when_what_why_and_for_whom(log, capsys):
    assert tail(log.directory, "--vkey", VKEY, "-n", 3) == OK
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == [str(log.appender.size - back) for back in (3, 2, 1)]
    assert "refused     RATE_LIMITED" in lines[0]
    assert lines[1].endswith("served      kiosk/1  store-7 (kiosk-7-a)")
    assert max(map(len, lines)) <= 80


def test_a_directory_of_init_names_its_log_and_key_and_so_does_its_configuration(tmp_path, capsys):
    (tmp_path / "keys").mkdir()
    (tmp_path / "keys/log.vkey").write_text(VKEY)
    (tmp_path / "stockade.yaml").touch()
    with open_log(tmp_path) as log:
        log.append([small(1)])
        log.publish()
        assert [tail(place, "-n", 1) for place in (tmp_path, tmp_path / "stockade.yaml")] == [OK, OK]
    first, second = capsys.readouterr().out.splitlines()
    assert first == second


def test_what_an_entry_says_does_nothing_to_the_terminal(log, capsys):
    log.append([small(4, reason="\x1b[2J\x9bA [bold]\u202e")])
    log.publish()
    assert tail(log.directory, "--vkey", VKEY, "-n", 1) == OK
    [line] = capsys.readouterr().out.splitlines()
    assert "\\x1b[2J\\x9bA [bold]\\u202e" in line
    assert line.isprintable()


def test_for_machines_and_only_what_is_asked_for(log, capsys):
    assert (
        tail(log.directory, "--vkey", VKEY, "--json", "--where", "auth.tenant=store-7", "--where", "kind=served") == OK
    )
    [line] = capsys.readouterr().out.splitlines()
    assert json.loads(line)["entry"] == request(2)
    assert tail(log.directory, "--vkey", VKEY, "--json", "--where", "auth.tenant=another") == OK
    assert tail(log.directory, "--vkey", VKEY, "-n", 0) == OK
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("count", [1, 255, 256, 257, 1000])
def test_what_comes_is_given_once_and_in_order(log, count):
    follower = Follower(log.directory, KEY.verifier)
    seen = list(follower.new())
    for _ in range(3):
        log.append([small(number) for number in range(count)])
        log.publish()
        seen += follower.new()
    assert list(follower.new()) == []
    assert [index for _, index, _ in seen] == list(range(log.appender.size))
    later = Follower(log.directory, KEY.verifier, last=5)
    assert list(later.new()) == seen[-5:]


def test_an_entry_is_named_by_its_epoch_and_its_index(tmp_path, capsys):
    series = Series(tmp_path / "home")
    series.append(small(1))
    series.writing.publishing.hurry()
    while series.writing.publishing.edge.backlog:
        pass
    follower = Follower(series.directory, KEY.verifier)
    seen = list(follower.new())
    series.roll()
    series.append(small(2))
    series.close()
    seen += follower.new()
    assert [place for *place, _ in seen] == [[1, 0], [1, 1], [1, 2], [2, 0], [2, 1]]
    assert tail(series.directory, "--vkey", VKEY, "--json") == OK
    printed = map(json.loads, capsys.readouterr().out.splitlines())
    assert [[each["epoch"], each["index"]] for each in printed] == [[2, 0], [2, 1]]


def test_a_changed_entry_is_not_printed(log, tmp_path, capsys):
    copy = shutil.copytree(log.directory, tmp_path / "copy")
    [bundle] = (copy / "tile/entries/000.p").iterdir()
    bundle.write_bytes(bundle.read_bytes().replace(b"RATE_LIMITED", b"RATE_LIMITEX"))
    assert tail(copy, "--vkey", VKEY) == TAMPERED
    said = capsys.readouterr()
    assert "do not lead to the root" in said.err
    assert said.out == ""


def test_an_older_copy_that_was_put_back_is_found(log, tmp_path):
    older = shutil.copytree(log.directory, tmp_path / "older")
    log.append([small(9)])
    log.publish()
    follower = Follower(log.directory, KEY.verifier)
    list(follower.new())
    shutil.rmtree(log.directory)
    shutil.copytree(older, log.directory)
    with pytest.raises(ProofError, match="an older copy was put back"):
        list(follower.new())


def test_it_follows_until_it_is_told_to_end(log):
    program = [sys.executable, "-u", "-m", "gateway", "audit", "tail", str(log.directory), "--vkey", VKEY, "-f"]
    with subprocess.Popen([*program, "--json"], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        before = [json.loads(process.stdout.readline())["index"] for _ in range(log.appender.size)]
        log.append([small(7)])
        log.publish()
        assert json.loads(process.stdout.readline())["index"] == before[-1] + 1
        process.terminate()
        assert process.wait(60) == 0


@pytest.mark.parametrize(
    "arguments",
    [[], ["--vkey", VKEY, "--where", "kind"], ["--vkey", VKEY, "-n", "-1"], ["--vkey", "nonsense"]],
    ids=str,
)
def test_wrong_usage_says_so(log, arguments, capsys):
    assert tail(log.directory, *arguments) == USAGE
    assert capsys.readouterr().err
