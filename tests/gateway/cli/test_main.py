"""The command line itself: what it loads, how wrong usage ends, and what Typer does not know."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from gateway.cli.main import VERBS, command_line, main
from gateway.tools.bench.peers import default_root

LOADED = """
import json, sys
from gateway.cli.main import main
try:
    main(["--help"])
finally:
    sys.stderr.write(json.dumps([*sys.modules]))
"""
HEAVY = {"grpc", "numpy", "onnxruntime", "torch", "pydantic", "rich.table", "google.protobuf", "cryptography"}


def test_help_loads_no_module_of_a_verb():
    done = subprocess.run([sys.executable, "-c", LOADED], capture_output=True, text=True, check=True)
    loaded = set(json.loads(done.stderr))
    assert HEAVY & loaded == set()
    assert {name for name in loaded if name.startswith("gateway.")} == {"gateway.cli", "gateway.cli.main"}
    assert all(f"  {name} " in done.stdout for name in VERBS)


@pytest.mark.parametrize("name", VERBS)
def test_a_verb_says_the_same_of_itself_as_the_list_of_verbs(name):
    said = command_line().get_command(None, name).help.rstrip(".")
    assert VERBS[name][1].lower() == said.lower()


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        ([], 2, "Missing command"),
        (["explode"], 2, "No such command 'explode'"),
        (["check"], 2, "Missing argument 'FILE'"),
        (["check", "F", "--jsn"], 2, "No such option"),
        (["audit"], 2, "Missing command"),
        (["audit", "explode"], 2, "No such command"),
        (["audit", "verify"], 4, "Missing argument 'DIR'"),
        (["audit", "verify", "log", "--vkey"], 4, "requires an argument"),
        (["audit", "tail", "log", "-n", "x"], 4, "argument -n/--lines: 'x' is not a whole number"),
        (["audit", "erase"], 4, "Missing command"),
        (["audit", "erase", "show", "F"], 2, "Missing argument 'ID'"),
        (["audit", "hold", "set", "F"], 2, "Missing option"),
        (["audit", "payload", "F"], 4, "Missing argument"),
        (["audit", "restore", "--from", "a", "--out", "b", "--go-on", "--next", "k"], 4, "not allowed with"),
        (["models", "promote", "F", "kiosk/2", "--canary", "--shadow", "0.1"], 2, "not allowed with"),
        (["models", "promote", "F", "kiosk/2", "--shadow", "0"], 2, "'0' is not a share above 0, at most 1"),
        (["models", "export", "D", "--layout", "keras", "--out", "o"], 2, "--layout"),
        (["defenses", "calibrate", "D", "--only", "trigger", "everything"], 2, "'everything' is not one of"),
        (["bench", "models", "--seeds", "6"], 2, "--seeds"),
    ],
    ids=str,
)
def test_wrong_usage_ends_with_a_sentence_and_its_code(words, code, said, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(words)
    shown = capsys.readouterr()
    assert (stopped.value.code, shown.out) == (code, "")
    usage, line = shown.err.splitlines()
    assert usage.startswith("Usage: stockade")
    assert ": error: " in line
    assert said in line


@pytest.mark.parametrize(
    ("words", "said"), [(["--version"], "stockade "), (["audit", "tail", "--help"], "Exit codes:")]
)
def test_what_only_asks_ends_well(words, said, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(words)
    assert stopped.value.code == 0
    assert said in capsys.readouterr().out


@pytest.mark.parametrize(
    ("tool", "words", "name", "value"),
    [
        ("registry.calibrate.run_calibrate", "--only trigger feedback --seed 3", "only", ["trigger", "feedback"]),
        ("registry.calibrate.run_calibrate", "--only trigger --only budget", "only", ["trigger", "budget"]),
        ("registry.calibrate.run_calibrate", "--seed 3", "only", []),
        ("bench.peers.run", "--install", "install", default_root()),
        ("bench.peers.run", "--install --only ray", "install", default_root()),
        ("bench.peers.run", "--install here --only ray", "install", Path("here")),
        ("bench.peers.run", "--only ray", "install", None),
    ],
)
def test_options_with_many_values_or_none(tool, words, name, value, monkeypatch):
    seen = []
    monkeypatch.setattr(f"gateway.tools.{tool}", lambda options: seen.append(getattr(options, name)) or 0)
    needed = ["--version", "9", "--out", "o", "--signing-key", "k"]
    command = ["bench", "peers"] if "peers" in tool else ["defenses", "calibrate", "DIR", *needed]
    assert main([*command, *words.split()]) == 0
    assert seen == [value]
