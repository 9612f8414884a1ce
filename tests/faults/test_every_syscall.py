"""Every system call that the recorder makes while it appends and publishes, made to fail or to kill: by strace.

The recorder is started as usual and strace attached to it, so that the count of calls (`when`) begins with the load. It
either goes on, or ends with one of its exit codes; the next start works by itself. Short writes are the simulation's
(`test_simulation.py`): strace can only say that a call did less than it did, which is a lie and no short write.
"""

import asyncio
import random
import signal
import subprocess
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from ops.audit.errors import AppenderRunning, LogFull, Poisoned, RecorderError
from tests.faults import tracing
from tests.faults.effort import FULL, SEED, effort
from tests.faults.forked import fork
from tests.faults.load import Load
from tests.faults.oracle import Oracle
from tests.faults.recorder_process import RecorderProcess, client_of, settings_in

pytestmark = [
    pytest.mark.skipif(bool(tracing.why_not()), reason=tracing.why_not() or "strace works"),
    pytest.mark.slow,
]

# What a recorder calls once it serves, found by `strace -f -c`; not memory and scheduling (mmap, futex, ...), which
# fail in other ways than these, and not exit.
CALLS = ("pwritev", "fdatasync", "fsync", "openat", "write", "rename", "close", "mkdir", "unlink", "getdents64")
CALLS += ("newfstatat", "fstat", "read", "pread64", "pwrite64", "fcntl", "lseek", "statfs", "ftruncate", "fallocate")
CALLS += ("recvfrom", "sendto", "epoll_wait", "epoll_ctl", "accept4", "ioctl", "unlinkat", "rmdir")
APPENDS = effort(100, 200)
PATIENCE = 20  # so many times APPENDS, where nothing was injected
FAULTS = ("error=EIO", "error=ENOSPC", "error=EINTR", "signal=SIGKILL")
LOOK = (
    *((call, "error=EIO") for call in ("pwritev", "write", "openat", "sendto", "pwrite64")),
    ("rename", "error=ENOSPC"),
    ("fsync", "error=EINTR"),
    ("recvfrom", "signal=SIGKILL"),
)
BETWEEN = (  # epochs: what is called there and seldom elsewhere
    *((call, "error=EIO") for call in ("mkdir", "rmdir", "unlinkat", "rename", "fsync")),
    ("mkdir", "error=ENOSPC"),
    *((call, "signal=SIGKILL") for call in ("mkdir", "unlinkat")),
)
EVERY = tuple((call, fault) for call in CALLS for fault in FAULTS)
PLACES = effort(((1, 4),), ((1, 1), (2, 6), (7, 25), (26, 50), (51, 100)))  # which call of a thread it is
ENDS = {0, Poisoned.exit_code, LogFull.exit_code, AppenderRunning.exit_code, RecorderError.exit_code, -9}


@contextmanager
def attached(recorder: RecorderProcess, output: Path, inject: str) -> Iterator[None]:
    """strace with this injection on a running recorder and all its threads."""
    command = ["strace", "-f", "-o", str(output), "-e", f"inject={inject}", "-p", str(recorder.pid)]
    tracer = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert tracer.stderr is not None
    assert "attached" in tracer.stderr.readline()
    try:
        yield
    finally:
        tracer.send_signal(signal.SIGINT)
        tracer.communicate(timeout=60)


async def suffer(recorder: RecorderProcess, oracle: Oracle, output: Path, inject: str, appends: int) -> None:
    """Load a recorder whose calls fail, until it has ended, or has acknowledged enough and a call has failed.

    strace may need longer to stop the first call than the recorder for all appends: the load goes on for as long.
    """
    client = client_of(recorder.settings)
    await client.connect()
    load = Load(client, oracle, in_flight=4)
    with attached(recorder, output, inject):
        load.start()
        async with asyncio.timeout(60):
            while recorder.process.poll() is None and (  # noqa: ASYNC110 (which is first)
                load.acknowledged < appends or (load.acknowledged < appends * PATIENCE and not was_injected(output))
            ):
                await asyncio.sleep(0.005)
        load.stop()
        oracle.saw_checkpoint(recorder.settings.directory)
    await client.close()


@pytest.mark.timeout(effort(180, 4 * 3600))
@pytest.mark.parametrize(("records", "look"), [(0, LOOK), (100, BETWEEN)], ids=["one epoch", "many epochs"])
async def test_whatever_call_fails_nothing_acknowledged_is_lost(tmp_path: Path, records, look, counted):
    places = random.Random(SEED)
    settings = settings_in(
        tmp_path,
        publish_every_ms=10,
        heartbeat_ms=50,
        append_bytes_max=65_536,
        segment_bytes=131_072,
        epoch_records_max=records,
    )
    oracle = Oracle()
    ends: Counter[int] = Counter()
    injected: Counter[str] = Counter()
    for call, fault in EVERY if FULL else look:
        for place in PLACES:
            where = f"{call}:{fault}:when={places.randint(*place)}"
            output = tmp_path / "trace"
            recorder = fork(settings).wait_ready()
            await suffer(recorder, oracle, output, where, APPENDS)
            code = recorder.stop() if recorder.process.poll() is None else recorder.ended()
            assert code in ENDS or stopped_at_its_end(code, recorder), (where, code, recorder.errors)
            assert "Traceback" not in recorder.errors, (where, recorder.errors)
            ends[code] += 1
            injected[call] += was_injected(output)
        if FULL:
            check(settings, oracle)
    check(settings, oracle)
    if not FULL:
        assert injected.total() >= len(look) * 3 // 4
    counted(
        "system calls",
        runs=ends.total(),
        calls=sum(count > 0 for count in injected.values()),
        injected=injected.total(),
        survived=ends[0],
        acknowledged=len(oracle.acknowledged),
        lost=0,
    )


def was_injected(output: Path) -> bool:
    """Whether strace has written that it made a call fail, or killed at one."""
    text = output.read_text(errors="replace")
    return "(INJECTED)" in text or "killed by SIGKILL" in text


def stopped_at_its_end(code: int, recorder: RecorderProcess) -> bool:
    """Whether our SIGTERM met one that had said why it ends: Python gives its handlers up a moment before the end."""
    return code == -signal.SIGTERM and any(event["event"] == "recorder-failed" for event in recorder.events())


def check(settings, oracle: Oracle) -> None:
    """Start once more without any fault, and hold the log against the oracle."""
    recorder = fork(settings).wait_ready()
    assert recorder.stop() == 0, recorder.errors
    oracle.check(settings.directory)
