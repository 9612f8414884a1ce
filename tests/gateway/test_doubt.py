"""After a sync that failed the recorder starts only on a log that extends what is known of it elsewhere."""

from __future__ import annotations

import asyncio
import os
import shutil
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import pytest

from gateway.host.doubt import Doubt
from gateway.host.supervisor import Child, StartFailed
from ops.audit.checkpoint import Checkpoint, SignerKey, sign_note
from ops.audit.compare import compare
from ops.audit.epochs import origin_of
from ops.audit.errors import Poisoned, ReplicaAhead, ReplicaDiffers, StoreUnavailable
from ops.audit.lock import LockDatabase
from ops.audit.replicator import Replicator
from tests.faults import tracing
from tests.faults.load import Load
from tests.faults.oracle import Oracle
from tests.faults.recorder_process import KEY, ORIGIN, client_of, eventually, launch, settings_in
from tests.gateway.rig import until
from tests.ops.audit.open_log import OpenLog, open_log
from tests.ops.audit.samples import small
from tests.ops.audit.stores import Spoiled, directory_store

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


def test_a_log_that_extends_its_replica_and_its_cosigned_checkpoint_is_trusted(log, tmp_path):
    store = directory_store(tmp_path / "store")
    lock = log.settings.state_directory / "lock.sqlite"
    compare(log.directory, KEY.verifier, lock, store, NONE)  # it has nothing yet
    replicate(log.directory, store)
    cosigned = tmp_path / "cosigned"
    shutil.copy(log.directory / "checkpoint", cosigned)
    compare(log.directory, KEY.verifier, lock, store, cosigned)
    grow(log)
    compare(log.directory, KEY.verifier, lock, store, cosigned)


def test_an_older_state_of_the_log_and_none_at_all_are_not(log, tmp_path):
    store = directory_store(tmp_path / "store")
    shutil.copytree(log.directory, tmp_path / "old")
    grow(log)
    replicate(log.directory, store)
    shutil.copy(log.directory / "checkpoint", tmp_path / "cosigned")
    for place in (tmp_path / "old", tmp_path / "empty"):
        with pytest.raises(ReplicaAhead, match="the store has 601 records"):
            compare(place, KEY.verifier, NONE, store, NONE)
        with pytest.raises(ReplicaAhead, match="the quorum has 601 records"):
            compare(place, KEY.verifier, NONE, None, tmp_path / "cosigned")


def test_a_checkpoint_that_is_signed_and_not_public_yet_counts(log, tmp_path):
    store = directory_store(tmp_path / "store")
    shutil.copytree(log.directory, tmp_path / "old")
    grow(log)
    replicate(log.directory, store)
    with closing(LockDatabase(tmp_path / "lock.sqlite", ORIGIN)) as lock:
        lock.swap(None, (log.directory / "checkpoint").read_bytes())
    compare(tmp_path / "old", KEY.verifier, tmp_path / "lock.sqlite", store, NONE)


def test_a_fork_a_later_epoch_and_a_strange_checkpoint_are_seen(log, tmp_path):
    store = directory_store(tmp_path / "store")
    with open_log(tmp_path / "fork") as other:
        other.append([small(number) for number in range(7, 99)])
        other.publish()
        replicate(other.directory, store)
    with pytest.raises(ReplicaAhead, match="a fork"):
        compare(log.directory, KEY.verifier, NONE, store, NONE)
    later = directory_store(tmp_path / "later")
    second = SignerKey(origin_of(ORIGIN, 2), KEY.seed)
    later.put_new("epochs/0002/checkpoint", sign_note(Checkpoint(second.name, 5, bytes(32)).text(), [second]))
    with pytest.raises(ReplicaAhead, match="the store has 5 records, the log 0"):
        compare(log.directory, KEY.verifier, NONE, later, NONE)
    strange = directory_store(tmp_path / "strange")
    strange.put_new("checkpoint", b"any")
    with pytest.raises(ReplicaDiffers):
        compare(log.directory, KEY.verifier, NONE, strange, NONE)


def doubt_of(home: Path, store, said: list[str]) -> Doubt:
    settings = settings_in(home)
    lock, run = settings.state_directory / "lock.sqlite", home / "run"
    note = lambda event, **_: said.append(event)  # noqa: E731
    return Doubt(run / "doubted", settings.directory, KEY.verifier, lock, store, run / "cosigned", note)


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
