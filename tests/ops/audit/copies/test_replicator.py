"""A replica grows with its log: whole, only forward, never overwritten, and nothing that a store says is believed."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from gateway.cli.main import main
from ops.audit.copies.object_store import Inspected, Lock, Place, checkpoint_key, open_store, read_credentials
from ops.audit.copies.replicator import Behind, Replicator
from ops.audit.copies.sources import fetch_log
from ops.audit.errors import (
    LogRejected,
    ReadError,
    ReplicaAhead,
    ReplicaDiffers,
    ReplicaUnlocked,
    StoreRefused,
    StoreUnavailable,
)
from ops.audit.log.checkpoint import SignerKey, open_checkpoint
from ops.audit.verify.verify import verify_log
from tests.faults.recorder_process import KEY
from tests.ops.audit.copies.test_mirror import grow
from tests.ops.audit.open_log import VKEY, OpenLog, open_log
from tests.ops.audit.samples import small
from tests.ops.audit.stores import Spoiled, directory_store, held_in

NOW = datetime(2027, 1, 1, tzinfo=UTC)
OTHER = SignerKey("elsewhere.test/log", bytes(range(32)))


@pytest.fixture
def log(tmp_path: Path) -> Iterator[OpenLog]:
    with open_log(tmp_path / "home") as opened:
        yield opened


@pytest.fixture
def store(tmp_path: Path) -> Inspected:
    return directory_store(tmp_path / "away")


def of(log: OpenLog, store, **more: object) -> Replicator:
    return Replicator(log.directory, store, KEY.verifier, lambda: NOW, **more)


def sound(store: Inspected, target: Path, size: int) -> None:
    """What is in the store verifies, from the first entry to the last payload."""
    target.mkdir(parents=True)
    assert fetch_log(store, target) == size
    report = verify_log(target, [VKEY], processes=0)
    assert (report.exit_code, report.findings, report.size) == (0, [], size)
    shutil.rmtree(target)


def test_it_catches_up_step_by_step_and_keeps_each_checkpoint(log, store, tmp_path):
    replicator = of(log, store)
    before: dict[str, bytes] = {}
    sizes = []
    for count in (1, 199, 55, 1, 1, 254, 9, 510, 300):
        grow(log, count)
        assert replicator.replicate().size == log.appender.size
        sizes.append(log.appender.size)
        sound(store, tmp_path / "fetched", log.appender.size)
        now = held_in(store)
        assert before.items() <= now.items(), "what was written once stays as it was"
        before = now
    kept = [key for key in before if key.startswith("checkpoints/")]
    assert sorted(kept) == [checkpoint_key(size) for size in sizes]
    assert [open_checkpoint(before[key], [KEY.verifier]).size for key in sorted(kept)] == sizes


def test_a_new_replicator_goes_on_where_the_store_stands(log, store, tmp_path):
    grow(log, 600)
    of(log, store).replicate()
    grow(log, 10)
    watched = Spoiled(store)
    of(log, watched).replicate()
    written = {key for call, key in watched.calls if call == "put_new"}
    assert "tile/entries/002.p/99" in written
    assert not written & {"tile/entries/000", "tile/0/000", "tile/entries/001"}
    sound(store, tmp_path / "fetched", log.appender.size)


def test_when_there_is_nothing_new_nothing_is_written(log, store):
    grow(log, 300)
    watched = Spoiled(store)
    replicator = of(log, watched)
    replicator.replicate()
    watched.calls.clear()
    assert replicator.replicate().size == log.appender.size
    assert watched.calls == [("get", "checkpoint")]


def test_what_was_cut_off_is_taken_up_again(log, store, tmp_path):
    """Whatever call it was at which the process died, the next run ends with the same objects."""
    grow(log, 700)
    whole = Spoiled(directory_store(tmp_path / "whole"))
    of(log, whole).replicate()
    writes = [each for each in whole.calls if each[0] != "get"]
    assert writes[-1] == ("replace", "checkpoint")
    for at in range(0, len(writes), 3):
        place = directory_store(tmp_path / f"cut-{at}")
        left = iter(range(at))

        def die(call, _key, left=left):
            if call != "get" and next(left, None) is None:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            of(log, Spoiled(place, die)).replicate()
        assert place.get("checkpoint") is None, "nothing is named that may not be there"
        of(log, place).replicate()
        assert held_in(place) == held_in(whole)


def test_a_later_run_ends_what_an_earlier_size_began(log, store, tmp_path):
    """The cut-off run's narrow tiles stay, and are no part of what the checkpoint names."""
    grow(log, 300)

    def die(call, key):
        if key.startswith("checkpoints/"):
            raise StoreUnavailable("gone")

    with pytest.raises(StoreUnavailable):
        of(log, Spoiled(store, die)).replicate()
    grow(log, 40)
    of(log, store).replicate()
    sound(store, tmp_path / "fetched", log.appender.size)
    grow(log, 400)
    of(log, store).replicate()
    sound(store, tmp_path / "again", log.appender.size)


