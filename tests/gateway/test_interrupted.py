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
        ("gateway.cli.main", "gateway.bench"),
        ("gateway.cli.main", "gateway.check.check"),
    ],
)
def test_while_it_loads(begins, module):
    program = [sys.executable, "-c", INTERRUPTED.format(begins=begins, module=module), "check", "nowhere.yaml"]
    done = subprocess.run(program, capture_output=True, text=True, timeout=60, check=False, cwd=ROOT)
    assert (done.returncode, done.stderr) == (130, "")


def test_the_console_script_begins_there():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["scripts"] == {"stockade": "gateway.__main__:main"}
