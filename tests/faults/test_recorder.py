"""The recorder as a process: starting, stopping, refusing, and what it makes of dead workers and full disks."""

import asyncio
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import asynccontextmanager, closing
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from ops.audit.errors import AppenderRunning, AuditUnavailable, ForkRefused, LogCorrupted, RecorderError
from ops.audit.log.checkpoint import SignerKey
from ops.audit.log.entry import parse
from ops.audit.reader.read import LogReader
from ops.audit.store.client import AuditClient, Receipt
from ops.audit.store.own_entries import OwnEntries
from ops.audit.store.segments import HEADER_BYTES
from ops.audit.store.settings import RecorderSettings
from ops.audit.verify.verify import verify_log
from ops.metrics import RecorderMetrics, expose
from ops.process.logging import FIELDS
from tests.faults.recorder_process import (
    KEY,
    SEGMENT_BYTES,
    RecorderProcess,
    client_of,
    eventually,
    launch,
    settings_in,
)
from tests.ops.audit.samples import number_id, small


def entries_of(settings: RecorderSettings) -> list[dict[str, object]]:
    report = verify_log(settings.directory, [str(KEY.verifier)], processes=0)
    assert report.exit_code == 0, report.findings
    reader = LogReader.open(settings.directory, KEY.verifier)
    return [parse(data) for data in reader.entries(0, reader.checkpoint.size)]


def kinds(settings: RecorderSettings) -> list[str]:
    return [str(entry["kind"]) for entry in entries_of(settings) if entry["kind"] != "heartbeat"]


async def connected(settings: RecorderSettings) -> AuditClient:
    client = client_of(settings)
    await client.connect()
    return client


@asynccontextmanager
async def served(
    settings: RecorderSettings, stdin: int = subprocess.DEVNULL
) -> AsyncIterator[tuple[RecorderProcess, AuditClient]]:
    """A recorder and a client of it; in the end the client hangs up, and the recorder stops as it should."""
    recorder = launch(settings, stdin=stdin).wait_ready()
    client = await connected(settings)
    yield recorder, client
    await client.close()
    assert recorder.stop() == 0, recorder.errors


async def append(client: AuditClient, entries: list[bytes]) -> Receipt | AuditUnavailable:
    future: asyncio.Future[Receipt | AuditUnavailable] = asyncio.get_running_loop().create_future()
    client.append(entries, future.set_result)
    return await future


async def test_a_log_begins_with_genesis_and_every_start_after_it_says_recover(tmp_path):
    settings = settings_in(tmp_path)
    for _ in range(2):
        recorder = launch(settings).wait_ready()
        assert recorder.stop() == 0, recorder.errors
    recorder = launch(settings).wait_ready()
    recorder.kill()
    recorder = launch(settings).wait_ready()
    assert recorder.stop() == 0, recorder.errors
    found = entries_of(settings)
    assert kinds(settings) == ["genesis", "recover", "recover", "recover"]
    assert (found[0]["origin"], found[0]["vkey"]) == (KEY.name, str(KEY.verifier))
    assert next(entry for entry in found if entry["kind"] == "recover")["cause"] == "restart"


async def test_a_stop_commits_what_has_arrived_and_publishes_it_all(tmp_path):
    settings = settings_in(tmp_path, publish_every_ms=60_000, heartbeat_ms=60_000)
    recorder = launch(settings).wait_ready()
    client = await connected(settings)
    receipts = await asyncio.gather(*(append(client, [small(n)]) for n in range(500)))
    assert recorder.stop() == 0, recorder.errors
    await client.close()
    assert {type(each) for each in receipts} == {Receipt}
    assert len([kind for kind in kinds(settings) if kind == "refused"]) == 500


@pytest.mark.parametrize(("level", "told"), [("info", ["recorder-ready", "recorder-stopped"]), ("warning", [])])
def test_the_recorder_logs_as_everybody_does_and_at_the_level_it_was_told(tmp_path, level, told):
    recorder = launch(settings_in(tmp_path, log_level=level)).wait_ready()
    assert recorder.stop() == 0, recorder.errors
    lines = recorder.events()
    assert [line["event"] for line in lines] == told
    assert {line["role"] for line in lines} <= {"recorder"}
    assert all(line.keys() <= {"time", "level", "event", *FIELDS} for line in lines)  # nothing dropped, nothing else
    assert len(lines) == len(recorder.errors.splitlines())


