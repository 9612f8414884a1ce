"""A real recorder in a process of its own, for the tests of everything around it."""

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from subprocess import DEVNULL
from typing import Protocol

from ops.audit.log.checkpoint import SignerKey
from ops.audit.store.client import AuditClient
from ops.audit.store.settings import RecorderSettings

ORIGIN = "example.test/log"
KEY = SignerKey(ORIGIN, sha256(b"a key for tests").digest())
RECORDER = "ops.audit.store.recorder_main"
SEGMENT_BYTES = 1 << 20

launched: list["RecorderProcess"] = []  # in this test, so that a failing test leaves none behind


def settings_in(home: Path, **changes: object) -> RecorderSettings:
    """A small log below `home`: segments of 1 MiB, so that starting costs little and rotation happens."""
    home.mkdir(parents=True, exist_ok=True)
    key = home / "log.key"
    if not key.exists():
        key.write_text(KEY.secret() + "\n")
    small = RecorderSettings(
        directory=home / "log",
        socket=home / "s",
        origin=ORIGIN,
        signing_key=key,
        state_directory=home / "state",
        rings_directory=home / "rings",
        append_bytes_max=SEGMENT_BYTES // 2,
        segment_bytes=SEGMENT_BYTES,
        publish_every_ms=50,
        reserve_bytes=0,
        disk_warn_percent=99,  # how full this machine's disk is, is not what most tests are about
        disk_stop_percent=100,
    )
    return replace(small, **changes)


class Child(Protocol):
    """Of `subprocess.Popen`, what is asked here."""

    pid: int
    returncode: int | None

    def poll(self) -> int | None: ...

    def communicate(self, *, timeout: float) -> tuple[str | None, str | None]: ...


@dataclass
class RecorderProcess:
    """One run of the recorder; `errors` is its standard error once it has ended."""

    settings: RecorderSettings
    process: Child
    wrapped: bool = False
    errors: str = ""

    @property
    def pid(self) -> int:
        """The recorder's own process, below strace too (which does not pass signals on)."""
        pid = self.process.pid
        if self.wrapped:
            pid = int(Path(f"/proc/{pid}/task/{pid}/children").read_text().split()[0])
        return pid

    def wait_ready(self, seconds: float = 60) -> "RecorderProcess":
        """Until the socket accepts."""
        end = time.monotonic() + seconds
        while time.monotonic() < end and self.process.poll() is None:
            with socket.socket(socket.AF_UNIX) as probe, suppress(OSError):
                probe.connect(os.fspath(self.settings.socket))
                return self
            time.sleep(0.01)
        raise AssertionError(f"the recorder did not start: {self.ended()} {self.errors}")

    def ended(self, seconds: float = 60) -> int:
        """The exit code, once it is there."""
        _, errors = self.process.communicate(timeout=seconds)
        self.errors += errors or ""
        assert self.process.returncode is not None
        return self.process.returncode

    def stop(self) -> int:
        os.kill(self.pid, signal.SIGTERM)
        return self.ended()

    def kill(self) -> None:
        if self.process.poll() is None:
            with suppress(ProcessLookupError):  # it ended meanwhile, and a forked one is waited for by the fork server
                os.kill(self.pid, signal.SIGKILL)
        self.ended()

    def events(self) -> list[dict[str, object]]:
        return [json.loads(line) for line in self.errors.splitlines() if line.startswith("{")]


def written(settings: RecorderSettings) -> Path:
    """The file of the settings; no socket of an earlier run is left, so that ready means the next one."""
    path = settings.signing_key.with_name("settings.json")
    path.write_bytes(settings.to_json())
    settings.socket.unlink(missing_ok=True)
    return path


def launch(
    settings: RecorderSettings, *wrapper: str, stdin: int = DEVNULL, program: tuple[str, ...] = (RECORDER,)
) -> RecorderProcess:
    """Start a recorder, below `wrapper` (strace, for one) where given. With a pipe for `stdin` it is on a leash.

    `program` is the module that is run, with arguments before that of the settings.
    """
    command = [*wrapper, sys.executable, "-m", *program, os.fspath(written(settings))]
    # Whoever measures coverage writes a file at the end, and trips over the faults that are meant for the recorder.
    untouched = {name: value for name, value in os.environ.items() if not name.startswith("COV")}
    process = subprocess.Popen(command, stdin=stdin, stderr=subprocess.PIPE, text=True, env=untouched)
    recorder = RecorderProcess(settings, process, bool(wrapper))
    launched.append(recorder)
    return recorder


async def eventually(condition: Callable[[], bool], seconds: float = 60) -> None:
    """Until another process has done something that only shows in files."""
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110 (there is no event to wait for across processes)
            await asyncio.sleep(0.01)


def client_of(settings: RecorderSettings, **changes: int) -> AuditClient:
    limits = {"backlog_bytes_max": 1 << 24, "append_timeout_ms": 20_000, **changes}
    return AuditClient(settings.socket, **limits)
