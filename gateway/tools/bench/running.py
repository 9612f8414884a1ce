"""Start a server, wait until it answers a real client, stop it and all it started.

Rules: every server has a process group of its own, standard output and error in a file, and is stopped by number in
`finally`: SIGTERM to the group, after a grace SIGKILL to whatever of its tree still lives. A server counts as started
when a gRPC client got a prediction from it and read it.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import grpc

from gateway.tools.bench.frame import METHOD, NotAnAnswer, read_answer
from gateway.tools.bench.procfs import ProcessTree

PROBE_TIMEOUT_S = 5.0
POLL_S = 0.1
TERM_GRACE_S = 15.0
LOG_TAIL_BYTES = 1000


class StartFailed(Exception):
    """The server did not answer. `log_tail` is the end of what it printed."""

    def __init__(self, problem: str, log_tail: str) -> None:
        super().__init__(problem)
        self.log_tail = log_tail


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where a server answers. `authority` is the PEM of who signed its certificate; None means plaintext.

    `answered` reads the server's own count of calls by gRPC status, where it keeps one.
    """

    port: int
    headers: tuple[tuple[str, str], ...] = ()
    authority: bytes | None = None
    answered: Callable[[], Mapping[str, int]] | None = None

    @property
    def url(self) -> str:
        return f"{'http' if self.authority is None else 'https'}://127.0.0.1:{self.port}{METHOD}"


@dataclass(frozen=True, slots=True)
class Launch:
    """How to start a server. `environment` is added to ours; `attempts` is above 1 where starting fails at times."""

    command: Sequence[str]
    endpoint: Endpoint
    directory: Path
    environment: Mapping[str, str] = field(default_factory=dict)
    start_seconds_max: float = 180.0
    attempts: int = 1


@dataclass(frozen=True, slots=True)
class Running:
    """A server that answers. `reply_bytes` is the size of one reply, a real client's."""

    endpoint: Endpoint
    tree: ProcessTree
    reply_bytes: int


def free_ports(count: int) -> list[int]:
    """Port numbers on loopback that nobody uses at this moment."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


def free_pair() -> int:
    """A port number on loopback that nobody uses, nor the next one: peers put their HTTP beside their gRPC."""
    while True:
        (port,) = free_ports(1)
        with contextlib.suppress(OSError, OverflowError), socket.socket() as beside:
            beside.bind(("127.0.0.1", port + 1))
            return port


def probe(endpoint: Endpoint, request: bytes) -> bytes:
    """One call with an ordinary gRPC client. Raises grpc.RpcError, or NotAnAnswer when the reply is no prediction."""
    address = f"127.0.0.1:{endpoint.port}"
    options = [("grpc.enable_http_proxy", 0)]
    if endpoint.authority is None:
        channel = grpc.insecure_channel(address, options)
    else:
        channel = grpc.secure_channel(address, grpc.ssl_channel_credentials(endpoint.authority), options)
    with channel:
        call: grpc.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(METHOD)
        reply = call(request, metadata=endpoint.headers, timeout=PROBE_TIMEOUT_S)
    read_answer(reply)
    return reply


@contextlib.contextmanager
def running(launch: Launch, request: bytes) -> Iterator[Running]:
    """The server, from its first answer to its end. Raises StartFailed."""
    launch.directory.mkdir(parents=True, exist_ok=True)
    log = launch.directory / "output.log"
    for attempt in range(1, launch.attempts + 1):
        process = _spawn(launch, log)
        tree = ProcessTree(process.pid)
        try:
            reply_bytes = _wait_until_it_answers(launch, process, request)
            if reply_bytes is None:
                if attempt < launch.attempts:
                    continue
                raise StartFailed(f"{launch.command[0]} did not answer", _tail(log))
            yield Running(launch.endpoint, tree, reply_bytes)
            return
        finally:
            _stop(process, tree)


def _spawn(launch: Launch, log: Path) -> subprocess.Popen[bytes]:
    with log.open("ab") as output:
        return subprocess.Popen(  # no shell; the commands are written in targets.py
            launch.command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env=os.environ | dict(launch.environment),
            start_new_session=True,
        )


def _wait_until_it_answers(launch: Launch, process: subprocess.Popen[bytes], request: bytes) -> int | None:
    """The size of the first reply; None when the process ended or the time is up."""
    give_up = time.monotonic() + launch.start_seconds_max
    while process.poll() is None and time.monotonic() < give_up:
        try:
            return len(probe(launch.endpoint, request))
        except (grpc.RpcError, NotAnAnswer):
            time.sleep(POLL_S)
    return None


def _stop(process: subprocess.Popen[bytes], tree: ProcessTree) -> None:
    tree.living()  # know them all before their parents go
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(TERM_GRACE_S)
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)  # also those of the group that were started and orphaned unseen
    while living := tree.living():
        for pid in living:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        process.poll()
        time.sleep(POLL_S)
    process.wait()


def _tail(log: Path) -> str:
    return log.read_bytes()[-LOG_TAIL_BYTES:].decode(errors="replace").strip()
