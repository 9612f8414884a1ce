"""`stockade audit verify` as a person or a script calls it: its words, and exit codes that never accuse by mistake."""

import json
import os
import shutil
from pathlib import Path

import pytest

from gateway.cli.main import main
from gateway.tools.audit import verify as verify_view
from ops.audit.log.checkpoint import SignerKey
from tests.faults.recorder_process import KEY, ORIGIN
from tests.ops.audit.open_log import VKEY, open_log
from tests.ops.audit.samples import small

OK, TAMPERED, INCOMPLETE, STALE, USAGE = range(5)


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    with open_log(tmp_path_factory.mktemp("log")) as made:
        made.append([small(number, time_ns="1700000000000000000") for number in range(3)])  # well in the past
        made.publish()
        return made.directory


def verify(*arguments: object) -> int:
    try:
        return main(["audit", "verify", *map(str, arguments)])
    except SystemExit as stopped:
        return int(str(stopped.code))


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["log", "--stale-after", "soon"],
        ["log", "--stale-after", "-1"],
        ["log", "--stale-after", "nan"],
        ["log", "--stale-after", "inf"],
        ["log", "--vkey"],
        ["log", "--bogus"],
        ["log", "another"],
    ],
    ids=str,
)
def test_arguments_that_do_not_parse_are_wrong_usage_and_not_incomplete(arguments, capsys):
    assert verify(*arguments) == USAGE
    assert "stockade audit verify: error: " in capsys.readouterr().err


def test_a_clean_log_and_help_are_fine(log, capsys):
    assert verify(log, "--vkey", VKEY) == OK
    assert "records of" in capsys.readouterr().out
    assert verify("--help") == OK
    assert "newest entry is older" in capsys.readouterr().out


def test_files_that_are_not_the_logs_are_warned_of_and_counted(log, tmp_path, capsys):
    copy = shutil.copytree(log, tmp_path / "log")
    for files, words in ((("junk",), "1 file beside"), (("junk", "tile/entries/999"), "2 files beside")):
        for file in files:
            (copy / file).touch()
            os.utime(copy / file, (0, 0))
        assert verify(copy, "--vkey", VKEY) == OK
        said = capsys.readouterr().out
        assert f"warning: {words} the log" in said
        assert all(file in said for file in files)
        assert verify(copy, "--vkey", VKEY, "--json") == OK
        report = json.loads(capsys.readouterr().out)
        assert (report["verdict"], report["unverified_files"]) == ("verified", len(files))
        assert [each["where"] for each in report["findings"]] == [*files]
    assert verify(log, "--vkey", VKEY) == OK
    assert "warning" not in capsys.readouterr().out


def test_a_name_beside_the_log_does_nothing_to_the_terminal(log, tmp_path, capsys):
    copy = shutil.copytree(log, tmp_path / "copy")
    Path(os.fsdecode(os.fsencode(copy) + "/\x1b[2J\x9bA\u202e".encode() + b"\xff")).touch()
    assert verify(copy, "--vkey", VKEY) == OK
    said = capsys.readouterr().out
    assert all(char.isprintable() for line in said.split("\n") for char in line)
    assert "\\x1b[2J\\x9bA\\u202e\\udcff" in said


def test_a_key_from_beside_the_log_is_named_and_another_is_not(log, tmp_path, capsys):
    """The directory of `stockade init` holds both; who can change the log there can change the key."""
    shutil.copytree(log, tmp_path / "log")
    (tmp_path / "stockade.yaml").touch()
    key = tmp_path / "keys/log.vkey"
    key.parent.mkdir()
    key.write_text(VKEY)
    assert verify(tmp_path) == OK
    said = f"key: {key}; compare it with one you got elsewhere, or pass --vkey\n"
    assert said in capsys.readouterr().out
    assert verify(tmp_path, "--json") == OK
    assert json.loads(capsys.readouterr().out)["key_beside_log"] == str(key)
    assert verify(tmp_path, "--vkey", VKEY) == OK
    assert "key:" not in capsys.readouterr().out
    assert verify(tmp_path, "--vkey", VKEY, "--json") == OK
    assert json.loads(capsys.readouterr().out)["key_beside_log"] is None


@pytest.mark.parametrize(("least", "told"), [(4, True), (5, False)])
def test_the_rate_is_told_of_logs_that_are_large_enough_to_have_one(log, least, told, capsys, monkeypatch):
    monkeypatch.setattr(verify_view, "RATE_RECORDS_MIN", least)
    assert verify(log, "--vkey", VKEY) == OK
    assert ("records/s" in capsys.readouterr().out) is told


@pytest.mark.parametrize(("after", "code"), [(0, STALE), (10**12, OK)])
def test_stale_is_judged_by_the_newest_entry(log, after, code, capsys):
    assert verify(log, "--vkey", VKEY, "--stale-after", after, "--json") == code
    assert json.loads(capsys.readouterr().out)["verdict"] == ("stale" if code == STALE else "verified")


def test_the_private_key_and_a_wrong_key_are_told_apart_from_tampering(log, tmp_path, capsys):
    private = tmp_path / "log.key"
    private.write_text(KEY.secret())
    wrong = tmp_path / "wrong.vkey"
    wrong.write_text(str(SignerKey(ORIGIN, bytes(32)).verifier))
    for file, word in ((private, "private key"), (wrong, "not signed by this key")):
        assert verify(log, "--vkey", file, "--json") == USAGE
        report = json.loads(capsys.readouterr().out)
        assert report["verdict"] == "not verified"
        assert word in report["findings"][0]["what"]


@pytest.mark.parametrize("option", ["--vkey", "--remembered"])
def test_a_file_that_is_not_there_is_named_in_a_sentence(log, tmp_path, option, capsys):
    missing = tmp_path / "missing"
    assert verify(log, "--vkey", VKEY, option, missing) == USAGE
    said = capsys.readouterr().err
    assert f"{missing}: No such file or directory" in said
    assert "Errno" not in said


def test_a_log_that_cannot_be_read_is_not_verified_and_not_accused(log, tmp_path, capsys):
    """A file where a directory belongs, for one; so would an unreadable disk be."""
    copy = tmp_path / "log"
    (copy / "checkpoint").mkdir(parents=True)
    assert verify(copy, "--vkey", VKEY) == USAGE
    assert "checkpoint: Is a directory" in capsys.readouterr().err


def test_a_key_that_is_not_text_is_wrong_usage(log, tmp_path):
    key = tmp_path / "key"
    key.write_bytes(b"\xff\xfe")
    assert verify(log, "--vkey", key) == USAGE
