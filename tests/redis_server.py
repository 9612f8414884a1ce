"""A real Redis for tests: a process on a socket of its own. It keeps nothing, and can be stopped, paused and asked."""

from __future__ import annotations

import atexit
import os
import shutil
import signal
import subprocess
import tempfile
import time
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from redis import Redis
from redis.exceptions import RedisError

if TYPE_CHECKING:
    from collections.abc import Iterator

BINARY = shutil.which("redis-server") or shutil.which("valkey-server")
needs_redis = pytest.mark.skipif(BINARY is None, reason="needs redis-server (Debian: redis-server)")
START_S = 20.0


class RedisServer:
    """One server. `options` are those of its command line."""

    def __init__(self, directory: Path, *options: str) -> None:
        self.socket = directory / "redis.sock"
        self._options = (
            *("--port", "0", "--unixsocket", str(self.socket), "--save", "", "--appendonly", "no"),
            *options,
        )
        self._directory = directory
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"unix:{self.socket}"

    def start(self, *options: str) -> None:
        """Start it, empty, and wait until it answers."""
        assert BINARY is not None
        with (self._directory / "log").open("ab") as log:
            command = [BINARY, *self._options, *options]
            self._process = subprocess.Popen(command, stdout=log, stderr=log, cwd=self._directory)
        end = time.monotonic() + START_S
        while True:
            try:
                with Redis(unix_socket_path=str(self.socket)) as client:
                    client.ping()
            except RedisError as problem:
                if "AUTH" in str(problem):
                    return
                assert time.monotonic() < end, (self._directory / "log").read_text()
                assert self._process.poll() is None, (self._directory / "log").read_text()
                time.sleep(0.01)
            else:
                return

    def stop(self) -> None:
        """Kill it. What it knew is gone."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None
        self.socket.unlink(missing_ok=True)

    def pause(self) -> None:
        """Let it hang: the kernel goes on taking connections and bytes for it."""
        assert self._process is not None
        os.kill(self._process.pid, signal.SIGSTOP)

    def resume(self) -> None:
        assert self._process is not None
        os.kill(self._process.pid, signal.SIGCONT)

    def ask(self, *command: Any) -> Any:
        with Redis(unix_socket_path=str(self.socket)) as client:
            return client.execute_command(*command)


@contextmanager
def redis_server(*options: str) -> Iterator[RedisServer]:
    """A server for as long as the block runs."""
    directory = Path(tempfile.mkdtemp(prefix="stockade-redis-"))  # a socket's path has to be short
    server = RedisServer(directory, *options)
    try:
        server.start()
        yield server
    finally:
        server.stop()
        shutil.rmtree(directory)


@cache
def common_server() -> RedisServer:
    """The server of all tests that only ask; it ends with the test run."""
    running = redis_server()
    server = running.__enter__()
    atexit.register(running.__exit__, None, None, None)
    return server
