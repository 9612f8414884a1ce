"""The README's promises, kept by running what it says, in the order in which it says it."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from safetensors.numpy import load_file

from gateway.cli.main import main
from gateway.tools.local import serving
from gateway.tools.samples import sample_images
from ops.audit.log.checkpoint import parse_vkey
from ops.audit.reader.read import LogReader
from tests.e2e.clients import program
from tests.e2e.running import until

README = Path(__file__).resolve().parents[2] / "README.md"
TEXT = README.read_text()
COMMANDS = README.with_name("docs") / "reference/commands.md"


def block(language: str, containing: str) -> str:
    found = [body for body in re.findall(rf"```{language}\n(.*?)```", TEXT, re.DOTALL) if containing in body]
    assert len(found) == 1, f"the README has one {language} block with {containing!r}"
    return found[0]


def commands() -> list[list[str]]:
    lines = block("sh", "stockade init").splitlines()
    return [shlex.split(line, comments=True) for line in lines]


@pytest.fixture(scope="module")
def gateway(tmp_path_factory):
    """What `stockade init gateway` makes, served as `stockade serve` does, on free ports."""
    place = tmp_path_factory.mktemp("readme")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        init = next(command for command in commands() if command[:2] == ["stockade", "init"])
        assert main(init[1:]) == 0
        config = Path("gateway/stockade.yaml")
        document = yaml.safe_load(config.read_text())
        document["listen"] = dict.fromkeys(document["listen"], "127.0.0.1:0")
        config.write_text(yaml.safe_dump(document))
        with serving(place / "gateway") as running:
            yield running


def verb(*words: str) -> list[str]:
    """The arguments of a command of the README."""
    return next(command[1:] for command in commands() if command[1 : 1 + len(words)] == list(words))


def test_check_finds_nothing_wrong(gateway, monkeypatch):
    monkeypatch.chdir(gateway.directory.parent)
    assert main(verb("check")) == 0


def test_ten_images_get_ten_answers(gateway, monkeypatch, capsys):
    monkeypatch.chdir(gateway.directory.parent)
    assert main([*verb("client"), "--json", "--address", gateway.addresses["data"]]) == 0
    answers = capsys.readouterr().out.splitlines()
    assert len(answers) == 10
    assert all('"status": "OK"' in answer for answer in answers)


def test_tritons_own_client_works_as_shown(gateway, tmp_path):
    pixels = load_file(sample_images())["images"][:1].astype(np.float32) / 255
    np.save(tmp_path / "pixels.npy", pixels)
    shown = block("python", "tritonclient").replace(
        "localhost:8001", gateway.addresses["data"].replace("127.0.0.1", "localhost")
    )
    script = f'import numpy as np\npixels = np.load("{tmp_path / "pixels.npy"}")\n{shown}'
    script = script.replace('answer.as_numpy("probabilities")', 'print(answer.as_numpy("probabilities").shape)')
    done = subprocess.run(  # noqa: PLW1510  what it printed tells more than its exit code
        [program("tritonclient"), "-c", script],
        cwd=gateway.directory.parent,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.stdout.strip() == "(1, 10)", done.stderr


def published(directory: Path) -> int:
    """The size of the public log."""
    return LogReader.open(
        directory / "log", parse_vkey((directory / "keys/log.vkey").read_text().strip())
    ).checkpoint.size


def test_the_log_verifies_while_it_is_written_and_a_changed_one_does_not(gateway, monkeypatch, tmp_path):
    import shutil

    from gateway.tools.demo.tamper import flip_one_byte

    monkeypatch.chdir(gateway.directory.parent)
    assert main(["client", "gateway", "--address", gateway.addresses["data"]]) == 0
    until(lambda: published(gateway.directory) > 10, "the ten answers were not published")
    assert main(verb("audit", "verify")) == 0
    copy = tmp_path / "log"
    shutil.copytree(gateway.directory / "log", copy)
    flip_one_byte(copy)
    assert main(["audit", "verify", str(copy), "--vkey", str(gateway.directory / "keys/log.vkey")]) == 1


def test_every_verb_of_the_table_is_there(capsys):
    for row in re.findall(r"^\| (`stockade [^|]+) \|", COMMANDS.read_text(), re.MULTILINE):
        for command in re.findall(r"`stockade ([^`]+)`", row):
            with pytest.raises(SystemExit) as stopped:
                main([*command.split(), "--help"])
            assert stopped.value.code == 0, command
    assert "usage" in capsys.readouterr().out


def test_it_runs_on_the_python_it_names():
    named = re.search(r"Python (\d+)\.(\d+)", TEXT)
    assert named is not None
    assert sys.version_info >= (int(named[1]), int(named[2]))
