"""Audit logs and recorders that a benchmark makes: what `bench audit` and `bench verify` time.

- `write_log`: a log of any size, as fast as this machine can. Every byte comes from functions that the recorder uses
  (entries, tree, tiles, notes), so a verifier has exactly the work it would have; only the waiting for the disk is left
  out. Entries are those of ordinary served requests, about one KiB, each with its own id, time, scores and timings;
  heartbeats come as often as at 4,000 requests/s.
- `recorder`, `append_for`: a real recorder in a process of its own, and appends kept in flight on its socket. Closed
  loop: each acknowledgement sends the next append, one record each, from one event loop, as a worker has one.
- `python -m gateway.tools.bench.audit_load SOCKET ORIGIN` is a recorder that acknowledges at once and keeps nothing.
  Only the benchmark starts it, as the recorder that somebody else keeps (`audit.recorder: external`); a gateway has no
  setting that does without its log.
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
from functools import partial
from pathlib import Path

import uvloop

from gateway.tools.bench.runner import NotMeasured
from ops.audit.errors import AuditUnavailable
from ops.audit.log.checkpoint import Checkpoint, SignerKey, sign_note
from ops.audit.log.entry import VERSION, canonical
from ops.audit.log.merkle import fold, leaf_hashes, tree_root
from ops.audit.log.tiles import (
    ENTRIES,
    TILE_WIDTH,
    Tile,
    frame_entry,
    hash_tiles_between,
    split_entries,
    tiles_between,
)
from ops.audit.payloads.keys import KeyStore
from ops.audit.store import protocol
from ops.audit.store.client import AuditClient, Receipt
from ops.audit.store.own_entries import OwnEntries
from ops.audit.store.settings import RecorderSettings

ORIGIN = "stockade.local/bench"
START_S = 60.0
POLL_S = 0.002
BACKLOG_BYTES = 64 << 20
APPEND_TIMEOUT_MS = 30_000
APPEND_BYTES_MAX = 8 << 20
RECEIVE_BYTES = 65_536
BUILD = "stockade 0.1.0"
RECORD_NS = 250_000
HEARTBEAT_MS = 5_000
HEARTBEAT_RECORDS = HEARTBEAT_MS * 1_000_000 // RECORD_NS

_ID, _TIME, _P, _SCORE, _INFER = "<id>", "<time>", 999_001, 999_002, 999_003
"""Marks in the template entry, in the order of the keys they stand for: id, p, score, time, infer time."""


def _template() -> tuple[bytes, ...]:
    """A served request's entry, cut where each record differs."""
    digest = "5a" * 32
    entry = canonical(
        {
            "auth": {"credential": "kiosk-7-a", "method": "api_key", "principal": "7f" * 16, "tenant": "store-7"},
            "batch": {"id": 41_000, "padded": 24, "position": 7, "rows": 24, "size": 24},
            "build": BUILD,
            "config": digest,
            "decision": "harden",
            "gateway": "gateway.example.org/0",
            "id": _ID,
            "kind": "served",
            "limits": [
                {"decision": "admit", "rule": "principal:requests", "tokens": 3999},
                {"decision": "admit", "rule": "tenant:requests", "tokens": 3999},
            ],
            "method": "/inference.GRPCInferenceService/ModelInfer",
            "model": {"digest": digest, "engine": "inprocess", "name": "kiosk", "version": "1"},
            "peer": "ipv4:192.0.2.17:40112",
            "policy": digest,
            "reason": "OK",
            "rows": 1,
            "screens": [
                {
                    "digest": digest,
                    "mode": "enforce",
                    "name": "evidence",
                    "p_micro": _P,
                    "score_micro": _SCORE,
                    "technique": "AML.T0015",
                    "threshold_micro": 5_000_000,
                    "verdict": "pass",
                }
            ],
            "status": 0,
            "time_ns": _TIME,
            "timings_us": {"admit": 21, "auth": 14, "decode": 38, "infer": _INFER, "queue": 800, "total": 3100},
            "v": VERSION,
        }
    )
    parts = []
    for mark in (_ID, _P, _SCORE, _TIME, _INFER):
        before, _, entry = entry.partition(str(mark).encode())
        parts.append(before)
    return (*parts, entry)


