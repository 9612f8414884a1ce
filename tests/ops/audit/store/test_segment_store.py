"""Segments get their names in an order that a start can rely on."""

import errno
from pathlib import Path

import pytest

from ops.audit.errors import LogFull, Poisoned
from ops.audit.store import segment_store
from ops.process.durable import sync_directory
from tests.ops.audit.open_log import open_log
from tests.ops.audit.samples import small

SMALL = {"segment_bytes": 131_072, "append_bytes_max": 65_536}


def no_room(*_: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def fill(log) -> None:
    """Until the next group of this size needs another segment."""
    while log.appender._segment.room > 40_000:
        log.append([small(log.appender.size + each) for each in range(60)])


def group(log) -> list[bytes]:
    return [small(log.appender.size + each) for each in range(120)]


def test_without_room_for_a_segment_the_one_before_goes_on(tmp_path: Path, monkeypatch):
    with open_log(tmp_path, **SMALL) as log:
        fill(log)
        with monkeypatch.context() as context:
            context.setattr(Path, "rename", no_room)
            with pytest.raises(LogFull):
                log.append(group(log))
        log.append([small(1)])
        size = log.appender.size
    with open_log(tmp_path, **SMALL) as again:
        assert again.found_size == size


def test_a_segment_whose_name_may_be_durable_ends_the_one_before(tmp_path: Path, monkeypatch):
    """A start would end that one where this one begins: what is appended to it would be lost."""
    with open_log(tmp_path, **SMALL) as log:
        fill(log)
        with monkeypatch.context() as context:
            context.setattr(segment_store, "sync_directory", no_room)
            with pytest.raises(Poisoned):
                log.append(group(log))
        size = log.appender.size
    assert segment_store.sync_directory is sync_directory
    with open_log(tmp_path, **SMALL) as again:
        assert again.found_size == size


def test_a_segment_is_retired_only_when_all_of_it_is_public(tmp_path: Path):
    with open_log(tmp_path, **SMALL) as log:
        for _ in range(3):
            fill(log)
            log.append(group(log))
        before = log.store.paths()
        first, *_ = sorted(log.store._ends.values())
        log.store.retire(first - 1)
        assert log.store.paths() == before
        log.store.retire(first)
        assert log.store.paths() == before[1:]