@pytest.mark.parametrize("lies_about", ["tile/0/000", "tile/entries/000", "blobs/000", "checkpoints/", "checkpoint"])
def test_a_store_that_says_success_and_kept_nothing_is_found_out(log, store, tmp_path, lies_about):
    grow(log, 600)

    def lie(call, key):
        match = key == lies_about or (lies_about.endswith("/") and key.startswith(lies_about))
        return "lost" if call != "get" and match else None

    replicator = of(log, Spoiled(store, lie))
    with pytest.raises(StoreUnavailable, match="said"):
        replicator.replicate()
    assert replicator.held is not None
    assert replicator.held.size == 0, "it counts as nothing"
    replicator.store = store
    replicator.replicate()
    sound(store, tmp_path / "fetched", log.appender.size)


def test_a_store_that_says_failure_and_kept_it_is_believed_neither(log, store, tmp_path):
    grow(log, 600)

    def fail(call, _key):
        if call != "get":
            raise StoreUnavailable("the connection was closed")

    assert of(log, Spoiled(store, after=fail)).replicate().size == log.appender.size
    sound(store, tmp_path / "fetched", log.appender.size)


def test_a_full_store_is_one_that_is_away(log, store):
    grow(log, 300)

    def full(call, key):
        if call == "put_new" and key.startswith("tile/entries"):
            raise StoreUnavailable("no room")

    replicator = of(log, Spoiled(store, full))
    for _ in range(2):
        with pytest.raises(StoreUnavailable, match="no room"):
            replicator.replicate()
    assert store.get("checkpoint") is None
    assert replicator.behind().entries == log.appender.size


@pytest.mark.parametrize("key", ["tile/0/001", "tile/entries/001", "blobs/001", "tile/0/002.p/89"])
def test_what_stands_there_and_differs_stops_it(log, store, key):
    grow(log, 600)
    store.put_new(key, b"something else")
    replicator = of(log, store)
    with pytest.raises(ReplicaDiffers, match=key.replace(".", r"\.")):
        replicator.replicate()
    assert store.get(key) == b"something else", "it is evidence"
    assert store.get("checkpoint") is None


def test_another_checkpoint_of_the_same_size_stops_it(log, store):
    grow(log, 30)
    store.put_new(checkpoint_key(log.appender.size), b"something else")
    with pytest.raises(ReplicaDiffers):
        of(log, store).replicate()


@pytest.mark.parametrize(("count", "forked"), [(300, 500), (30, 30)], ids=["longer", "of the same size"])
def test_a_fork_is_refused_and_nothing_is_written(log, store, tmp_path, count, forked):
    grow(log, count)
    of(log, store).replicate()
    before = held_in(store)
    with open_log(tmp_path / "fork") as fork:
        grow(fork, forked, "another")
        with pytest.raises(ReplicaAhead, match="a fork"):
            of(fork, store).replicate()
    assert held_in(store) == before


def test_an_older_copy_of_the_log_is_refused(log, store, tmp_path):
    grow(log, 300)
    old = shutil.copytree(log.directory, tmp_path / "old")
    grow(log, 1)
    of(log, store).replicate()
    with pytest.raises(ReplicaAhead, match="the store has 302 records, the log 301"):
        Replicator(old, store, KEY.verifier, lambda: NOW).replicate()


def test_an_older_checkpoint_in_the_store_costs_work_and_nothing_else(log, store, tmp_path):
    grow(log, 300)
    of(log, store).replicate()
    first = store.get("checkpoint")
    grow(log, 300)
    of(log, store).replicate()
    store.replace("checkpoint", first)
    assert of(log, store).replicate().size == log.appender.size
    sound(store, tmp_path / "fetched", log.appender.size)


def test_the_checkpoint_of_another_log_stops_it(log, store):
    grow(log, 30)
    store.put_new("checkpoint", b"elsewhere.test/log\n1\nAAAA\n\n\xe2\x80\x94 elsewhere.test/log AAAAAAAA\n")
    with pytest.raises(ReplicaDiffers, match="not one of this log"):
        of(log, store).replicate()