def test_why_it_refuses_is_a_sentence_and_a_place(tmp_path):
    settings = settings_in(tmp_path)
    settings.signing_key.unlink()
    recorder = launch(settings)
    assert recorder.ended() == RecorderError.exit_code
    (line,) = recorder.events()
    assert (line["level"], line["event"]) == ("error", "recorder-refused")
    assert (line["problem"], line["file"]) == ("No such file or directory", os.fspath(settings.signing_key))


async def test_what_the_recorder_counts_is_on_the_page_of_metrics_and_goes_on_after_a_restart(tmp_path):
    metrics = tmp_path / "metrics"
    settings = settings_in(tmp_path, metrics_directory=metrics, heartbeat_ms=60_000)
    before_s = time.time()
    for run in (1, 2):
        recorder = launch(settings).wait_ready()
        client = await connected(settings)
        assert isinstance(await append(client, [small(1), small(2)]), Receipt)
        await client.close()
        counted = "stockade_audit_records_total", "refused"  # after the acknowledgement
        await eventually(lambda counted=counted, run=run: series(metrics)[counted] == 2 * run)
        found = series(metrics)
        assert found["stockade_audit_last_durable_timestamp_seconds", None] >= before_s
        assert recorder.stop() == 0, recorder.errors
        assert series(metrics)["stockade_audit_tree_size", None] == len(entries_of(settings))


def test_a_name_among_the_metrics_that_is_taken_is_a_reason_to_refuse(tmp_path):
    metrics = tmp_path / "metrics"
    other = RecorderMetrics(metrics, "recorder", kinds=["served"])
    recorder = launch(settings_in(tmp_path, metrics_directory=metrics))
    assert recorder.ended() == RecorderError.exit_code
    assert "writes metrics as recorder" in str(recorder.events()[-1]["problem"])
    other.close()


def series(metrics: Path) -> dict[tuple[str, str | None], float]:
    """The page, by name and kind of entry."""
    families = text_string_to_metric_families(expose(metrics).decode())
    return {(each.name, each.labels.get("kind")): each.value for family in families for each in family.samples}


SUPERVISOR = """
import subprocess, sys, time
child = subprocess.Popen([sys.executable, "-m", "ops.audit.store.recorder_main", sys.argv[1]], stdin=subprocess.PIPE)
print(child.pid, flush=True)
time.sleep(600)
"""


async def test_a_recorder_whose_supervisor_was_killed_publishes_and_leaves_the_log_to_the_next(tmp_path):
    settings = settings_in(tmp_path, publish_every_ms=60_000, heartbeat_ms=60_000)
    config = tmp_path / "settings.json"
    config.write_bytes(settings.to_json())
    command = [sys.executable, "-c", SUPERVISOR, os.fspath(config)]
    supervisor = await asyncio.create_subprocess_exec(*command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    assert supervisor.stdout is not None
    recorder = int(await supervisor.stdout.readline())
    try:
        client = await connected(settings)
        receipts = await asyncio.gather(*(append(client, [small(n)]) for n in range(50)))
        supervisor.kill()
        await supervisor.wait()
        await eventually(lambda: not running(recorder))
    finally:
        if running(recorder):
            os.kill(recorder, signal.SIGKILL)
    await client.close()
    assert {type(each) for each in receipts} == {Receipt}
    assert kinds(settings).count("refused") == 50
    assert launch(settings).wait_ready().stop() == 0


def running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):  # the latter when it goes between open and read
        return False


