"""The machine under a benchmark: its facts, a network and a core of our own, CPU time and memory from /proc. Linux.

Rules:
- A process that was seen once stays known, by its number and its start time, also when its parent ends and it is
  handed to another. So daemons are neither lost in the accounts nor left behind.
- Work lies on a real disk: in memory, fdatasync costs nothing. So the default is /var/tmp, and the report names the
  filesystem. The path is short because Ray puts sockets far below it, and a socket's path has 107 bytes.
- Some peers listen on every interface. In a network namespace that holds only loopback nobody else can reach them.
- Memory is limited by a control group, version 1 or 2; pages of files count in it. Without one there is no limit, and
  the report says so.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import platform
import resource
import shutil
import socket
import struct
import subprocess
import tempfile
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

OUR_PACKAGES = ("stockade", "grpcio", "protobuf", "numpy", "onnxruntime", "uvloop")
ON_DISK = Path("/var/tmp")  # noqa: S108  # a directory of our own is made inside
TICK_US = 1_000_000 // os.sysconf("SC_CLK_TCK")
SAMPLE_S = 0.05
MIB = 1 << 20
CLONE_NEWNET = 0x40000000
SIOCSIFFLAGS = 0x8914
IFF_UP, IFF_RUNNING = 0x1, 0x40
MEMORY_GROUPS = {  # by version: parent, a file that shows it is there, and those of limit, peak and kills
    1: (Path("/sys/fs/cgroup/memory"), "memory.limit_in_bytes", "memory.max_usage_in_bytes", "memory.oom_control"),
    2: (Path("/sys/fs/cgroup"), "memory.max", "memory.peak", "memory.events"),
}


@contextlib.contextmanager
def workspace(beside: Path | None) -> Iterator[Path]:
    """A directory inside `beside` (ON_DISK when None), gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="sb-", dir=beside or ON_DISK, ignore_cleanup_errors=True) as name:
        yield Path(name)


def filesystem(path: Path, mounts: Path = Path("/proc/self/mounts")) -> str:
    """The kind of filesystem that `path` lies on, such as `ext4`."""
    kinds = {}
    for line in mounts.read_text().splitlines():
        _device, point, kind, *_rest = line.split(" ")
        kinds[Path(point.encode().decode("unicode_escape"))] = kind  # a later mount hides an earlier one
    absolute = path.resolve()
    return next(kinds[point] for point in (absolute, *absolute.parents) if point in kinds)


