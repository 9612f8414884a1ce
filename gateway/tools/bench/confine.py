"""One core and so much memory for a command: what a small machine has, on a large one. Linux.

Memory is kept by a control group, version 1 or 2, whichever this machine lets us make; pages of files count in it as on
a small machine, where they give way when memory is short. Without one there is no limit, and the report says so.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

VERSION_1 = Path("/sys/fs/cgroup/memory")
VERSION_2 = Path("/sys/fs/cgroup")


@dataclass(frozen=True, slots=True)
class Group:
    """A control group with a limit. `peak` and `short` name the files of its most, and of how often it was short."""

    directory: Path
    version: int

    def peak_bytes(self) -> int | None:
        """The most that was counted at a time, pages of files included; None where the kernel does not say."""
        name = "memory.max_usage_in_bytes" if self.version == 1 else "memory.peak"
        with contextlib.suppress(OSError):
            return int((self.directory / name).read_text())
        return None

    def killed(self) -> int:
        """How many processes the kernel has ended because there was no memory for them."""
        name = "memory.oom_control" if self.version == 1 else "memory.events"
        counts = dict(line.split() for line in (self.directory / name).read_text().splitlines())
        return int(counts.get("oom_kill", 0))


def confined(command: Sequence[str], core: int, group: Group | None) -> list[str]:
    """The command that runs `command` on one core, inside the group."""
    pinned = ["taskset", "-c", str(core), *command]
    if group is None:
        return pinned
    return ["sh", "-c", 'echo $$ > "$0" && exec "$@"', str(group.directory / "cgroup.procs"), *pinned]


@contextlib.contextmanager
def memory_group(limit_bytes: int) -> Iterator[Group | None]:
    """A control group with this limit, gone afterwards; None where none can be made."""
    made = next((group for group in map(_make, (1, 2), (limit_bytes,) * 2) if group is not None), None)
    try:
        yield made
    finally:
        if made is not None:
            with contextlib.suppress(OSError):  # somebody is still in it
                made.directory.rmdir()


def _make(version: int, limit_bytes: int) -> Group | None:
    """A group of this version, or None."""
    parent = VERSION_1 if version == 1 else VERSION_2
    directory = parent / f"stockade-bench-{os.getpid()}"
    if not (parent / ("memory.limit_in_bytes" if version == 1 else "cgroup.controllers")).exists():
        return None
    try:
        directory.mkdir()
        (directory / ("memory.limit_in_bytes" if version == 1 else "memory.max")).write_text(str(limit_bytes))
    except OSError:
        with contextlib.suppress(OSError):
            directory.rmdir()
        return None
    return Group(directory, version)