@pytest.mark.parametrize("kind", ["pipe", "socket"])
async def test_what_is_said_on_the_leash_means_nothing_and_its_end_means_stop(tmp_path, kind):
    """asyncio gives a child a socket where others give it a pipe."""
    ours, theirs = (each.detach() for each in socket.socketpair()) if kind == "socket" else reversed(os.pipe())
    settings = settings_in(tmp_path)
    recorder = launch(settings, stdin=theirs).wait_ready()
    os.close(theirs)
    os.write(ours, b'{"do":"nothing"}\n')
    client = await connected(settings)
    assert isinstance(await append(client, [small(1)]), Receipt)
    os.close(ours)
    assert await asyncio.to_thread(recorder.ended) == 0, recorder.errors
    await client.close()
    assert kinds(settings) == ["genesis", "refused"]


async def test_a_recorder_started_by_hand_goes_on_without_an_input(tmp_path):
    """/dev/null is at its end from the beginning; so is a terminal after Ctrl-D."""
    keeper, terminal = os.openpty()
    for stdin in (subprocess.DEVNULL, terminal):
        settings = settings_in(tmp_path)
        recorder = launch(settings, stdin=stdin).wait_ready()
        os.write(keeper, b"\x04")
        client = await connected(settings)
        assert isinstance(await append(client, [small(1)]), Receipt)
        await client.close()
        assert recorder.stop() == 0, recorder.errors
    os.close(keeper)
    os.close(terminal)


