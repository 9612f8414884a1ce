"""The recorder between two epochs: who waits when it has to stop there hears of it, and the page of metrics has it."""

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from itertools import count
from pathlib import Path
from threading import Event, Thread

import pytest
from prometheus_client.parser import text_string_to_metric_families

from ops.audit.errors import RecorderError
from ops.audit.store import protocol
from ops.audit.store.own_entries import OwnEntries
from ops.audit.store.publish_thread import PublishThread
from ops.audit.store.recorder import Recorder
from ops.audit.store.recorder_main import listen
from ops.audit.store.writing import Writing
from ops.metrics import expose
from tests.faults.recorder_process import KEY, RECORDER, launch, settings_in, written
from tests.ops.audit.samples import small

FAILED = "stockade_audit_epoch_changes_failed_total"


class Stuck:
    """A recorder in a thread, which closes its epoch at its first heartbeat; nothing is made public before it ends."""

    def __init__(self, home: Path) -> None:
        self.settings = settings_in(home, epoch_records_max=2, publish_every_ms=60_000)
        self.closed, self.wake = Event(), socket.socketpair()
        ids, clock = count(1), count(1_800_000_000_000_000_000, 1_000_000_000)
        own = OwnEntries("test", lambda: next(clock), lambda: next(ids).to_bytes(16, "big"), 5000)
        nothing = {"wake": lambda: None, "published": lambda _: None, "log": lambda *_, **__: None}
        publishing = partial(PublishThread, **nothing)
        self.writing = Writing(
            self.settings, KEY, own, publishing, lambda point: point == "closed" and self.closed.set()
        )
        self.writing.open()
        self.recorder = Recorder(
            self.settings,
            listener=listen(self.settings.socket, 0o600),
            writing=self.writing,
            metrics=None,
            log=nothing["log"],
            monotonic_ms=lambda: 0,
        )
        self.thread = Thread(target=self.recorder.run, args=(self.wake[0],))

    def stop(self) -> None:
        self.wake[1].send(b"!")
        self.thread.join(60)


@contextmanager
def stuck(home: Path) -> Iterator[Stuck]:
    made = Stuck(home)
    made.thread.start()
    assert made.closed.wait(60)
    try:
        yield made
    finally:
        made.stop()
        made.writing.publishing.start()
        made.writing.publishing.finish()
        made.writing.close()
        for end in made.wake:
            end.close()


def all_from(connection: socket.socket) -> bytes:
    data = b""
    while more := connection.recv(1 << 16):
        data += more
    return data


def test_what_waits_between_two_epochs_is_refused_when_the_recorder_is_told_to_stop(tmp_path):
    with stuck(tmp_path) as held, socket.socket(socket.AF_UNIX) as connection:
        connection.connect(os.fspath(held.settings.socket))
        for number in range(2):
            connection.sendall(protocol.append_message([small(number), small(number + 10)], []))
        connection.sendall(protocol.append_message([b"no entry"], []))
        held.stop()
        said = all_from(connection)
        assert (hello := protocol.split_hello(said)) is not None
        refused = [(protocol.REFUSED, 1, reason) for reason in (protocol.STOPPING, protocol.STOPPING, protocol.INVALID)]
        assert protocol.split_replies(said[hello[-1] :])[0] == refused
        assert held.recorder.refused == 4


def failed(settings) -> float:
    families = text_string_to_metric_families(expose(settings.metrics_directory).decode())
    return sum(each.value for family in families for each in family.samples if each.name == FAILED)


@pytest.mark.timeout(120)
def test_a_change_of_epochs_that_fails_is_counted_while_it_is_served_and_at_a_start(tmp_path):
    settings = settings_in(tmp_path, epoch_records_max=2, metrics_directory=tmp_path / "metrics")
    (settings.directory).mkdir()
    (settings.directory / "epochs").write_bytes(b"in the way")
    for times in (1, 2):
        assert launch(settings).ended() == RecorderError.exit_code
        assert failed(settings) == times
    (settings.directory / "epochs").unlink()
    assert launch(settings).wait_ready().stop() == 0
    assert failed(settings) == 2


def test_a_recorder_that_nobody_listens_to_ends_with_its_own_exit_code_all_the_same(tmp_path):
    settings = settings_in(tmp_path)
    settings.directory.write_bytes(b"in the way")
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, "-m", RECORDER, os.fspath(written(settings))]
    ended = subprocess.run(command, stdout=write, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL, check=False)
    os.close(write)
    assert (ended.returncode, b"Traceback" in ended.stderr) == (RecorderError.exit_code, False)
