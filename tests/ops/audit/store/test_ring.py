"""The in-flight ring: what is entered and not left is there for the recorder, once the worker is gone."""

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ops.audit.errors import RingError
from ops.audit.store.ring import (
    CONTEXT_BYTES_MAX,
    HEADER_BYTES,
    NOTE_BYTES_MAX,
    SLOTS_MAX,
    InflightRing,
    LeftOver,
    Slot,
    left_over,
    parse,
    ring_files,
)


def number(n: int) -> bytes:
    return n.to_bytes(16, "big")


def test_what_was_entered_and_not_left_is_left_over_once_nobody_holds_the_ring(tmp_path):
    ring = InflightRing.open(tmp_path / "0.ring", 4, b'{"gateway":"h/0"}')
    slots = [ring.enter(number(n), b"note %d" % n) for n in range(3)]
    ring.leave(slots[1])
    path = ring_files(tmp_path)[0]
    assert left_over(path) is None
    ring.close()
    found = left_over(path)
    assert found is not None
    assert found.context == b'{"gateway":"h/0"}'
    assert set(found.slots) == {Slot(number(0), b"note 0"), Slot(number(2), b"note 2")}


def test_a_full_ring_says_so_and_goes_on(tmp_path):
    ring = InflightRing.open(tmp_path / "0.ring", 2)
    one, two = ring.enter(number(1), b""), ring.enter(number(2), b"")
    assert {one, two} == {0, 1}
    assert ring.enter(number(3), b"") == -1
    assert ring.full == 1
    ring.leave(-1)
    ring.leave(one)
    assert ring.enter(number(4), b"") == one
    ring.close()


def test_a_new_worker_never_touches_the_ring_of_the_one_before(tmp_path):
    first = InflightRing.open(tmp_path / "0.ring", 2)
    first.enter(number(1), b"")
    first.close()
    second = InflightRing.open(tmp_path / "0.ring", 2)
    found = [left_over(path) for path in ring_files(tmp_path)]
    assert sum(each is None for each in found) == 1
    assert [each.slots for each in found if each is not None] == [(Slot(number(1), b""),)]
    second.close()


def test_limits_and_one_past_them(tmp_path):
    ring = InflightRing.open(tmp_path / "0.ring", 1, b"x" * CONTEXT_BYTES_MAX)
    assert ring.enter(number(1), b"n" * NOTE_BYTES_MAX) == 0
    with pytest.raises(RingError):
        ring.enter(number(1), b"n" * (NOTE_BYTES_MAX + 1))
    with pytest.raises(RingError):
        ring.enter(b"short", b"")
    ring.close()
    for slots, context in ((0, b""), (SLOTS_MAX + 1, b""), (1, b"x" * (CONTEXT_BYTES_MAX + 1))):
        with pytest.raises(RingError):
            InflightRing.open(tmp_path / "1.ring", slots, context)
    assert left_over(tmp_path / "missing.ring") is None


@given(st.binary(max_size=HEADER_BYTES + 600))
def test_any_bytes_are_a_ring_or_hold_nothing(data):
    assert parse(data).slots == ()


def pipe(path: Path) -> None:
    os.mkfifo(path)


def link(path: Path) -> None:
    path.symlink_to("/dev/zero")


def loop(path: Path) -> None:
    path.symlink_to(path)


def huge(path: Path) -> None:
    path.touch()
    os.truncate(path, 1 << 40)


@pytest.mark.parametrize("make", [pipe, link, loop, huge])
def test_what_is_no_ring_holds_nothing_and_keeps_nobody_waiting(tmp_path, make):
    make(tmp_path / "0.ring")
    assert [left_over(path) for path in ring_files(tmp_path)] == [LeftOver(b"", ())]


def test_a_directory_is_no_ring(tmp_path):
    (tmp_path / "0.ring").mkdir()
    assert ring_files(tmp_path) == []
