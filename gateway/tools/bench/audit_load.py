"""A real recorder in a process of its own, and appends kept in flight on its socket: what `bench audit` times.

Closed loop: each acknowledgement sends the next append, one record each, from one event loop, as a worker has one. The
records are ordinary served requests of about one KiB (gateway/tools/bench/synthetic_log.py), each with its own id and
time.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from gateway.tools.bench.synthetic_log import entries
from ops.audit.errors import AuditUnavailable
from ops.audit.log.checkpoint import SignerKey
from ops.audit.payloads.keys import KeyStore
from ops.audit.store.client import AuditClient, Receipt
from ops.audit.store.settings import RecorderSettings

ORIGIN = "stockade.local/bench"
START_S = 60.0
POLL_S = 0.002
BACKLOG_BYTES = 64 << 20
APPEND_TIMEOUT_MS = 30_000

Append = tuple[bytes, Sequence[bytes]]


class RecorderFailed(Exception):
    """The recorder did not start, or refused what it was given."""


@dataclass(frozen=True, slots=True)
class Appended:
    """What a run acknowledged, and how long each append took, in nanoseconds."""

    count: int
    seconds: float
    latencies_ns: Sequence[int]

    @property
    def per_s(self) -> float:
        return self.count / self.seconds

    def quantile_ms(self, share: float) -> float:
        """The latency that this share of the appends did not exceed."""
        ordered = sorted(self.latencies_ns)
        return ordered[min(len(ordered) - 1, int(share * len(ordered)))] / 1e6


def new_signer() -> SignerKey:
    """A key for one benchmark's logs."""
    return SignerKey(ORIGIN, os.urandom(32))


def settings_in(home: Path, signer: SignerKey) -> RecorderSettings:
    """The defaults of a gateway's recorder, in one directory."""
    home.mkdir(parents=True, exist_ok=True)
    key = home / "log.key"
    key.write_text(signer.secret() + "\n")
    return RecorderSettings(
        directory=home / "log",
        socket=home / "s",
        origin=signer.name,
        signing_key=key,
        state_directory=home / "state",
        rings_directory=home / "rings",
    )


@contextmanager
def recorder(settings: RecorderSettings) -> Iterator[subprocess.Popen[bytes]]:
    """A recorder that accepts; told to stop at the end, with everything public, unless it is gone by then."""
    path = settings.signing_key.with_name("settings.json")
    path.write_bytes(settings.to_json())
    with listening(settings.socket, "ops.audit.store.recorder_main", os.fspath(path)) as process:
        yield process


@contextmanager
def listening(path: Path, module: str, *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    """A Python module that runs and listens on this socket; told to stop at the end."""
    path.unlink(missing_ok=True)
    with path.with_name("recorder.err").open("wb") as errors:
        command = [sys.executable, "-m", module, *arguments]
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=errors)
    try:
        _wait_ready(path, process)
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(START_S)


def _wait_ready(path: Path, process: subprocess.Popen[bytes]) -> None:
    end = time.monotonic() + START_S
    while time.monotonic() < end and process.poll() is None:
        with socket.socket(socket.AF_UNIX) as probe, suppress(OSError):
            probe.connect(os.fspath(path))
            return
        time.sleep(POLL_S)
    raise RecorderFailed(f"the recorder did not start within {START_S:g} s: {path.with_name('recorder.err')}")


def records(signer: SignerKey) -> Iterator[Append]:
    """Served requests without payloads, without end. The log begins with the recorder's own genesis entry."""
    stream = entries(1 << 40, signer.name, str(signer.verifier), time.time_ns())
    return ((entry, ()) for entry in stream if b'"kind":"served"' in entry)


def sealed_records(signer: SignerKey, store: KeyStore, payload: bytes, count: int) -> Iterator[Append]:
    """So many served requests that name one payload each, sealed as workers seal them."""
    for number, (entry, _) in zip(range(count), records(signer), strict=False):
        record_id = number.to_bytes(16, "big")
        sealed = store.seal("store-7", "subject", "2026-01", record_id, "request", payload)
        name = b'"payload":{"key":"%b","request":{"bytes":%d,"ciphertext_sha256":"%b","commitment":"%b"}},"peer"' % (
            sealed.key_ref.encode(),
            len(payload),
            sealed.sha256.encode(),
            sealed.commitment.encode(),
        )
        yield entry.replace(b'"peer"', name, 1), (sealed.ciphertext,)


async def append_for(path: Path, appends: Iterator[Append], in_flight: int, more: Callable[[int], bool]) -> Appended:
    """Keep appends in flight while `more(acknowledged)` and there are any; wait for the last.

    Raises:
        RecorderFailed: one was refused, or the recorder is not there.
    """
    loop = asyncio.get_running_loop()
    client = AuditClient(path, backlog_bytes_max=BACKLOG_BYTES, append_timeout_ms=APPEND_TIMEOUT_MS)
    try:
        await client.connect()
    except AuditUnavailable as error:
        raise RecorderFailed(str(error)) from error
    latencies: list[int] = []
    finished: asyncio.Future[None] = loop.create_future()
    open_appends = 0

    def send() -> bool:
        nonlocal open_appends
        following = next(appends, None)
        if following is None:
            return False
        open_appends += 1
        began = time.perf_counter_ns()

        def done(result: Receipt | AuditUnavailable) -> None:
            nonlocal open_appends
            latencies.append(time.perf_counter_ns() - began)
            open_appends -= 1
            if isinstance(result, AuditUnavailable):
                if not finished.done():
                    finished.set_exception(RecorderFailed(f"an append was not taken: {result}"))
            elif not (more(len(latencies)) and send()) and not open_appends and not finished.done():
                finished.set_result(None)

        client.append([following[0]], done, blobs=following[1])
        return True

    started = time.perf_counter()
    for _ in range(in_flight):
        send()
    await finished
    seconds = time.perf_counter() - started
    await client.close()
    return Appended(len(latencies), seconds, latencies)
