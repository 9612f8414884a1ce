"""`.ci/run` in a tree of its own, where every program it calls is a stand-in: what it runs, runs again, and says."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FIRST = ["check", "demo", "docs"]
SUITES = ["test", "test-slow", "test-dashboards", "test-cluster"]
# Writes down how it was called, and fails where the first line of `fails` has its target: TARGET EXIT_CODE_OF_PYTEST.
MAKE = """#!/bin/bash
echo "$*" >> calls
read -r target code < fails
[ "$target" = "$1" ] || exit 0
sed -i 1d fails
[ "$code" = none ] || { mkdir -p .pytest_cache/v/stockade && echo -n "$code" > .pytest_cache/v/stockade/exit_code; }
exit 2
"""
AGAIN = "PYTEST=--last-failed --last-failed-no-failures none"


def run(place: Path, fails: str = "", compose: int = 0) -> tuple[int, str, list[str]]:
    programs = {
        ".ci/run": (ROOT / ".ci/run").read_text(),
        "bin/make": MAKE,
        "tests/e2e/compose/run.sh": f"#!/bin/sh\nexit {compose}\n",
        **dict.fromkeys(
            ["bin/apt-get", "bin/prometheus", "bin/node", "bin/npm", "bin/chromium", ".venv/bin/stockade"],
            "#!/bin/sh\n",
        ),
    }
    for name, text in programs.items():
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        (place / name).write_text(text)
        (place / name).chmod(0o755)
    (place / "fails").write_text(fails)
    stale = place / ".pytest_cache/v/stockade"
    stale.mkdir(parents=True)
    (stale / "exit_code").write_text("1")  # of a run before: says nothing about this one
    done = subprocess.run(
        [place / ".ci/run"], env={"PATH": f"{place}/bin:/usr/bin:/bin"}, capture_output=True, text=True, check=False
    )
    return done.returncode, done.stdout, (place / "calls").read_text().splitlines()


def test_every_suite_runs_once_where_nothing_fails(tmp_path):
    code, said, calls = run(tmp_path)
    assert (code, calls) == (0, [*FIRST, *SUITES])
    assert "RAN TWICE" not in said
    assert "NOT RUN" not in said


@pytest.mark.parametrize("suite", SUITES)
def test_what_failed_is_run_once_more_and_named_at_the_end(tmp_path, suite):
    code, said, calls = run(tmp_path, f"{suite} 1\n")
    assert code == 0
    assert [call for call in calls if call.startswith(f"{suite} ")] == [f"{suite} {AGAIN}"]
    assert len(calls) == len(FIRST) + len(SUITES) + 1
    assert said.splitlines()[-1] == f"RAN TWICE: {suite}"


def test_what_fails_twice_fails_and_ends_it(tmp_path):
    code, said, calls = run(tmp_path, "test 1\ntest 1\n")
    assert code != 0
    assert calls[len(FIRST) :] == ["test", f"test {AGAIN}"]
    assert "all passed" not in said


@pytest.mark.parametrize("why", ["0", "2", "3", "5", "none"])
def test_what_was_no_failed_test_is_not_run_again(tmp_path, why):
    """Too little coverage (pytest itself ended well), an interruption, an error of pytest's, or no word of it."""
    code, _, calls = run(tmp_path, f"test {why}\n")
    assert code != 0
    assert calls[len(FIRST) :] == ["test"]


def test_what_cannot_run_is_named_and_no_failure(tmp_path):
    code, said, _ = run(tmp_path, compose=77)
    assert code == 0
    assert said.splitlines()[-1].startswith("NOT RUN: test-compose")
    assert run(tmp_path / "again", compose=1)[0] == 1


def test_pytest_writes_down_how_it_ended(tmp_path):
    command = [sys.executable, "-m", "pytest", "-q", "-o", f"cache_dir={tmp_path}", "-p", "no:xdist", "-k", "no_such"]
    done = subprocess.run([*command, __file__], cwd=ROOT, capture_output=True, check=False)
    assert done.returncode == pytest.ExitCode.NO_TESTS_COLLECTED
    assert (tmp_path / "v/stockade/exit_code").read_text() == str(done.returncode)


@pytest.mark.parametrize("suite", SUITES)
def test_make_hands_on_what_is_to_be_run(suite):
    make = shutil.which("make")
    if make is None:
        pytest.skip("make is not installed")
    command = [make, "--dry-run", "--always-make", suite, "PYTEST=--last-failed"]
    said = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    (line,) = [line for line in said.splitlines() if "--last-failed" in line]
    assert "scripts/test.sh" in line or "pytest" in line
