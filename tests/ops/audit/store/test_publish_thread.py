"""The publishing thread's turns: one publication each, as many as it takes at the end."""

import errno

import pytest

from ops.audit.errors import AppenderRunning, Poisoned
from ops.audit.store.edge import Edge
from ops.audit.store.publish_thread import PublishThread
from ops.audit.store.settings import RecorderSettings


class Publisher:
    """There is always more to publish until `left` publications were made."""

    def __init__(self, left):
        self.left = left

    def publish(self):
        self.left -= 1
        return self.left >= 0

    def close(self):
        pass


class Store:
    def retire(self, published_size):
        pass

    def prepare_spare(self):
        pass


@pytest.fixture
def thread_of(tmp_path):
    settings = RecorderSettings(
        directory=tmp_path,
        socket=tmp_path / "socket",
        origin="test.example/log",
        signing_key=tmp_path / "key",
        state_directory=tmp_path,
        rings_directory=tmp_path,
        build="test",
        publish_every_ms=60_000,
    )

    def make(publisher):
        return PublishThread(
            settings,
            edge=Edge(),
            publisher=publisher,
            store=Store(),
            published=lambda *_: None,
            wake=lambda: None,
            log=lambda *_, **__: None,
        )

    return make


@pytest.mark.parametrize(
    ("error", "raised", "said"),
    [
        (ValueError("a bug of ours"), Poisoned, "ValueError"),
        (OSError(errno.EIO, "Input/output error"), Poisoned, "Input/output error"),
        (AppenderRunning("another"), AppenderRunning, "another"),
    ],
    ids=["a bug", "the disk", "another appender"],
)
def test_whatever_stops_publishing_stops_the_recorder(thread_of, error, raised, said):
    class Broken(Publisher):
        def publish(self):
            raise error

    thread = thread_of(Broken(left=0))
    thread.start()
    with pytest.raises(raised, match=said):
        thread.finish()


def test_a_turn_publishes_once_however_much_comes_in_meanwhile(thread_of):
    publisher = Publisher(left=1_000_000)
    thread_of(publisher)._turn(stopping=False)
    assert publisher.left == 999_999


def test_the_last_turn_publishes_until_nothing_is_left(thread_of):
    publisher = Publisher(left=7)
    thread = thread_of(publisher)
    thread.start()
    thread.finish()
    assert publisher.left == -1


def test_where_there_was_no_room_appends_are_refused_until_a_turn_has_ended_well(thread_of):
    thread = thread_of(Publisher(left=0))
    assert not thread.full
    thread.no_room()
    assert thread.full
    thread._turn(stopping=False)
    assert not thread.full
