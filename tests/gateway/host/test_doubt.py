"""After a sync that failed the recorder starts only on a log that extends what is known of it elsewhere."""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
import subprocess
import sys
import time
from contextlib import closing, suppress
from datetime import UTC, datetime
from pathlib import Path
from threading import Event, Thread
from urllib.parse import urlsplit

import pytest
import yaml

from gateway.config.config import Config
from gateway.config.load import load_config
from gateway.host.doubt import Doubt
from gateway.host.supervisor import Child, StartFailed
from gateway.tools.init.init import init_directory
from gateway.tools.samples import bundles_directory
from ops.audit.copies.compare import compare
from ops.audit.copies.replicator import Replicator
from ops.audit.errors import (
    ForkRefused,
    Poisoned,
    QuorumMissing,
    ReadError,
    RecorderError,
    ReplicaAhead,
    ReplicaDiffers,
    StoreUnavailable,
)
from ops.audit.log.checkpoint import Checkpoint, SignerKey, parse_vkey, sign_note
from ops.audit.log.epochs import origin_of
from ops.audit.log.trust_policy import Group, TrustedLog, TrustedWitness, TrustPolicy
from ops.audit.store.lock import LockDatabase
from ops.audit.witnesses.client import cosign_newest
from ops.audit.witnesses.witness import Reply
from tests.faults import tracing
from tests.faults.load import Load
from tests.faults.oracle import Oracle
from tests.faults.recorder_process import KEY, ORIGIN, client_of, eventually, launch, settings_in
from tests.gateway.rig import until
from tests.ops.audit.open_log import OpenLog, open_log
from tests.ops.audit.samples import small
from tests.ops.audit.stores import Spoiled, directory_store
from tests.ops.audit.witnesses.test_client import COSIGNER, watching

NONE = Path("/nowhere")


@pytest.fixture
def log(tmp_path):
    with open_log(tmp_path / "home") as opened:
        grow(opened)
        yield opened


def grow(log: OpenLog) -> None:
    log.append([small(number) for number in range(300)])
    log.publish()


def replicate(directory: Path, store) -> None:
    Replicator(directory, store, KEY.verifier, lambda: datetime.now(UTC)).replicate()


def held(directory: Path, lock: Path, store, cosigned: Path = NONE, witnesses: TrustPolicy | None = None) -> None:
    """Hold a log against all that there is."""
    known = witnesses or TrustPolicy()
    compare(directory, KEY.verifier, lock, store=store, cosigned=cosigned, witnesses=known)


def test_a_log_that_extends_its_replica_and_its_cosigned_checkpoint_is_trusted(log, tmp_path):
    store = directory_store(tmp_path / "store")
    lock = log.settings.state_directory / "lock.sqlite"
    held(log.directory, lock, store)  # it has nothing yet
    replicate(log.directory, store)
    cosigned = tmp_path / "cosigned"
    shutil.copy(log.directory / "checkpoint", cosigned)
    held(log.directory, lock, store, cosigned)
    grow(log)
    held(log.directory, lock, store, cosigned)


def test_an_older_state_of_the_log_and_none_at_all_are_not(log, tmp_path):
    store = directory_store(tmp_path / "store")
    shutil.copytree(log.directory, tmp_path / "old")
    grow(log)
    replicate(log.directory, store)
    shutil.copy(log.directory / "checkpoint", tmp_path / "cosigned")
    for place in (tmp_path / "old", tmp_path / "empty"):
        with pytest.raises(ReplicaAhead, match="the store has 601 records"):
            held(place, NONE, store)
        with pytest.raises(ReplicaAhead, match="the quorum has 601 records"):
            held(place, NONE, None, tmp_path / "cosigned")


def test_what_the_quorum_cosigned_is_not_passed_over_when_it_is_damaged(log, tmp_path):
    cosigned = tmp_path / "cosigned"
    note = (log.directory / "checkpoint").read_bytes()
    for damaged in (b"", note[:-20], note.replace(b"\n301\n", b"\n901\n"), bytes(len(note))):
        cosigned.write_bytes(damaged)
        with pytest.raises(ReadError, match=f"{cosigned} is no checkpoint of this log"):
            held(log.directory, NONE, None, cosigned)


