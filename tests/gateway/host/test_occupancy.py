"""A state directory has one gateway at a time."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from gateway.host.occupancy import DirectoryInUse, occupied

HOLD = "import sys; from pathlib import Path; from gateway.host.occupancy import occupied\n"
HOLD += "with occupied(Path(sys.argv[1])): print('held', flush=True); sys.stdin.read()"


def test_the_second_is_refused_by_name_and_the_first_keeps_it(tmp_path):
    state = tmp_path / "state"
    with occupied(state):
        for _ in range(2):  # a refusal takes nothing away
            with pytest.raises(DirectoryInUse, match=f"{state} already"), occupied(state):
                pass
    with occupied(state):
        pass


def test_it_is_free_when_the_block_fails(tmp_path):
    with pytest.raises(BlockingIOError), occupied(tmp_path):
        raise BlockingIOError  # as anything else in there: no sentence about another gateway
    with occupied(tmp_path):
        pass


def test_one_that_was_killed_holds_nothing(tmp_path):
    command = [sys.executable, "-c", HOLD, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(DirectoryInUse), occupied(tmp_path):
            pass
        os.kill(holder.pid, signal.SIGKILL)
    with occupied(tmp_path):
        pass


def test_only_its_owner_can_look_into_what_is_made(tmp_path):
    with occupied(tmp_path / "a/state"):
        assert (tmp_path / "a/state").stat().st_mode & 0o777 == 0o700
