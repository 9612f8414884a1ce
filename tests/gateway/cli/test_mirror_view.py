"""`stockade audit mirror` as a person or a script calls it: its words and its exit codes."""

import json
import shutil
from pathlib import Path

import pytest

from gateway.cli.main import main
from ops.process.durable import exclusive
from tests.ops.audit.open_log import VKEY, open_log
from tests.ops.audit.samples import small

OK, REFUSED, INCOMPLETE, _, USAGE = range(5)


@pytest.fixture(scope="module")
def logs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`one` at two sizes, and `fork`, another history under the same key."""
    home = tmp_path_factory.mktemp("logs")
    with open_log(home / "a") as made:
        made.append([small(number) for number in range(3)])
        made.publish()
        shutil.copytree(made.directory, home / "early")
        made.append([small(number) for number in range(3, 300)])
        made.publish()
        shutil.copytree(made.directory, home / "late")
    with open_log(home / "b") as made:
        made.append([small(number) for number in range(7, 400)])
        made.publish()
        shutil.copytree(made.directory, home / "fork")
    return home


def mirror(*arguments: object) -> int:
    try:
        return main(["audit", "mirror", *map(str, arguments)])
    except SystemExit as stopped:
        return int(str(stopped.code))


def test_a_mirror_is_made_and_catches_up(logs, tmp_path, capsys):
    assert mirror(logs / "early", tmp_path / "m", "--vkey", VKEY) == OK
    assert "up to date: 4 records of example.test/log, 4 of them new" in capsys.readouterr().out
    assert mirror(logs / "late", tmp_path / "m", "--vkey", VKEY, "--json") == OK
    done = json.loads(capsys.readouterr().out)
    assert (done["size_before"], done["size"], done["origin"]) == (4, 301, "example.test/log")
    assert main(["audit", "verify", str(tmp_path / "m"), "--vkey", VKEY]) == OK


def test_the_directory_of_a_gateway_brings_its_key(logs, tmp_path):
    site = tmp_path / "site"
    (site / "keys").mkdir(parents=True)
    (site / "stockade.yaml").touch()
    (site / "keys/log.vkey").write_text(VKEY + "\n")
    shutil.copytree(logs / "late", site / "log")
    assert mirror(site, tmp_path / "m") == OK


@pytest.mark.parametrize(
    ("source", "code", "words"),
    [
        ("fork", REFUSED, "a fork"),
        ("early", REFUSED, "rolled back"),
        ("nowhere", INCOMPLETE, "is no directory"),
        ("damaged", REFUSED, "tampered with"),
        ("lacking", INCOMPLETE, "is missing"),
    ],
)
def test_what_is_refused_is_said_and_changes_nothing(  # noqa: PLR0917  pytest names them
    logs, tmp_path, capsys, source, code, words
):
    fresh = source in ("damaged", "lacking")
    assert mirror(logs / ("early" if fresh else "late"), tmp_path / "m", "--vkey", VKEY) == OK
    before = (tmp_path / "m/checkpoint").read_bytes()
    spoiled = shutil.copytree(logs / "late", tmp_path / "damaged")
    bundle = spoiled / "tile/entries/000"
    bundle.write_bytes(bundle.read_bytes().replace(b"MODEL_UNKNOWN", b"MODEL_UNKNOWM", 1))
    (shutil.copytree(logs / "late", tmp_path / "lacking") / "tile/0/000").unlink()
    assert mirror((tmp_path if fresh else logs) / source, tmp_path / "m", "--vkey", VKEY) == code
    said = capsys.readouterr().err
    assert words in said
    assert "stands where it stood" in said
    assert (tmp_path / "m/checkpoint").read_bytes() == before


def test_wrong_usage(logs, tmp_path, capsys):
    assert mirror(logs / "late", tmp_path / "m") == USAGE
    assert "--vkey" in capsys.readouterr().err
    assert mirror(logs / "late", tmp_path / "m", "--vkey", "no+key") == USAGE
    assert mirror(logs / "late") == USAGE
    (tmp_path / "file").touch()
    assert mirror(logs / "late", tmp_path / "file", "--vkey", VKEY) == USAGE
    (tmp_path / "m").mkdir()
    with exclusive(tmp_path / "m", AssertionError("nobody else is here")):
        assert mirror(logs / "late", tmp_path / "m", "--vkey", VKEY) == USAGE
    assert "somebody else" in capsys.readouterr().err
