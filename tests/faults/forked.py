"""The recorder forked from a process that has imported it: a start costs no interpreter, and a kill is as real.

It is a process of its own, which opens every file itself after the fork; nothing of an earlier recorder is in it.
"""

import os
import subprocess
import sys
from multiprocessing import get_context
from pathlib import Path

from ops.audit.store.recorder_main import main
from ops.audit.store.settings import RecorderSettings
from tests.faults.recorder_process import RecorderProcess, launched, written

SERVER = get_context("forkserver")
SERVER.set_forkserver_preload(["__main__", __name__])


class Forked:
    """What `RecorderProcess` asks of a `subprocess.Popen`."""

    def __init__(self, settings: Path, errors: Path) -> None:
        self._errors = errors
        self._errors.write_bytes(b"")
        self._process = SERVER.Process(target=record, args=(settings, self._errors))
        self._process.start()
        assert self._process.pid is not None
        self.pid = self._process.pid
        self.returncode: int | None = None

    def poll(self) -> int | None:
        if self.returncode is None:
            self.returncode = self._process.exitcode
        return self.returncode

    def communicate(self, *, timeout: float) -> tuple[None, str]:
        """Once, as with a `Popen`: what held the process open is given back."""
        self._process.join(timeout)
        if self.poll() is None:
            raise subprocess.TimeoutExpired(str(self._errors), timeout)
        self._process.close()
        return None, self._errors.read_text()


def record(settings: Path, errors: Path) -> None:
    """In the forked process."""
    with errors.open("ab") as file:
        os.dup2(file.fileno(), sys.stderr.fileno())
    sys.exit(main([os.fspath(settings)]))


def fork(settings: RecorderSettings) -> RecorderProcess:
    """Start a recorder, as `launch` does."""
    errors = settings.socket.with_suffix(".errors")  # beside the socket: never on a file system that suffers
    recorder = RecorderProcess(settings, Forked(written(settings), errors))
    launched.append(recorder)
    return recorder
