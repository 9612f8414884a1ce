"""CPU time and memory of a process and all it started, from /proc.

Rules: a process that was seen once stays known, by its number and its start time, also when its parent ends and it is
handed to another; so daemons are neither lost in the accounts nor left behind. Linux only.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

TICK_US = 1_000_000 // os.sysconf("SC_CLK_TCK")
SAMPLE_S = 0.05


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
    return Stat(
        pid=int(pid),
        parent=int(fields[1]),
        start_ticks=int(fields[19]),
        cpu_us=ticks * TICK_US,
        zombie=fields[0] == "Z",
    )


def machine_busy_us(proc: Path = Path("/proc")) -> int:
    """CPU time that all cores together have not idled since boot."""
    fields = (proc / "stat").read_text().splitlines()[0].split()[1:]
    user, nice, system, _idle, _iowait, irq, softirq = (int(field) for field in fields[:7])
    return (user + nice + system + irq + softirq) * TICK_US


class ProcessTree:
    """A process and its descendants. Not thread-safe."""

    def __init__(self, root: int, proc: Path = Path("/proc")) -> None:
        self._proc = proc
        self._known: dict[int, int] = {}
        stat = self._stat(root)
        if stat is not None:
            self._known[root] = stat.start_ticks

    def living(self) -> dict[int, Stat]:
        """Every known process that still runs, by number; looks for new descendants first."""
        return {pid: stat for pid, stat in self._refresh().items() if not stat.zombie}

    def cpu_us(self) -> int:
        """CPU time of the living, and of the dead whose parents live and waited for them or have not yet."""
        return sum(stat.cpu_us for stat in self._refresh().values())

    def rss_bytes(self) -> dict[int, int]:
        """Resident memory of each living process."""
        return {pid: size for pid in self.living() if (size := self._rss(pid)) is not None}

    def pss_bytes(self) -> dict[int, int]:
        """Proportional memory of each living process: pages that several share are shared out among them."""
        return {pid: size for pid in self.living() if (size := self._pss(pid)) is not None}

    def command(self, pid: int) -> str:
        """The command line, arguments separated by spaces; empty when the process is gone."""
        try:
            raw = (self._proc / str(pid) / "cmdline").read_bytes()
        except OSError:
            return ""
        return raw.replace(b"\0", b" ").decode(errors="replace").strip()

    def _refresh(self) -> dict[int, Stat]:
        stats = {stat.pid: stat for stat in self._all()}
        known = {pid: start for pid, start in self._known.items() if pid in stats and stats[pid].start_ticks == start}
        grew = True
        while grew:
            found = {stat.pid: stat.start_ticks for stat in stats.values() if stat.parent in known} | known
            grew, known = len(found) > len(known), found
        self._known = known
        return {pid: stats[pid] for pid in known}

    def _all(self) -> Iterator[Stat]:
        for entry in self._proc.iterdir():
            if entry.name.isdigit() and (stat := self._stat(int(entry.name))) is not None:
                yield stat

    def _stat(self, pid: int) -> Stat | None:
        try:
            return parse_stat((self._proc / str(pid) / "stat").read_text())
        except OSError:
            return None  # it ended between the listing and the reading

    def _rss(self, pid: int) -> int | None:
        try:
            pages = int((self._proc / str(pid) / "statm").read_text().split()[1])
        except OSError:
            return None
        return pages * os.sysconf("SC_PAGE_SIZE")

    def _pss(self, pid: int) -> int | None:
        try:
            rollup = (self._proc / str(pid) / "smaps_rollup").read_text()
        except OSError:
            return None
        lines = (line.split() for line in rollup.splitlines() if line.startswith("Pss:"))
        return next((int(fields[1]) * 1024 for fields in lines), None)


@contextmanager
def peak_memory(tree: ProcessTree) -> Iterator[Callable[[], int]]:
    """The most proportional memory, in bytes, that all of them had at one time since the block began."""
    samples = [0]
    over = threading.Event()

    def watch() -> None:
        while not over.wait(SAMPLE_S):
            samples.append(sum(tree.pss_bytes().values()))

    thread = threading.Thread(target=watch, name="memory")
    thread.start()
    try:
        yield lambda: max(samples)
    finally:
        over.set()
        thread.join()
