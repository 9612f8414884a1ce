"""Replication to a real S3 with Object Lock: what is there stays, what is refused is said, and later it goes on."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path

import pytest

from ops.audit.copies.object_store import Inspected, Place, checkpoint_key, open_store
from ops.audit.copies.replicator import Replicator
from ops.audit.copies.restore import Target, restore_log
from ops.audit.copies.sources import StoreSource
from ops.audit.errors import ReplicaDiffers, ReplicaUnlocked, StoreRefused, StoreUnavailable
from ops.audit.verify.verify import verify_log
from tests.faults.recorder_process import KEY
from tests.ops.audit.copies.test_replicator import grow, sound
from tests.ops.audit.open_log import OpenLog, open_log
from tests.ops.audit.stores import held_in
from tests.seaweed import CREDENTIALS, SeaweedFS, common_server, needs_seaweed

pytestmark = needs_seaweed
NUMBERS = count()


@pytest.fixture
def server() -> SeaweedFS:
    return common_server()


@pytest.fixture
def url(server) -> str:
    """A log's place in a bucket that locks what it is given for two days."""
    server.make_bucket("locked", 2)
    return f"s3://locked/log-{next(NUMBERS)}"


@pytest.fixture
def log(tmp_path: Path) -> Iterator[OpenLog]:
    with open_log(tmp_path / "home") as opened:
        grow(opened, 600)
        yield opened


def of(log: OpenLog, store: Inspected, days: int | None = None) -> Replicator:
    retention = None if days is None else timedelta(days=days)
    return Replicator(log.directory, store, KEY.verifier, lambda: datetime.now(UTC), store, retention)


def test_a_log_grows_there_and_verifies(log, server, url, tmp_path):
    store = open_store(server.place(url))
    for more in (0, 10, 300):
        if more:
            grow(log, more)
        assert of(log, store, 2).replicate().size == log.appender.size
        sound(store, tmp_path / "fetched", log.appender.size)


def test_a_log_is_restored_from_there(log, server, url, tmp_path):
    store = open_store(server.place(url))
    of(log, store).replicate()
    early = log.appender.size
    grow(log, 600)
    of(log, store).replicate()
    source = StoreSource(store, url)
    for target, size in ((Target(), log.appender.size), (Target(index=early - 1), early)):
        out = tmp_path / f"{size}"
        assert restore_log([source], out, KEY.verifier, target=target).seen.checkpoint.size == size
        assert verify_log(out, [str(KEY.verifier)], processes=0).exit_code == 0
    refused = StoreSource(open_store(server.place(url, secret_access_key="wrong")), url)
    with pytest.raises(StoreRefused):
        restore_log([refused], tmp_path / "none", KEY.verifier)


def test_what_was_put_is_never_overwritten(log, server, url):
    store = open_store(server.place(url))
    store.put_new("tile/0/000", b"something else")
    store.put_new("tile/0/000", b"a third thing")
    assert store.get("tile/0/000") == b"something else"
    with pytest.raises(ReplicaDiffers, match="tile/0/000"):
        of(log, store).replicate()


def test_an_object_that_somebody_replaced_afterwards_is_found_when_it_is_written_again(log, server, url):
    """Object Lock keeps the old version; what is seen is the new one, and that is what is compared."""
    store = open_store(server.place(url))
    of(log, store).replicate()
    store.replace(checkpoint_key(log.appender.size), b"something else")
    store.backend.delete("checkpoint")
    with pytest.raises(ReplicaDiffers, match="checkpoints/"):
        of(log, store).replicate()


def test_what_was_removed_is_put_back(log, server, url, tmp_path):
    store = open_store(server.place(url))
    of(log, store).replicate()
    for key in ("checkpoint", "tile/0/000", "blobs/001"):
        store.backend.delete(key)
    of(log, store).replicate()
    sound(store, tmp_path / "fetched", log.appender.size)


def test_a_bucket_that_locks_for_too_short_or_not_at_all_is_refused(log, server, url):
    with pytest.raises(ReplicaUnlocked, match="locked until"):
        of(log, open_store(server.place(url)), 30).replicate()
    server.make_bucket("lockable")
    store = open_store(server.place(f"s3://lockable/log-{next(NUMBERS)}"))
    with pytest.raises(ReplicaUnlocked, match="is not locked"):
        of(log, store, 1).replicate()
    assert store.get("checkpoint") is None


@pytest.mark.parametrize("wrong", [{"secret_access_key": "wrong"}, {"access_key_id": "nobody"}])
def test_wrong_credentials_are_refused_and_not_shown(log, server, url, wrong):
    place = server.place(url, **wrong)
    with pytest.raises(StoreRefused) as refused:
        of(log, open_store(place)).replicate()
    assert place.credentials["secret_access_key"] not in str(refused.value)


def test_one_who_may_only_read_is_refused(log, server, url):
    reader = server.place(url, access_key_id="reader", secret_access_key="reader")
    with pytest.raises(StoreRefused):
        of(log, open_store(reader)).replicate()
    assert held_in(open_store(server.place(url))) == {}


def test_a_server_that_hangs_is_not_waited_for(log):
    """The kernel takes the connection and the bytes; nobody answers."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        place = Place(
            "s3://locked/log", f"http://127.0.0.1:{silent.getsockname()[1]}", None, CREDENTIALS, timeout_s=0.5
        )
        with pytest.raises(StoreUnavailable):
            of(log, open_store(place)).replicate()