@pytest.mark.parametrize("path", ["tile/entries/000", "tile/0/000", "tile/1/000.p/2", "blobs/000"])
def test_a_damaged_log_is_not_written_where_it_could_never_be_mended(log, store, path):
    grow(log, 600)
    spoiled = log.directory / path
    data = bytearray(spoiled.read_bytes())
    data[len(data) // 2] ^= 1
    spoiled.write_bytes(data)
    with pytest.raises((LogRejected, ReadError)):
        of(log, store).replicate()
    assert held_in(store) == {}


def test_a_log_that_misses_a_file_waits(log, store):
    grow(log, 600)
    (log.directory / "tile/entries/001").unlink()
    with pytest.raises(ReadError):
        of(log, store).replicate()
    assert held_in(store) == {}


def test_it_says_how_far_behind_the_store_is(log, store):
    replicator = of(log, store)
    log.say([small(n) for n in range(20)])
    genesis_ns = log.clock_ns
    assert replicator.behind() == Behind(log.appender.size, genesis_ns)
    replicator.replicate()
    assert replicator.behind().entries == 0
    log.beat()
    log.publish()
    assert replicator.behind() == Behind(1, log.clock_ns)


@pytest.mark.parametrize(
    ("lock", "words"),
    [
        (None, "is not locked"),
        (Lock("GOVERNANCE", NOW + timedelta(days=400)), "mode GOVERNANCE"),
        (Lock("COMPLIANCE", NOW + timedelta(days=29)), "locked until 2027-01-30"),
    ],
)
def test_a_store_that_does_not_keep_it_long_enough_stops_it(log, store, lock, words):
    grow(log, 10)

    class Locked(Spoiled):
        def lock_of(self, key: str) -> Lock | None:
            assert key == checkpoint_key(log.appender.size)
            return lock

    locked = Locked(store)
    with pytest.raises(ReplicaUnlocked, match=words):
        of(log, locked, locks=locked, retention=timedelta(days=30)).replicate()
    assert store.get("checkpoint") is None
    enough = Lock("COMPLIANCE", NOW + timedelta(days=30))
    locked.lock_of = lambda _key: enough
    assert of(log, locked, locks=locked, retention=timedelta(days=30)).replicate().size == log.appender.size


def test_two_at_once_do_no_harm(log, store, tmp_path):
    """Two gateways of one log, or one whose predecessor still has requests on their way."""
    grow(log, 900)
    both = [of(log, Spoiled(store)) for _ in range(2)]
    with ThreadPoolExecutor(2) as pool:
        sizes = list(pool.map(lambda each: each.replicate().size, both))
    assert sizes == [log.appender.size] * 2
    sound(store, tmp_path / "fetched", log.appender.size)


def test_nothing_else_in_the_store_gets_out_of_it(log, store, tmp_path):
    grow(log, 300)
    of(log, store).replicate()
    for key in ("tile/entries/005", "tile/x000/001", "blobs/000.p/7", "tile/6/000", "tile/entries/notes.txt"):
        store.put_new(key, b"planted")
    sound(store, tmp_path / "fetched", log.appender.size)


def test_an_empty_store_holds_no_log(store, tmp_path):
    with pytest.raises(ReadError):
        fetch_log(store, tmp_path)


@pytest.mark.parametrize("url", ["ftp://bucket", "bucket", "", "memory:///"])
def test_a_place_that_can_be_no_store_is_refused(url):
    with pytest.raises(StoreRefused):
        open_store(Place(url))


def test_credentials_are_one_object_of_strings_and_are_never_shown(tmp_path):
    file = tmp_path / "credentials"
    file.write_text('{"access_key_id": "a", "secret_access_key": "hunter2"}')
    place = Place("s3://bucket", credentials=read_credentials(file))
    assert "hunter2" not in repr(place)
    open_store(place)
    for text in ('{"access_key_id": 1, "secret_access_key": "hunter2"}', "hunter2", "[]"):
        file.write_text(text)
        with pytest.raises(StoreRefused) as refused:
            read_credentials(file)
        assert "hunter2" not in str(refused.value)
    with pytest.raises(StoreRefused) as refused:
        open_store(Place("s3://bucket", credentials={"no_such_key": "hunter2"}))
    assert "hunter2" not in str(refused.value)


def test_a_url_is_verified_as_a_directory_is(log, store, tmp_path, capsys):
    """Exit codes are those of `verify`: what is missing, what was tampered with, what is no log, what is no store."""
    grow(log, 600)
    of(log, store).replicate()
    url = (tmp_path / "away").as_uri()

    def verified(*arguments: str) -> int:
        return main(["audit", "verify", url, "--vkey", VKEY, *arguments])

    assert verified("--json") == 0
    assert json.loads(capsys.readouterr().out)["size"] == log.appender.size
    assert main(["audit", "verify", url, "--vkey", str(OTHER.verifier)]) == 4
    bundle = tmp_path / "away/tile/entries/001"
    data = bundle.read_bytes()
    bundle.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    assert verified() == 1
    bundle.unlink()
    assert verified() == 2
    (tmp_path / "away/checkpoint").write_bytes(b"no note")
    assert verified() != 0
    (tmp_path / "away/checkpoint").unlink()
    assert verified() == 2
    assert main(["audit", "verify", "ftp://nowhere", "--vkey", VKEY]) == 4
