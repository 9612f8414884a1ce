"""Segments: what recovery keeps, what it leaves out, and where it must stop."""

import shutil
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ops.audit.errors import LogCorrupted, LogFull, Poisoned
from ops.audit.log.merkle import Frontier
from ops.audit.store.segments import FIRST_TRAILER, HEADER_BYTES, Header, check_tail, parse_header, read, scan
from tests.ops.audit.open_log import OpenLog, open_log
from tests.ops.audit.samples import captured, small

HERE = Path("segment")


def grown(home: Path, groups: int = 4) -> Path:
    """A log with unpublished groups, as a crash leaves it. Returns its segment."""
    with open_log(home) as log:
        for number in range(groups):
            log.append([small(number * 10 + n) for n in range(3)])
        return log.store.paths()[-1]


def recovered(home: Path) -> tuple[int, int]:
    """(size found, torn bytes)."""
    with open_log(home) as log:
        return log.found_size, log.found.torn_bytes


def flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 0x10
    path.write_bytes(data)


@given(st.integers(0, 2**40), st.integers(0, 2**40), st.binary(min_size=32, max_size=32), st.integers(0, 200))
def test_headers_round_trip(number, heartbeats, previous, size):
    frontier = Frontier.restore(size, [bytes([n]) * 32 for n in range(size.bit_count())])
    header = Header(number, heartbeats, previous, b"o" * 32, frontier)
    block = header.pack()
    assert len(block) == HEADER_BYTES
    found = parse_header(block, HERE)
    assert found.pack() == block
    assert found.frontier.hashes() == frontier.hashes()


@given(st.integers(0, HEADER_BYTES - 1), st.integers(1, 255))
def test_any_change_of_a_header_is_seen(at, flipped):
    block = bytearray(Header(1, 0, FIRST_TRAILER, b"o" * 32, Frontier()).pack())
    block[at] ^= flipped
    with pytest.raises(LogCorrupted):
        parse_header(bytes(block), HERE)


@given(st.binary(max_size=300))
def test_any_bytes_after_a_header_are_groups_or_left_out(data):
    segment = scan(Header(1, 0, FIRST_TRAILER, b"o" * 32, Frontier()).pack() + data, HERE)
    assert segment.groups == []


def test_what_was_committed_is_found_again(tmp_path):
    grown(tmp_path)
    assert recovered(tmp_path) == (1 + 4 * 3, 0)
    assert recovered(tmp_path) == (1 + 4 * 3 + 1, 0)  # and the recover entry of the start before


@pytest.mark.parametrize("keep", range(1, 60, 7))
def test_a_torn_last_group_is_left_out_and_a_recover_entry_says_so(tmp_path, keep):
    path = grown(tmp_path)
    data, segment = read(path)
    end = segment.groups[-1].end
    before = segment.groups[-2].end
    cut = before + (end - before) * keep // 60
    path.write_bytes(data[:cut] + bytes(len(data) - cut))
    with open_log(tmp_path) as log:
        assert log.found_size == 1 + 3 * 3
        entry = log.edge.entries(1 + 3 * 3, 1)[0]
        assert (b'"cause":"torn-tail"' in entry) == (log.found.torn_bytes > 0)
        log.append([small(99)])
    assert recovered(tmp_path)[0] == 1 + 3 * 3 + 2


def test_a_group_whose_pages_reached_the_disk_out_of_order_is_torn(tmp_path):
    """Its trailer is there, a frame before it is not: a power cut during its sync."""
    path = grown(tmp_path)
    _, segment = read(path)
    flip(path, segment.groups[-2].end + 40)
    assert recovered(tmp_path)[0] == 1 + 3 * 3


@pytest.mark.parametrize("group", [0, 1, 2])
def test_damage_before_a_durable_group_stops_the_recorder(tmp_path, group):
    path = grown(tmp_path)
    data, segment = read(path)
    start = segment.groups[group].end if group else HEADER_BYTES
    for at in range(start, start + 100, 9):
        flip(path, at)
        with pytest.raises(LogCorrupted) as caught:
            recovered(tmp_path)
        assert caught.value.where == path
        path.write_bytes(data)
    assert recovered(tmp_path)[0] == 1 + 4 * 3