async def test_a_second_appender_is_refused_and_the_first_goes_on(tmp_path):
    settings = settings_in(tmp_path)
    async with served(settings) as (_, client):
        config = settings.signing_key.with_name("settings.json")
        second = await asyncio.to_thread(
            subprocess.run,
            [sys.executable, "-m", "ops.audit.store.recorder_main", os.fspath(config)],
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
        assert second.returncode == AppenderRunning.exit_code
        assert "AppenderRunning" in second.stderr
        assert isinstance(await append(client, [small(1)]), Receipt)


def test_a_database_that_somebody_holds_may_be_free_the_next_time(tmp_path):
    """A backup, for one: the code says that it may pass, and not that the settings are wrong."""
    settings = settings_in(tmp_path)
    assert launch(settings).wait_ready().stop() == 0
    with closing(sqlite3.connect(settings.state_directory / "lock.sqlite", isolation_level=None)) as holder:
        holder.execute("PRAGMA locking_mode=EXCLUSIVE")
        holder.execute("BEGIN EXCLUSIVE")
        refused = launch(settings)
        assert refused.ended() == AppenderRunning.exit_code
    assert "locked" in str(refused.events()[-1]["problem"])
    assert launch(settings).wait_ready().stop() == 0


async def test_heartbeats_come_while_idle(tmp_path):
    settings = settings_in(tmp_path, heartbeat_ms=20)
    recorder = launch(settings).wait_ready()
    await eventually((settings.directory / "checkpoint").exists)
    await eventually(lambda: heartbeats(settings) >= 2)
    assert recorder.stop() == 0, recorder.errors
    beats = [entry["sequence"] for entry in entries_of(settings) if entry["kind"] == "heartbeat"]
    assert len(beats) >= 2
    assert beats == list(range(1, len(beats) + 1))


async def test_damage_in_the_middle_stops_the_recorder_and_says_where(tmp_path):
    settings = settings_in(tmp_path, publish_every_ms=60_000)
    recorder = launch(settings).wait_ready()
    client = await connected(settings)
    for number in range(3):
        await append(client, [small(number)])
    await client.close()
    recorder.kill()
    segment = next((settings.state_directory / "segments").glob("*.seg"))
    data = bytearray(segment.read_bytes())
    data[HEADER_BYTES + 60] ^= 1
    segment.write_bytes(data)
    broken = launch(settings)
    assert broken.ended() == LogCorrupted.exit_code
    assert segment.name in str(broken.events()[-1]["file"])
    data[HEADER_BYTES + 60] ^= 1
    segment.write_bytes(data)
    assert launch(settings).wait_ready().stop() == 0
    assert kinds(settings).count("refused") == 3


@pytest.mark.parametrize("restored", ["shorter", "forked", "nothing"])
async def test_an_old_log_put_back_is_refused_before_anything_is_accepted(tmp_path, restored):
    """The signer's memory beside the key is newer: shorter than what was signed, as long but other, or gone."""
    settings = settings_in(tmp_path, heartbeat_ms=60_000)
    places, old = ("log", "state"), tmp_path / "old"
    await grow(settings, range(5))
    for name in places:
        shutil.copytree(tmp_path / name, old / name)
    rewound = (tmp_path / "log.signed").read_bytes()
    await grow(settings, range(5, 10))
    newest = (tmp_path / "log.signed").read_bytes()
    for name in places:
        shutil.rmtree(tmp_path / name)
        if restored != "nothing":
            shutil.copytree(old / name, tmp_path / name)
    if restored == "forked":  # the old copy went on elsewhere, past what was signed here
        (tmp_path / "log.signed").write_bytes(rewound)
        await grow(settings, range(100, 120))
        (tmp_path / "log.signed").write_bytes(newest)
    before = contents(tmp_path)
    refused = launch(settings)
    assert refused.ended() == ForkRefused.exit_code == 76
    assert "older copy" in refused.errors
    assert contents(tmp_path) == before  # no entry, no segment, no checkpoint


async def grow(settings: RecorderSettings, numbers: Iterable[int]) -> None:
    """One run of the recorder that takes these entries and publishes them."""
    async with served(settings) as (_, client):
        assert isinstance(await append(client, [small(number) for number in numbers]), Receipt)


def contents(home: Path) -> dict[Path, bytes]:
    """What a start could have added to: segments, the public log, the signer's memory."""
    places = [home / "log", home / "state" / "segments"]
    files = [path for place in places for path in place.rglob("*") if path.is_file()]
    return {path: path.read_bytes() for path in [*files, home / "log.signed"]}


async def test_what_breaks_the_protocol_is_hung_up_on_and_hurts_nobody(tmp_path):
    settings = settings_in(tmp_path)
    async with served(settings) as (_, client):
        for rubbish in (b"\xff" * 64, b"\0\0\0\3xxxxx", b"\0\0\0\x08\0\0\0\x09xxxx"):
            reader, writer = await asyncio.open_unix_connection(settings.socket)
            writer.write(rubbish)
            await writer.drain()
            assert b"origin" in await reader.read()  # the hello, then the end
            writer.close()
            await writer.wait_closed()
        assert isinstance(await append(client, [small(1)]), Receipt)


async def test_no_worker_forges_the_recorders_own_word(tmp_path):
    """One heartbeat with a number of its own would make the log tampered for ever; a gap would excuse a silence."""
    settings = settings_in(tmp_path)
    async with served(settings) as (recorder, client):
        own = OwnEntries("forged", time.time_ns, lambda: bytes(16), 5000)
        forged = [
            own.heartbeat(999_999, 1),
            own.gap("open", "disk-full", 0),
            own.recover(1, bytes(32), torn_bytes=0, unpublished=0),
            own.genesis(KEY.name, str(KEY.verifier)),
            own.outcome_unknown(bytes(16), b"{}", b"{}"),
        ]
        for entries in ([each] for each in forged):
            answer = await append(client, entries)
            assert isinstance(answer, AuditUnavailable)
            assert (answer.reason, answer.detail) == ("log_refused", "invalid entry")
        assert isinstance(await append(client, [small(1)]), Receipt)
    assert kinds(settings) == ["genesis", "refused"]
    told = [(line["level"], line["event"], line["role"]) for line in recorder.events()]
    assert told.count(("error", "append-refused", "recorder")) == len(forged)


async def test_a_frozen_recorder_is_not_available_until_it_goes_on(tmp_path):
    settings = settings_in(tmp_path)
    recorder = launch(settings).wait_ready()
    client = client_of(settings, append_timeout_ms=2000)
    await client.connect()
    assert isinstance(await append(client, [small(1)]), Receipt)
    os.kill(recorder.pid, signal.SIGSTOP)
    try:
        answer = await append(client, [small(2)])
        assert isinstance(answer, AuditUnavailable)
        assert answer.reason == "append_timeout"
        assert not client.available
    finally:
        os.kill(recorder.pid, signal.SIGCONT)
    await eventually(lambda: client.available)  # though nobody appends
    await client.close()
    assert recorder.stop() == 0, recorder.errors


WORKER = """
import os, sys
from pathlib import Path
from ops.audit.store.ring import InflightRing
context = b'{"build":"9.9","gateway":"host/0","config":"%s"}' % (b"c" * 64)
ring = InflightRing.open(Path(sys.argv[1]) / "0.ring", 8, context)
for number in sys.argv[2].split(","):
    ring.enter(bytes.fromhex(number), b'{"method":"/m/Infer","peer":"ipv4:192.0.2.1:1"}')
done = ring.enter(b"d" * 16, b"{}")
ring.leave(done)
os.kill(os.getpid(), 9)
"""


async def test_what_a_dead_worker_had_in_flight_becomes_outcome_unknown_once(tmp_path):
    settings = settings_in(tmp_path, heartbeat_ms=20)
    async with served(settings) as (_, client):
        assert isinstance(await append(client, [small(1)]), Receipt)  # recorded, but its worker died before `leave`
        in_flight = [number_id(1), number_id(2), number_id(3)]
        command = [sys.executable, "-c", WORKER, os.fspath(settings.rings_directory), ",".join(in_flight)]
        ended = await asyncio.to_thread(subprocess.run, command, check=False)
        assert ended.returncode == -9
        await eventually(lambda: not list(settings.rings_directory.iterdir()))
    unknown = [entry for entry in entries_of(settings) if entry["kind"] == "outcome-unknown"]
    assert [entry["id"] for entry in unknown] == in_flight[1:]
    assert {(entry["build"], entry["gateway"], entry["method"]) for entry in unknown} == {("9.9", "host/0", "/m/Infer")}


SENDER = """
import os, socket, sys
from pathlib import Path
from ops.audit.store import protocol
from ops.audit.store.ring import InflightRing
from tests.ops.audit.samples import number_id, small
directory, path = sys.argv[1:]
sock = socket.socket(socket.AF_UNIX)
sock.connect(path)
sock.recv(65536)
ring = InflightRing.open(Path(directory) / "0.ring", 8, b'{"build":"9.9","gateway":"host/0"}')
for number in (1, 2):
    ring.enter(bytes.fromhex(number_id(number)), b'{"method":"/m/Infer","peer":"ipv4:192.0.2.1:1"}')
print("ready", flush=True)
sys.stdin.readline()
sock.sendall(protocol.append_message([small(1)], []))
os.kill(os.getpid(), 9)
"""


async def test_what_a_dead_worker_had_sent_is_recorded_as_it_said_and_not_as_unknown_too(tmp_path):
    """The recorder finds the ring and what was sent in the same turn."""
    settings = settings_in(tmp_path, heartbeat_ms=20)
    recorder = launch(settings).wait_ready()
    command = [sys.executable, "-c", SENDER, os.fspath(settings.rings_directory), os.fspath(settings.socket)]
    worker = await asyncio.create_subprocess_exec(*command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert await worker.stdout.readline() == b"ready\n"
    await eventually((settings.directory / "checkpoint").exists)
    before = heartbeats(settings)
    await eventually(lambda: heartbeats(settings) > before + 1)  # it looks for rings in its next turn
    os.kill(recorder.pid, signal.SIGSTOP)
    await worker.communicate(b"\n")
    os.kill(recorder.pid, signal.SIGCONT)
    await eventually(lambda: not list(settings.rings_directory.iterdir()))
    assert recorder.stop() == 0, recorder.errors
    found = [entry for entry in entries_of(settings) if entry.get("id") in (number_id(1), number_id(2))]
    assert sorted((entry["kind"], entry["id"]) for entry in found) == [
        ("outcome-unknown", number_id(2)),
        ("refused", number_id(1)),
    ]


def heartbeats(settings: RecorderSettings) -> int:
    """How many heartbeats are published."""
    reader = LogReader.open(settings.directory, KEY.verifier)
    return sum(parse(data)["kind"] == "heartbeat" for data in reader.entries(0, reader.checkpoint.size))


@pytest.mark.parametrize(
    ("arguments", "code"),
    [([], 64), (["a", "b"], 64), (["/nowhere"], RecorderError.exit_code)],
    ids=["none", "two", "missing"],
)
def test_wrong_usage_ends_with_its_own_code(arguments, code):
    command = [sys.executable, "-m", "ops.audit.store.recorder_main", *arguments]
    assert subprocess.run(command, capture_output=True, check=False).returncode == code


def test_a_key_of_another_log_is_refused(tmp_path):
    settings = settings_in(tmp_path)
    settings.signing_key.write_text(SignerKey("another.test/log", bytes(32)).secret())
    recorder = launch(settings)
    assert recorder.ended() == RecorderError.exit_code
    assert bytes(32).hex() not in recorder.errors


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A filesystem of 12 MiB."""
    mount = tmp_path / "disk"
    mount.mkdir()
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=12m", "tmpfs", mount], capture_output=True, check=False)
    if made.returncode:
        pytest.skip("mounting a small filesystem needs root")
    yield mount
    subprocess.run(["umount", "-l", mount], check=True)


async def test_a_full_disk_refuses_without_losing_and_goes_on_when_there_is_room(small_disk):
    settings = settings_in(
        small_disk,
        publish_every_ms=20,
        heartbeat_ms=50,
        reserve_bytes=1 << 20,
        disk_warn_percent=60,
        disk_stop_percent=70,
    )
    async with served(settings) as (recorder, client):
        ballast = small_disk / "ballast"
        receipts: list[Receipt] = []
        assert isinstance(await append(client, [small(0)]), Receipt)
        ballast.write_bytes(bytes(8 << 20))
        async with asyncio.timeout(30):
            number = 1
            while True:
                answer = await append(client, [small(number)])
                if isinstance(answer, AuditUnavailable):
                    break
                receipts.append(answer)
                number += 1
        assert (answer.reason, answer.detail) == ("log_refused", "disk full")
        assert not client.available
        late = await connected(settings)
        await eventually(lambda: not late.available)
        ballast.unlink()
        await eventually(lambda: client.available and late.available)  # though nobody appends
        await late.close()
        async with asyncio.timeout(30):
            while isinstance(await append(client, [small(number)]), AuditUnavailable):  # noqa: ASYNC110 (it shows only so)
                await asyncio.sleep(0.01)
    gaps = [(entry["state"], entry["reason"]) for entry in entries_of(settings) if entry["kind"] == "gap"]
    assert gaps == [("open", "disk-full"), ("close", "disk-full")]
    assert kinds(settings).count("refused") == len(receipts) + 2
    assert any(event["event"] == "audit-disk" for event in recorder.events())


async def test_no_room_for_a_segment_refuses_until_there_is(small_disk):
    """Below the limit in percent, and a segment still does not fit."""
    settings = settings_in(small_disk, publish_every_ms=20, heartbeat_ms=50, disk_stop_percent=100)
    async with served(settings) as (_, client):
        ballast = small_disk / "ballast"
        await eventually((settings.state_directory / "segments" / "spare").exists)
        stat = os.statvfs(small_disk)
        ballast.write_bytes(bytes(stat.f_bavail * stat.f_frsize - SEGMENT_BYTES))
        taken = 1
        async with asyncio.timeout(30):
            while isinstance(answer := await append(client, [small(n) for n in range(500)]), Receipt):
                taken += 1
        assert (answer.reason, answer.detail) == ("log_refused", "disk full")
        await eventually(lambda: not client.available)
        ballast.unlink()
        await eventually(lambda: client.available)
        assert isinstance(await append(client, [small(n) for n in range(500)]), Receipt)
    gaps = [entry for entry in entries_of(settings) if entry["kind"] == "gap"]
    assert [(entry["state"], entry["reason"]) for entry in gaps] == [("open", "disk-full"), ("close", "disk-full")]
    assert sum(int(str(entry["dropped"])) for entry in gaps) == 500
    assert kinds(settings).count("refused") == 500 * taken
