import json
import os
import socket
import subprocess
import sys

import pytest

from gateway.tools.bench.machine import (
    MIB,
    TICK_US,
    Group,
    ProcessTree,
    confined,
    filesystem,
    free_pair,
    free_ports,
    machine_busy_us,
    memory_group,
    parse_stat,
    peak_memory,
    role_of,
    workspace,
)

HAPROXY_SOCKET_BYTES_MAX = 97
RAY_DIRECTORY_BYTES = len("/" + "0" * 64 + "/a")

STAT = "{pid} ({command}) {state} {parent} 1 1 0 -1 0 0 0 0 0 {utime} {stime} {cutime} {cstime} 20 0 1 0 {start} 0 0"


def stat(pid, parent, *, command="python", state="S", ticks=(0, 0, 0, 0), start=100):
    times = dict(zip(("utime", "stime", "cutime", "cstime"), ticks, strict=True))
    return STAT.format(pid=pid, command=command, state=state, parent=parent, start=start, **times)


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


def test_a_tree_is_the_root_and_all_below_it_with_memory_counted_in_pages(proc):
    for pid, parent in ((10, 1), (11, 10), (12, 11), (20, 1)):
        proc.put(stat(pid, parent))
    assert set(ProcessTree(10, proc.root).living()) == {10, 11, 12}
    assert ProcessTree(20, proc.root).rss_bytes() == {20: 100 * os.sysconf("SC_PAGE_SIZE")}


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


def test_proportional_memory_is_read_and_a_process_that_ended_has_none(proc, tmp_path):
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
        while peak()["all"] < enough:
            pass
        del held
    assert peak()["all"] >= enough
    assert peak().keys() == {"all", role_of(tree.command(os.getpid()))}


def test_a_workspace_is_gone_afterwards(tmp_path):
    with workspace(tmp_path) as directory:
        (directory / "file").write_text("x")
        assert directory.parent == tmp_path
    assert not directory.exists()


def test_the_default_leaves_room_for_the_sockets_of_the_deepest_peer():
    with workspace(None) as directory:
        assert len(str(directory / "0.0")) + RAY_DIRECTORY_BYTES <= HAPROXY_SOCKET_BYTES_MAX


@pytest.mark.parametrize(
    ("mounts", "kind"),
    [
        ("/dev/a / ext4 rw 0 0\n", "ext4"),
        ("/dev/a / ext4 rw 0 0\ntmpfs {here} tmpfs rw 0 0\n", "tmpfs"),
        ("/dev/a / ext4 rw 0 0\ntmpfs {here}x tmpfs rw 0 0\n", "ext4"),
        ("/dev/a / ext4 rw 0 0\ntmpfs {here} tmpfs rw 0 0\n/dev/b {here} xfs rw 0 0\n", "xfs"),
        ("/dev/a / ext4 rw 0 0\ntmpfs {here}/a\\040b tmpfs rw 0 0\n", "tmpfs"),
    ],
)
def test_the_filesystem_is_that_of_the_nearest_mount(tmp_path, mounts, kind):
    table = tmp_path / "mounts"
    table.write_text(mounts.format(here=tmp_path))
    spaced = tmp_path / "a b"
    spaced.mkdir()
    assert filesystem(spaced, table) == kind


def test_loopback_addresses_stay_on_this_machine():
    ports = free_ports(4)
    assert len(set(ports)) == 4
    for port in ports:
        with socket.socket() as server:
            server.bind(("127.0.0.1", port))


def test_a_port_whose_neighbour_is_taken_is_not_one_of_a_pair(monkeypatch):
    good = free_pair()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        offered = iter([[taken.getsockname()[1] - 1], [65535], [good]])
        monkeypatch.setattr("gateway.tools.bench.machine.free_ports", lambda _: next(offered))
        assert free_pair() == good


def test_a_command_gets_one_core_and_its_group(tmp_path):
    assert confined(["serve", "a b"], 1, None) == ["taskset", "-c", "1", "serve", "a b"]
    (tmp_path / "cgroup.procs").touch()
    program = "import os; print(os.getpid(), len(os.sched_getaffinity(0)))"
    command = confined([sys.executable, "-c", program], 0, Group(tmp_path, 1))
    pid, cores = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
    assert (tmp_path / "cgroup.procs").read_text().strip() == pid
    assert cores == "1"


def test_a_group_keeps_its_limit_and_is_gone_afterwards():
    with memory_group(64 * MIB) as group:
        if group is None:
            pytest.skip("no control group can be made here")
        program = "held = bytearray(128 << 20); print(len(held))"
        done = subprocess.run(confined([sys.executable, "-c", program], 0, group), capture_output=True, check=False)
        assert done.returncode != 0
        assert group.killed() == 1
        peak = group.peak_bytes()
        assert peak is not None
        assert peak <= 64 * MIB
    assert not group.directory.exists()


@pytest.mark.parametrize(
    ("command", "role"),
    [
        ("python -m gateway.host.worker 3", "worker"),
        ("python -m ops.audit.store.recorder_main x.json", "recorder"),
        ("python -m gateway serve /d/stockade.yaml", "supervisor"),
        ('python -m serving.engines.ray.bridge 9 {"address":"127.0.0.1:1"}', "bridge"),
        ("ray::ServeReplica:stockade-kiosk-1:model", "replica"),
        ("ray::ServeController.listen_for_change", "cluster"),
        ("/lib/ray/core/src/ray/raylet/raylet --store_socket_name=x", "cluster"),
        ("python /gateway/tools/bench/servers/ray_stand.py /d/stockade.yaml /d/r 1", "cluster"),
    ],
)
def test_each_process_of_a_cluster_has_its_part(command, role):
    assert role_of(command, "cluster") == role


def test_in_a_private_network_there_is_loopback_and_nothing_else():
    code = """
import json, socket
from gateway.tools.bench.machine import enter_private_network
problem = enter_private_network()
with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()):
    print(json.dumps([problem, [name for _, name in socket.if_nameindex()]]))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    problem, interfaces = json.loads(done.stdout)
    assert interfaces == ["lo"] if problem is None else "unshare" in problem
