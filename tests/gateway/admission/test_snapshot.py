"""What a limiter knows survives it, less the time that passed, and nothing that is not one of ours does harm."""

import stat

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.admission.limiter import Bucket, Rule
from gateway.admission.memory import MemoryLimiter
from gateway.admission.snapshot import read_snapshot, write_snapshot

S = 1_000_000_000
WALL = 1_795_630_000 * S
DEBTS = [("a", 10 * S), ("b", 3 * S), ("c/ü", 1)]


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "worker-0.limits"
    write_snapshot(path, DEBTS, WALL)
    return path


def test_debts_come_back_less_the_time_that_passed(file):
    assert read_snapshot(file, WALL) == DEBTS
    assert read_snapshot(file, WALL + 1) == [("a", 10 * S - 1), ("b", 3 * S - 1)]
    assert read_snapshot(file, WALL + 3 * S) == [("a", 7 * S)]
    assert read_snapshot(file, WALL + 3600 * S) == []


def test_a_clock_that_was_set_back_adds_nothing(file):
    assert read_snapshot(file, WALL - 3600 * S) == DEBTS


def test_it_is_replaced_whole_and_nobody_else_may_read_it(file):
    write_snapshot(file, [("z", S)], WALL)
    assert read_snapshot(file, WALL) == [("z", S)]
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert [path.name for path in file.parent.iterdir()] == [file.name]


def test_no_file_is_no_debts(tmp_path):
    assert read_snapshot(tmp_path / "none", WALL) == []
    assert read_snapshot(tmp_path, WALL) == []


def test_another_format_is_no_debts(file):
    data = file.read_bytes()
    assert data[1] == 1
    file.write_bytes(data[:1] + b"\x02" + data[2:])
    assert read_snapshot(file, WALL) == []


@given(data=st.binary(max_size=64), cut=st.integers(0, 40))
def test_any_bytes_give_debts_or_nothing(tmp_path_factory, data, cut):
    path = tmp_path_factory.getbasetemp() / "any.limits"
    write_snapshot(path, DEBTS, WALL)
    path.write_bytes(path.read_bytes()[:cut] + data)
    for key, debt_ns in read_snapshot(path, WALL):
        assert isinstance(key, str)
        assert debt_ns > 0


def test_a_limiter_goes_on_where_another_ended(tmp_path):
    bucket = Bucket("principal-requests/a", Rule("principal-requests", S, 10))
    before, after = MemoryLimiter(), MemoryLimiter()
    now_ns, later_ns = 5 * S, 900 * S  # another machine's monotonic clock
    assert before.spend(((bucket, 9),), now_ns).admitted
    write_snapshot(tmp_path / "w", before.debts(now_ns), WALL)
    for key, debt_ns in read_snapshot(tmp_path / "w", WALL + 2 * S):
        after.learn(key, later_ns + debt_ns, later_ns)
    assert after.spend(((bucket, 0),), later_ns).remaining == 3