def entries(count: int, origin: str, vkey: str, start_ns: int) -> Iterator[bytes]:
    """`count` entries of a log: genesis, then served requests with heartbeats between them."""
    clock_ns = start_ns
    number = 0
    own = OwnEntries(BUILD, lambda: clock_ns, lambda: number.to_bytes(16, "big"), HEARTBEAT_MS)
    head, after_id, after_p, after_score, after_time, tail = _template()
    yield own.genesis(origin, vkey)
    for number in range(1, count):
        clock_ns = start_ns + number * RECORD_NS
        if number % HEARTBEAT_RECORDS == 0:
            yield own.heartbeat(number // HEARTBEAT_RECORDS, number)
            continue
        spread = number * 2_654_435_761 & 0xFFFF_FFFF  # Knuth's multiplicative hash: no two neighbours alike
        yield b"%b%032x%b%d%b%d%b%d%b%d%b" % (
            *(head, number, after_id, spread % 1_000_000, after_p, spread % 4_000_000),
            *(after_score, clock_ns, after_time, 300 + spread % 1000, tail),
        )


def write_log(
    directory: Path, count: int, signer: SignerKey, start_ns: int, progress: Callable[[int], None]
) -> Checkpoint:
    """Write a whole log and return its head. `progress` is called with the number of entries written."""
    leaves: list[bytes] = []
    stream = entries(count, signer.name, str(signer.verifier), start_ns)
    for tile in tiles_between(ENTRIES, 0, count):
        bundle = [next(stream) for _ in range(tile.width)]
        leaves += leaf_hashes(bundle)
        _write(directory, tile, b"".join(map(frame_entry, bundle)))
        progress(len(leaves))
    levels = [leaves]
    while len(levels[-1]) >= TILE_WIDTH:
        below = levels[-1]
        full = range(0, len(below) - TILE_WIDTH + 1, TILE_WIDTH)
        levels.append([fold(below[first : first + TILE_WIDTH]) for first in full])
    for tile in hash_tiles_between(0, count):
        first = tile.index * TILE_WIDTH
        _write(directory, tile, b"".join(levels[tile.level][first : first + tile.width]))
    head = Checkpoint(signer.name, count, tree_root(leaves))
    (directory / "checkpoint").write_bytes(sign_note(head.text(), [signer]))
    return head


def _write(directory: Path, tile: Tile, data: bytes) -> None:
    path = directory / tile.path
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


Append = tuple[bytes, Sequence[bytes]]


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
    raise NotMeasured(f"the recorder did not start within {START_S:g} s: {path.with_name('recorder.err')}")


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
        NotMeasured: one was refused, or the recorder is not there.
    """
    loop = asyncio.get_running_loop()
    client = AuditClient(path, backlog_bytes_max=BACKLOG_BYTES, append_timeout_ms=APPEND_TIMEOUT_MS)
    try:
        await client.connect()
    except AuditUnavailable as error:
        raise NotMeasured(str(error)) from error
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
                    finished.set_exception(NotMeasured(f"an append was not taken: {result}"))
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


async def _acknowledge(origin: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answer one worker until it hangs up."""
    size, inbox = 0, b""
    writer.write(protocol.hello(origin, 1, size, APPEND_BYTES_MAX))
    while received := await reader.read(RECEIVE_BYTES):
        inbox += received
        appends, taken = protocol.split_messages(inbox, APPEND_BYTES_MAX + protocol.HEAD_BYTES)
        inbox = inbox[taken:]
        if appends:
            writer.write(protocol.reply(protocol.ACK, len(appends), size))
            size += sum(len(split_entries(records)) for records, _ in appends)
    writer.close()


async def acknowledge_all(path: str, origin: str) -> None:
    """Acknowledge until SIGTERM."""
    ended = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, ended.set)
    async with await asyncio.start_unix_server(partial(_acknowledge, origin), path):
        await ended.wait()


if __name__ == "__main__":
    uvloop.run(acknowledge_all(sys.argv[1], sys.argv[2]))