def test_what_the_quorum_cosigned_of_any_later_epoch_is_seen(log, tmp_path):
    cosigned = tmp_path / "cosigned"
    for number in (2, 3, 9):
        key = SignerKey(origin_of(ORIGIN, number), KEY.seed)
        cosigned.write_bytes(sign_note(Checkpoint(key.name, 5, bytes(32)).text(), [key]))
        with pytest.raises(ReplicaAhead, match="the quorum has 5 records, the log 0"):
            held(log.directory, NONE, None, cosigned)


def test_a_checkpoint_that_is_signed_and_not_public_yet_counts(log, tmp_path):
    store = directory_store(tmp_path / "store")
    shutil.copytree(log.directory, tmp_path / "old")
    grow(log)
    replicate(log.directory, store)
    with closing(LockDatabase(tmp_path / "lock.sqlite", ORIGIN)) as lock:
        lock.swap(None, (log.directory / "checkpoint").read_bytes())
    held(tmp_path / "old", tmp_path / "lock.sqlite", store)


def test_a_fork_a_later_epoch_and_a_strange_checkpoint_are_seen(log, tmp_path):
    store = directory_store(tmp_path / "store")
    with open_log(tmp_path / "fork") as other:
        other.append([small(number) for number in range(7, 99)])
        other.publish()
        replicate(other.directory, store)
    with pytest.raises(ReplicaAhead, match="a fork"):
        held(log.directory, NONE, store)
    later = directory_store(tmp_path / "later")
    second = SignerKey(origin_of(ORIGIN, 2), KEY.seed)
    later.put_new("epochs/0002/checkpoint", sign_note(Checkpoint(second.name, 5, bytes(32)).text(), [second]))
    with pytest.raises(ReplicaAhead, match="the store has 5 records, the log 0"):
        held(log.directory, NONE, later)
    strange = directory_store(tmp_path / "strange")
    strange.put_new("checkpoint", b"any")
    with pytest.raises(ReplicaDiffers):
        held(log.directory, NONE, strange)


def trusting(ports: dict[str, int], threshold: int) -> TrustPolicy:
    """So many of these witnesses, by their ports, make the quorum."""
    witnesses = {name: TrustedWitness(name, COSIGNER.key, f"http://127.0.0.1:{port}") for name, port in ports.items()}
    group = Group(threshold, tuple(witnesses))
    return TrustPolicy([TrustedLog(KEY.verifier)], witnesses, {"them": group}, quorum="them")


def test_witnesses_are_asked_and_one_that_has_seen_more_is_believed(log, tmp_path):
    shutil.copytree(log.directory, tmp_path / "old")
    with watching(tmp_path) as (_, policy):
        held(log.directory, NONE, None, witnesses=policy)  # it has cosigned nothing yet
        cosign_newest(log.directory, policy, tmp_path / "cosigned", timeout_s=20)
        held(log.directory, NONE, None, witnesses=policy)
        grow(log)
        cosign_newest(log.directory, policy, tmp_path / "cosigned", timeout_s=20)
        with pytest.raises(ReplicaAhead, match="the witness w has 601 records, the log 301"):
            held(tmp_path / "old", NONE, None, witnesses=policy)


def test_witnesses_that_say_nothing_are_waited_for_where_they_alone_may_know(log, tmp_path):
    with watching(tmp_path) as (witness, policy), socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        ports = {"there": urlsplit(policy.witnesses["w"].url).port, "gone": closed.getsockname()[1]}
        held(log.directory, NONE, None, witnesses=trusting(ports, 2))  # one of any two is there
        with pytest.raises(QuorumMissing, match="witness gone: "):
            held(log.directory, NONE, None, witnesses=trusting(ports, 1))
        with pytest.raises(QuorumMissing, match=r"witness gone: .*; witness gone too: "):
            held(log.directory, NONE, None, witnesses=trusting(ports | {"gone too": ports["gone"]}, 2))
        del ports["gone"]
        witness.checkpoint = lambda _place: Reply(200, b"any")
        with pytest.raises(QuorumMissing, match=r"witness there: |signature block"):
            held(log.directory, NONE, None, witnesses=trusting(ports, 1))
        witness.checkpoint = lambda _place: Reply(500, b"boom")
        with pytest.raises(QuorumMissing, match="HTTP 500: boom"):
            held(log.directory, NONE, None, witnesses=trusting(ports, 1))