def machine_facts(directory: Path) -> dict[str, str | int | float]:
    """The machine now; `directory` is where the audit log will lie."""
    models = (line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name"))
    return {
        "processor": next(models, f":{platform.machine()}").partition(":")[2].strip(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "kernel": platform.release(),
        "filesystem": filesystem(directory),
        "load_average_before": round(os.getloadavg()[0], 2),
        "niceness": os.nice(0),
    }


def h2load_missing() -> str | None:
    """How to install the load generator, or None when it is there."""
    return None if shutil.which("h2load") else "h2load is not installed: apt-get install nghttp2-client"


def our_versions() -> dict[str, str]:
    """Ours, and the load generator's where it is installed."""
    found = {"python": platform.python_version()}
    if h2load_missing() is None:
        command = ["h2load", "--version"]
        found["h2load"] = subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
    return found | {name: version(name) for name in OUR_PACKAGES}


def enter_private_network() -> str | None:
    """Move this process, and all it starts from here on, into a new network. No way back.

    Returns None when that is so, otherwise what to do about it; then nothing has changed. Call it before threads run.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(CLONE_NEWNET) != 0:
        problem = os.strerror(ctypes.get_errno()).lower()
        return f"no network of its own ({problem}): run it as root, or put `unshare -rn` before the command"
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        fcntl.ioctl(control, SIOCSIFFLAGS, struct.pack("16sh14x", b"lo", IFF_UP | IFF_RUNNING))
    return None


def free_ports(count: int) -> list[int]:
    """Port numbers on loopback that nobody uses at this moment."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


def free_pair() -> int:
    """A port number on loopback that nobody uses, nor the next one: peers put their HTTP beside their gRPC."""
    while True:
        (port,) = free_ports(1)
        with contextlib.suppress(OSError, OverflowError), socket.socket() as beside:
            beside.bind(("127.0.0.1", port + 1))
            return port


@dataclass(frozen=True, slots=True)
class Group:
    """A control group with a memory limit, version 1 or 2."""

    directory: Path
    version: int

    def peak_bytes(self) -> int | None:
        """The most that was counted at a time, pages of files included; None where the kernel does not say."""
        with contextlib.suppress(OSError):
            return int((self.directory / MEMORY_GROUPS[self.version][2]).read_text())
        return None

    def killed(self) -> int:
        """How many processes the kernel has ended because there was no memory for them."""
        lines = (self.directory / MEMORY_GROUPS[self.version][3]).read_text().splitlines()
        return int(dict(line.split() for line in lines).get("oom_kill", 0))


def confined(command: Sequence[str], core: int, group: Group | None) -> list[str]:
    """The command that runs `command` on one core, inside the group."""
    pinned = ["taskset", "-c", str(core), *command]
    if group is None:
        return pinned
    return ["sh", "-c", 'echo $$ > "$0" && exec "$@"', str(group.directory / "cgroup.procs"), *pinned]


@contextlib.contextmanager
def memory_group(limit_bytes: int) -> Iterator[Group | None]:
    """A control group with this limit, gone afterwards; None where none can be made."""
    group = next((made for number in MEMORY_GROUPS if (made := _make_group(number, limit_bytes))), None)
    try:
        yield group
    finally:
        if group is not None:
            with contextlib.suppress(OSError):  # somebody is still in it
                group.directory.rmdir()


def _make_group(number: int, limit_bytes: int) -> Group | None:
    parent, limit, *_ = MEMORY_GROUPS[number]
    group = Group(parent / f"stockade-bench-{os.getpid()}", number)
    if not (parent / (limit if number == 1 else "cgroup.controllers")).exists():
        return None
    try:
        group.directory.mkdir()
        (group.directory / limit).write_text(str(limit_bytes))
    except OSError:
        with contextlib.suppress(OSError):
            group.directory.rmdir()
        return None
    return group


@dataclass(frozen=True, slots=True)
class Stat:
    """What we need of /proc/<pid>/stat. CPU time is user plus system, and includes children that were waited for."""

    pid: int
    parent: int
    start_ticks: int
    cpu_us: int
    zombie: bool


def parse_stat(line: str) -> Stat:
    """Read one /proc/<pid>/stat (proc_pid_stat(5)). The command may hold spaces and brackets: count from its end."""
    pid, _, rest = line.partition(" (")
    fields = rest[rest.rindex(")") + 2 :].split()
    ticks = sum(int(field) for field in fields[11:15])  # utime, stime, cutime, cstime: fields 14 to 17 of the manual
    return Stat(int(pid), int(fields[1]), int(fields[19]), ticks * TICK_US, zombie=fields[0] == "Z")


def process_cpu_us(pid: int) -> int:
    """CPU time of one process so far."""
    return parse_stat(Path(f"/proc/{pid}/stat").read_text()).cpu_us


def children_cpu_us() -> int:
    """CPU time of all that this process started and that has ended: of h2load, while no server does."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return round((usage.ru_utime + usage.ru_stime) * 1e6)


def machine_busy_us(proc: Path = Path("/proc")) -> int:
    """CPU time that all cores together have not idled since boot."""
    fields = (proc / "stat").read_text().splitlines()[0].split()[1:]
    user, nice, system, _idle, _iowait, irq, softirq = (int(field) for field in fields[:7])
    return (user + nice + system + irq + softirq) * TICK_US


def role_of(command: str, other: str = "supervisor") -> str:
    """What a process of a gateway, or of its cluster, is by its command line; `other` when nothing says so."""
    signs = {
        "recorder_main": "recorder",
        "gateway.host.worker": "worker",
        "gateway serve": "supervisor",
        "serving.engines.ray.bridge": "bridge",
    }
    if command.startswith("ray::ServeReplica:"):
        return "replica"
    return next((role for sign, role in signs.items() if sign in command), other)


class ProcessTree:
    """A process and its descendants. Not thread-safe."""

    def __init__(self, root: int, proc: Path = Path("/proc")) -> None:
        self._proc = proc
        stat = self._stat(root)
        self._known: dict[int, int] = {} if stat is None else {root: stat.start_ticks}

    def living(self) -> dict[int, Stat]:
        """Every known process that still runs, by number; looks for new descendants first."""
        return {pid: stat for pid, stat in self._refresh().items() if not stat.zombie}

    def cpu_us(self) -> int:
        """CPU time of the living, and of the dead whose parents live and waited for them or have not yet."""
        return sum(stat.cpu_us for stat in self._refresh().values())

    def cpu_us_by_role(self, other: str = "supervisor") -> Counter[str]:
        """CPU time of the living by `role_of`; processes of one role added up."""
        found: Counter[str] = Counter()
        for pid, stat in self.living().items():
            found[role_of(self.command(pid), other)] += stat.cpu_us
        return found

    def rss_bytes(self) -> dict[int, int]:
        """Resident memory of each living process."""
        page = os.sysconf("SC_PAGE_SIZE")
        texts = {pid: self._read(pid, "statm") for pid in self.living()}
        return {pid: int(text.split()[1]) * page for pid, text in texts.items() if text}

    def pss_bytes(self) -> dict[int, int]:
        """Proportional memory of each living process: pages that several share are shared out among them."""
        found = {}
        for pid in self.living():
            for line in self._read(pid, "smaps_rollup").splitlines():
                if line.startswith("Pss:"):
                    found[pid] = int(line.split()[1]) * 1024
        return found

    def command(self, pid: int) -> str:
        """The command line, arguments separated by spaces; empty when the process is gone."""
        return self._read(pid, "cmdline").replace("\0", " ").strip()

    def _refresh(self) -> dict[int, Stat]:
        numbers = (int(entry.name) for entry in self._proc.iterdir() if entry.name.isdigit())
        stats = {pid: stat for pid in numbers if (stat := self._stat(pid)) is not None}
        known = {pid: start for pid, start in self._known.items() if pid in stats and stats[pid].start_ticks == start}
        grew = True
        while grew:
            found = {stat.pid: stat.start_ticks for stat in stats.values() if stat.parent in known} | known
            grew, known = len(found) > len(known), found
        self._known = known
        return {pid: stats[pid] for pid in known}

    def _stat(self, pid: int) -> Stat | None:
        text = self._read(pid, "stat")
        return parse_stat(text) if text else None

    def _read(self, pid: int, name: str) -> str:
        """A file of a process; empty when it has ended meanwhile."""
        try:
            return (self._proc / str(pid) / name).read_bytes().decode(errors="replace")
        except OSError:
            return ""


@contextlib.contextmanager
def peak_memory(tree: ProcessTree, every_s: float = SAMPLE_S) -> Iterator[Callable[[], dict[str, int]]]:
    """The most proportional memory in bytes that all had at one time since the block began: `all`, and by role."""
    peak: dict[str, int] = {"all": 0}
    over = threading.Event()

    def watch() -> None:
        nonlocal peak
        while True:
            sizes = tree.pss_bytes()
            sample = Counter({"all": sum(sizes.values())})
            for pid, size in sizes.items():
                sample[role_of(tree.command(pid))] += size
            if sample["all"] > peak["all"]:
                peak = dict(sample)
            if over.wait(every_s):
                return

    thread = threading.Thread(target=watch, name="memory")
    thread.start()
    try:
        yield lambda: peak
    finally:
        over.set()
        thread.join()
