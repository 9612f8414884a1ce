import os
import subprocess
import sys

import pytest

from gateway.tools.bench.procfs import TICK_US, ProcessTree, machine_busy_us, parse_stat, peak_memory

STAT = "{pid} ({command}) {state} {parent} 1 1 0 -1 0 0 0 0 0 {utime} {stime} {cutime} {cstime} 20 0 1 0 {start} 0 0"


def stat(pid, parent, *, command="python", state="S", ticks=(0, 0, 0, 0), start=100):
    utime, stime, cutime, cstime = ticks
    return STAT.format(
        pid=pid,
        command=command,
        state=state,
        parent=parent,
        utime=utime,
        stime=stime,
        cutime=cutime,
        cstime=cstime,
        start=start,
    )


class Proc:
    def __init__(self, root):
        self.root = root
        (root / "self").mkdir()  # not a number: skipped

    def put(self, line):
        directory = self.root / line.split(" ")[0]
        directory.mkdir(exist_ok=True)
        (directory / "stat").write_text(line)
        (directory / "statm").write_text("500 100 20 1 0 50 0")

    def drop(self, pid):
        for file in (self.root / str(pid)).iterdir():
            file.unlink()
        (self.root / str(pid)).rmdir()


@pytest.fixture
def proc(tmp_path):
    return Proc(tmp_path)


@pytest.mark.parametrize("command", ["python", "a b", "x) R 7 (y", ""])
def test_a_command_may_hold_spaces_and_brackets(command):
    found = parse_stat(stat(42, 7, command=command, ticks=(1, 2, 4, 8), start=99))
    assert (found.pid, found.parent, found.start_ticks, found.cpu_us, found.zombie) == (42, 7, 99, 15 * TICK_US, False)


def test_a_tree_is_the_root_and_all_below_it(proc):
    for pid, parent in ((10, 1), (11, 10), (12, 11), (20, 1)):
        proc.put(stat(pid, parent))
    assert set(ProcessTree(10, proc.root).living()) == {10, 11, 12}


def test_children_that_were_waited_for_stay_in_the_account(proc):
    proc.put(stat(10, 1, ticks=(3, 1, 0, 0)))
    proc.put(stat(11, 10, ticks=(5, 0, 0, 0)))
    tree = ProcessTree(10, proc.root)
    assert tree.cpu_us() == 9 * TICK_US
    proc.drop(11)
    proc.put(stat(10, 1, ticks=(3, 1, 5, 0)))
    assert tree.cpu_us() == 9 * TICK_US


def test_a_daemon_that_was_seen_is_not_lost_with_its_parent(proc):
    proc.put(stat(10, 1))
    proc.put(stat(11, 10))
    tree = ProcessTree(10, proc.root)
    assert set(tree.living()) == {10, 11}
    proc.drop(10)
    proc.put(stat(11, 1))
    assert set(tree.living()) == {11}


def test_a_number_that_was_given_to_another_process_is_not_ours(proc):
    proc.put(stat(10, 1))
    tree = ProcessTree(10, proc.root)
    proc.put(stat(10, 1, start=5000))
    proc.put(stat(11, 10, start=5001))
    assert tree.living() == {}


def test_what_has_ended_but_was_not_waited_for_costs_and_does_not_live(proc):
    proc.put(stat(10, 1))
    proc.put(stat(11, 10, state="Z", ticks=(7, 0, 0, 0)))
    tree = ProcessTree(10, proc.root)
    assert set(tree.living()) == {10}
    assert tree.cpu_us() == 7 * TICK_US


def test_resident_memory_is_counted_in_pages(proc):
    proc.put(stat(10, 1))
    assert ProcessTree(10, proc.root).rss_bytes() == {10: 100 * os.sysconf("SC_PAGE_SIZE")}


def test_the_machine_is_busy_with_everything_but_idling(tmp_path):
    (tmp_path / "stat").write_text("cpu  1 2 4 1000 500 8 16 0 0 0\ncpu0 1 2 4 1000 500 8 16 0 0 0\n")
    assert machine_busy_us(tmp_path) == 31 * TICK_US


def test_a_real_process_is_charged_for_its_child():
    burn = "x = 0\nfor i in range(3_000_000): x += i"
    parent = (
        f"import subprocess, sys; subprocess.run([sys.executable, '-c', {burn!r}]); print('done', flush=True); input()"
    )
    process = subprocess.Popen([sys.executable, "-c", parent], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        tree = ProcessTree(process.pid)
        assert process.stdout.readline() == b"done\n"
        assert tree.cpu_us() >= 2 * TICK_US
        assert tree.command(process.pid).startswith(sys.executable)
        assert tree.rss_bytes()[process.pid] > 1 << 20
    finally:
        process.communicate(b"\n")
    assert tree.living() == {}
    assert tree.command(process.pid) == ""


def test_proportional_memory_is_read_and_a_process_that_ended_has_none(tmp_path):
    proc = Proc(tmp_path)
    for pid, parent in ((10, 1), (11, 10), (12, 10)):
        proc.put(stat(pid, parent))
    for pid, kibibytes in ((10, 7), (11, 5)):
        lines = f"00400000-ffffff ---p 00000000 00:00 0 [rollup]\nRss: 99 kB\nPss: {kibibytes} kB\nPss_Anon: 3 kB\n"
        (tmp_path / str(pid) / "smaps_rollup").write_text(lines)
    assert ProcessTree(10, tmp_path).pss_bytes() == {10: 7 * 1024, 11: 5 * 1024}


def test_the_peak_stays_when_the_memory_is_given_back():
    tree = ProcessTree(os.getpid())
    rest = sum(tree.pss_bytes().values())
    enough = rest + (48 << 20)
    with peak_memory(tree) as peak:
        held = b"\x01" * (64 << 20)
        while peak() < enough:
            pass
        del held
    assert peak() >= enough