def interrupted(home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A log whose last checkpoint was swapped in but not revealed. Returns its segment."""

    def crash(*_: object) -> None:
        raise KeyboardInterrupt

    with open_log(home) as log:
        log.append([small(1)])
        log.append([small(2)])
        monkeypatch.setattr(log.publisher, "_reveal", crash)
        with pytest.raises(KeyboardInterrupt):
            log.publish()
        return log.store.paths()[-1]


def test_damage_in_what_was_signed_stops_the_recorder_even_at_the_very_end(tmp_path, monkeypatch):
    path = interrupted(tmp_path, monkeypatch)
    flip(path, read(path)[1].groups[-1].end - 200)
    with pytest.raises(LogCorrupted):
        recovered(tmp_path)


def test_a_lost_trailer_of_what_was_signed_stops_the_recorder(tmp_path, monkeypatch):
    path = interrupted(tmp_path, monkeypatch)
    data, segment = read(path)
    path.write_bytes(data[: segment.groups[-1].end - 10] + bytes(len(data) - segment.groups[-1].end + 10))
    with pytest.raises(LogCorrupted, match="the signed checkpoint has"):
        recovered(tmp_path)


def test_a_missing_segment_stops_the_recorder(tmp_path):
    with open_log(tmp_path) as log:
        log.publish()
        log.append([small(1)])
    for path in (tmp_path / "state" / "segments").glob("*.seg"):
        path.unlink()
    with pytest.raises(LogCorrupted):
        recovered(tmp_path)


@pytest.mark.parametrize("unpublished", [0, 2])
def test_segments_that_do_not_continue_what_is_public_stop_the_recorder(tmp_path, unpublished):
    """Both are signed by the log's key: somebody brought back the public part of another history."""
    one, other = tmp_path / "one", tmp_path / "other"
    for number, home in enumerate((one, other)):
        with open_log(home) as log:
            log.say([small(number)])
            for each in range(unpublished):
                log.append([small(10 + each)])
    shutil.rmtree(one / "log")
    (other / "log").rename(one / "log")
    with pytest.raises(LogCorrupted, match="disagree at size"):
        recovered(one)


def test_a_frame_of_another_segment_or_place_is_no_frame(tmp_path):
    path = grown(tmp_path)
    data, segment = read(path)
    group = data[segment.groups[0].end : segment.groups[1].end]
    end = segment.groups[-1].end
    moved = data[:end] + group + data[end + len(group) :]
    assert len(scan(moved, path).groups) == len(segment.groups)
    check_tail(moved, scan(moved, path), path, 0)


def fill(log: OpenLog, segments: int) -> None:
    number = 0
    while len(log.store.paths()) < segments or log.appender._segment.number < segments:
        log.append([small(number * 50 + n) for n in range(50)])
        number += 1
        assert number < 1000


def test_segments_follow_one_another_and_published_ones_are_recycled(tmp_path):
    with open_log(tmp_path, append_bytes_max=65_536, segment_bytes=131_072) as log:
        fill(log, 4)
        size = log.appender.size
        assert len(log.store.paths()) == 4
        log.publish()
        assert [path.stem[-1] for path in log.store.paths()] == ["3", "4"]  # the current one and the tail before it
        fill(log, 6)
        size = log.appender.size
    assert recovered(tmp_path)[0] == size


def test_a_group_goes_whole_into_one_segment(tmp_path):
    with open_log(tmp_path, append_bytes_max=65_536, segment_bytes=131_072) as log:
        for number in range(30):
            blob = bytes([number]) * 30_000
            log.append([captured(number, blob)], [blob])
        size = log.appender.size
    with open_log(tmp_path, append_bytes_max=65_536, segment_bytes=131_072) as again:
        assert again.found_size == size
        assert again.edge.blobs(0, size) == [bytes([number]) * 30_000 for number in range(30)]


def test_no_room_for_a_segment_changes_nothing(tmp_path, monkeypatch):
    import errno
    import os

    def no_room(*_: object) -> None:
        raise OSError(errno.ENOSPC, "full")

    with open_log(tmp_path, append_bytes_max=65_536, segment_bytes=131_072) as log:
        fill(log, 1)
        monkeypatch.setattr(os, "posix_fallocate", no_room)
        with pytest.raises(LogFull):
            fill(log, 2)
        size = log.appender.size
        monkeypatch.undo()
        assert log.append([small(1)]) == size
        monkeypatch.setattr(os, "fdatasync", no_room)
        with pytest.raises(Poisoned):
            log.append([small(2)])


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(at=st.integers(0, 4000), value=st.integers(0, 255))
def test_any_single_byte_of_a_segment_is_kept_left_out_or_refused(tmp_path_factory, at, value):
    home = tmp_path_factory.mktemp("byte")
    path = grown(home)
    data = bytearray(path.read_bytes())
    data[HEADER_BYTES + at] = value
    path.write_bytes(data)
    try:
        size, _ = recovered(home)
    except LogCorrupted:
        return
    assert size in (1 + 4 * 3, 1 + 3 * 3)
