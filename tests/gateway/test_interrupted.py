"""Whoever interrupts a command that is still loading sees no traceback."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
INTERRUPTED = """
import sys

class Interrupt:
    def find_spec(self, name, *_):
        if name == "{module}":
            raise KeyboardInterrupt

sys.meta_path.insert(0, Interrupt())
from {begins} import main
sys.exit(main())
"""


@pytest.mark.parametrize(
    ("begins", "module"),
    [
        ("gateway.__main__", "gateway.cli.main"),
        ("gateway.__main__", "rich.console"),
        ("gateway.cli.main", "gateway.cli.host"),
        ("gateway.cli.main", "gateway.tools.check.check"),
    ],
)
def test_while_it_loads(begins, module):
    program = [sys.executable, "-c", INTERRUPTED.format(begins=begins, module=module), "check", "nowhere.yaml"]
    done = subprocess.run(program, capture_output=True, text=True, timeout=60, check=False, cwd=ROOT)
    assert (done.returncode, done.stderr) == (130, "")


def test_the_console_script_begins_there():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["scripts"] == {"stockade": "gateway.__main__:main"}


WAITING = """
import sys, time, gateway.cli.main
from gateway.__main__ import main

def run():
    try:
        print("runs", flush=True)
        time.sleep(60)
    finally:
        print("ends what it started", flush=True)

gateway.cli.main.main = run
sys.exit(main())
"""


def test_a_verb_that_is_told_to_end_ends_what_it_started():
    with subprocess.Popen([sys.executable, "-c", WAITING], stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "runs\n"
        process.terminate()
        assert process.stdout.read() == "ends what it started\n"
        assert process.wait(20) == 130