def dribble(server: socket.socket, ended: Event) -> None:
    """Answer with a byte at a time."""
    with server.accept()[0] as connection, suppress(OSError):
        connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
        while not ended.wait(0.05):
            connection.sendall(b"x")


@pytest.mark.timeout(60)
def test_a_witness_that_answers_a_byte_at_a_time_is_not_waited_for(log, monkeypatch):
    monkeypatch.setattr("ops.audit.copies.compare.TIMEOUT_S", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as server:
        slow = Thread(target=dribble, args=(server, ended := Event()))
        slow.start()
        with pytest.raises(QuorumMissing, match=r"witness slow: no answer within 0\.5 s"):
            held(log.directory, NONE, None, witnesses=trusting({"slow": server.getsockname()[1]}, 1))
        ended.set()
        slow.join()


def doubt_of(home: Path, store, said: list[str]) -> Doubt:
    settings = settings_in(home)
    lock, run = settings.state_directory / "lock.sqlite", home / "run"
    return Doubt(
        run / "doubted",
        lambda: held(settings.directory, lock, store, run / "cosigned"),
        lambda event, **_: said.append(event),
    )


@pytest.mark.skipif(bool(tracing.why_not()), reason=tracing.why_not() or "strace works")
async def test_a_recorder_whose_sync_failed_waits_for_the_store_and_goes_on_or_never(tmp_path):
    """A real one, whose fdatasync fails; then a disk that has lost what it said that it kept."""
    settings, said, away = settings_in(tmp_path, publish_every_ms=20), [], []
    store = Spoiled(directory_store(tmp_path / "store"), lambda *_: raise_if(away))
    doubt = doubt_of(tmp_path, store, said)
    assert await doubt.may_start() == ""
    recorder = launch(settings).wait_ready()
    await eventually((settings.directory / "checkpoint").exists)
    assert recorder.stop() == 0
    for part in ("log", "state"):
        shutil.copytree(tmp_path / part, tmp_path / "lost" / part)
    shutil.copy(tmp_path / "log.signed", tmp_path / "lost")

    poison = tracing.tracer(tmp_path / "trace", "-e", "inject=fdatasync:error=EIO:when=40+")
    recorder = launch(settings, *poison).wait_ready()
    client = client_of(settings)
    await client.connect()
    load = Load(client, Oracle(), in_flight=4)
    load.start()
    code = await asyncio.to_thread(recorder.ended)
    load.stop()
    await client.close()
    assert code == Poisoned.exit_code
    doubt.ended(code)
    replicate(settings.directory, store)

    away.append("the store")
    assert "cannot be compared" in await doubt.may_start()
    away.clear()
    assert (await doubt.may_start(), said) == ("", ["log-compared"])
    assert await doubt.may_start() == "", "it is compared once"

    doubt.ended(code)
    for part in ("log", "state"):
        shutil.rmtree(tmp_path / part)
        shutil.copytree(tmp_path / "lost" / part, tmp_path / part)
    shutil.copy(tmp_path / "lost/log.signed", tmp_path)
    with pytest.raises(StartFailed, match="an older state of it came back"):
        await doubt_of(tmp_path, store, said).may_start()
    assert launch(settings).wait_ready().stop() == 0, "by itself the recorder cannot know"


async def test_a_doubt_that_the_disk_does_not_keep_is_held_by_who_heard_it(tmp_path):
    away, said = ["the store"], []
    doubt = doubt_of(tmp_path, Spoiled(directory_store(tmp_path / "store"), lambda *_: raise_if(away)), said)
    (tmp_path / "run").write_bytes(b"")
    doubt.ended(Poisoned.exit_code)
    (tmp_path / "run").unlink()
    (tmp_path / "run").mkdir()
    assert "cannot be compared" in await doubt.may_start()
    away.clear()
    assert [await doubt.may_start(), await doubt.may_start(), *said] == ["", "", "log-compared"]


async def test_a_lock_database_that_is_none_holds_the_recorder_back(log, tmp_path):
    store = directory_store(tmp_path / "store")
    with open_log(tmp_path / "later") as later:
        later.append([small(number) for number in range(900)])
        later.publish()
        replicate(later.directory, store)
    shutil.copytree(log.directory, tmp_path / "restored/log")
    doubt = doubt_of(tmp_path / "restored", store, [])
    (tmp_path / "restored/state").mkdir()
    (tmp_path / "restored/state/lock.sqlite").write_bytes(b"no database" * 1000)
    doubt.ended(Poisoned.exit_code)
    assert "file is not a database" in await doubt.may_start()


def init_apart(home: Path, store: Path) -> Config:
    """A gateway's directory whose recorder nobody keeps, with a replica in a directory."""
    init_directory(home, now=datetime.now(UTC), random_bytes=os.urandom, bundles=bundles_directory())
    file = home / "stockade.yaml"
    document = yaml.safe_load(file.read_text())
    document["audit"] |= {"recorder": "external", "publish_every": "100ms", "replication": {"url": store.as_uri()}}
    file.write_text(yaml.safe_dump(document))
    return load_config(file)


def run_apart(home: Path, *wrapper: str) -> subprocess.Popen[str]:
    command = [*wrapper, sys.executable, "-m", "gateway", "recorder", str(home / "stockade.yaml")]
    return subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def grown(home: Path, config: Config) -> None:
    """Run the recorder until what it says at its start is public."""
    place = config.audit.directory / "checkpoint"
    before = place.read_bytes() if place.exists() else b""
    with run_apart(home) as recorder:
        end = time.monotonic() + 60
        while not place.exists() or place.read_bytes() == before:
            assert recorder.poll() is None, recorder.communicate()
            assert time.monotonic() < end
            time.sleep(0.01)
        recorder.terminate()
        recorder.communicate()
    assert recorder.returncode == 0


@pytest.mark.skipif(bool(tracing.why_not()), reason=tracing.why_not() or "strace works")
def test_a_recorder_that_nobody_keeps_waits_for_the_store_as_well(tmp_path):
    home, store = tmp_path / "g", tmp_path / "store"
    config = init_apart(home, store)
    vkey = parse_vkey(config.audit.vkey.read_text().strip())
    poison = tracing.tracer(tmp_path / "trace", "-e", "inject=fdatasync:error=EIO:when=1+")
    kept = [config.audit.directory, config.audit.state_directory, config.audit.signing_key.with_suffix(".signed")]

    def replicate_it() -> None:
        Replicator(config.audit.directory, directory_store(store), vkey, lambda: datetime.now(UTC)).replicate()

    def ended(*wrapper: str) -> tuple[int, str]:
        recorder = run_apart(home, *wrapper)
        said, _ = recorder.communicate(timeout=60)
        return recorder.returncode, said

    grown(home, config)
    replicate_it()
    for each in kept:
        shutil.copytree(each, tmp_path / each.name) if each.is_dir() else shutil.copy(each, tmp_path)
    assert ended(*poison)[0] == Poisoned.exit_code
    store.rename(tmp_path / "away")
    store.write_bytes(b"no directory")
    code, said = ended()
    assert (code, "cannot be compared" in said) == (RecorderError.exit_code, True)
    store.unlink()
    (tmp_path / "away").rename(store)
    grown(home, config)
    grown(home, config)  # it is compared once
    replicate_it()

    for each in kept:
        shutil.rmtree(each) if each.is_dir() else each.unlink()
        shutil.move(tmp_path / each.name, each)
    assert ended(*poison)[0] == Poisoned.exit_code
    code, said = ended()
    assert (code, "an older state of it came back" in said) == (ForkRefused.exit_code, True)


def raise_if(away: list[str]) -> None:
    if away:
        raise StoreUnavailable("away")


async def test_a_child_that_may_not_start_is_asked_for_again_and_hears_how_it_ended(tmp_path):
    answers, said, codes = ["not yet", "not yet", ""], [], []

    async def may_start() -> str:
        return answers.pop(0) if answers else ""

    code = f"open({os.fspath(tmp_path / 'ran')!r}, 'w').close(); raise SystemExit(3)"
    child = Child("child", ["-c", code], lambda event, **_: said.append(event), may_start=may_start, ended=codes.append)
    running = asyncio.create_task(child.run())
    await until(lambda: bool(codes))
    assert (said[:3], codes) == (["child-held", "child-held", "child-started"], [3])
    await child.stop(1.0)
    await running
