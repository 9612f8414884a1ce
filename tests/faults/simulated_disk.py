"""A disk that forgets: what a file system may make of calls that no sync has covered, under the code that writes logs.

The live files lie in a real directory (in memory, where the machine has one), so that reading needs no stand-in. Every
call of `os` that changes something below that directory is noted as well, and `crash` makes a directory of what a power
cut might leave. Everything is drawn from one `random.Random`: the same seed, the same disaster. Rules, those of POSIX
at its worst (Pillai et al., OSDI 2014, section 3):

1. Bytes are durable after a sync of their file. Of others each sector of 512 bytes is there or not, by itself: torn.
2. A name is durable after a sync of its directory. Of others any subset may be, in any order but that of changes to the
   same name; a rename is there as a whole or not at all.
3. After a sync that failed the kernel has dropped what it could not write, and the next one succeeds.
4. A call that failed may have happened all the same; a write may take less than it was given.

It simulates no threads: the code under it must be driven from one. SQLite writes past `os`; the compare-and-swap of the
lock database is one call that is durable when it returns (`LockRow`), which is what SQLite promises.
"""

import errno
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any
from unittest.mock import patch

from ops.audit.errors import AppenderRunning

SECTOR_BYTES = 512
SHORT = errno.EAGAIN  # in `faults`: no error, but a write that takes less than it was given
CHANCES = (0.0, 0.2, 0.5, 0.8, 1.0)  # that something unsynced survives; one for each crash and kind
_CALLS = ("open", "close", "write", "pwritev", "fsync", "fdatasync", "posix_fallocate", "rename", "replace")
_CALLS += ("mkdir", "unlink", "rmdir")
_REAL: dict[str, Callable[..., Any]] = {name: getattr(os, name) for name in _CALLS}


class PowerCut(BaseException):
    """Nothing happens after this."""


@dataclass(eq=False, slots=True)
class File:
    """The bytes on the device, and the writes that no sync has covered: (offset, bytes), None for a cut to nothing."""

    durable: bytearray = field(default_factory=bytearray)
    pending: list[tuple[int, bytes] | None] = field(default_factory=list)


@dataclass(eq=False, slots=True)
class Directory:
    """The names on the device. A directory without a durable name is lost with all that is in it."""

    durable: dict[str, "File | Directory"] = field(default_factory=dict)


Node = File | Directory
Change = list[tuple[Directory, str, Node | None]]  # names that change together


@dataclass(slots=True)
class _Opened:
    """A descriptor: what it is of, and where the next `write` goes."""

    node: Node
    offset: int = 0


def put(content: bytearray, offset: int, data: bytes) -> None:
    if len(content) < offset:
        content.extend(bytes(offset - len(content)))
    content[offset : offset + len(data)] = data


class SimulatedDisk:
    """One life of a disk below `root`, from mount to power cut.

    `cut_at` is the number of the changing call that the power cut falls into; `faults` are errors by such numbers.
    """

    def __init__(self, root: Path, random: Random) -> None:
        self.root = root
        self.calls = 0
        self.cut_at = 0
        self.faults: dict[int, int] = {}
        self.injected = 0
        self.rows: list[bytes] = []  # every checkpoint that the lock database has held
        self._down = False
        self._random = random
        self._top = Directory()
        self._live: dict[str, Node] = {str(root): self._top}
        self._descriptors: dict[int, _Opened] = {}
        self._changes: list[Change] = []
        root.mkdir(parents=True, exist_ok=True)

    # What survives

    def crash(self, root: Path) -> "SimulatedDisk":
        """The disk after a power cut, in another directory, with everything on it durable."""
        after = SimulatedDisk(root, self._random)
        after.rows = list(self.rows)
        lost: set[tuple[Directory, str]] = set()
        chance = self._random.choice(CHANCES)
        for change in self._changes:
            names = {(directory, name) for directory, name, _ in change}
            if lost & names or self._random.random() >= chance:
                lost |= names
            else:
                self._rename(change)
        for node in dict.fromkeys(self._live.values()):
            if isinstance(node, File):
                self._tear(node)
        after._fill(self._top, after._top, root)
        return after

    def revive(self) -> None:
        """The same disk for the next process, after one that was killed: nothing is lost, nothing more is durable."""
        self.calls = self.cut_at = self.injected = 0
        self.faults.clear()
        self._down = False

    def _tear(self, file: File) -> None:
        """Keep any sectors of what was not synced."""
        chance = self._random.choice(CHANCES)
        for write in file.pending:
            if write is None:
                if self._random.random() < chance:
                    file.durable.clear()
                continue
            offset, data = write
            end = offset + len(data)
            while offset < end:
                stop = min(end, (offset // SECTOR_BYTES + 1) * SECTOR_BYTES)
                if self._random.random() < chance:
                    put(file.durable, offset, data[len(data) - (end - offset) : len(data) - (end - stop)])
                offset = stop
        file.pending.clear()

    def _fill(self, old: Directory, new: Directory, path: Path) -> None:
        for name, node in old.durable.items():
            below = path / name
            if isinstance(node, Directory):
                below.mkdir()
                made: Node = Directory()
                self._live[str(below)] = made
                self._fill(node, made, below)
            else:
                below.write_bytes(node.durable)
                made = File(bytearray(node.durable))
                self._live[str(below)] = made
            new.durable[name] = made

    @staticmethod
    def _rename(change: Change) -> None:
        for directory, name, node in change:
            if node is None:
                directory.durable.pop(name, None)
            else:
                directory.durable[name] = node

    def _sync(self, node: Node) -> None:
        if isinstance(node, File):
            for write in node.pending:
                if write is None:
                    node.durable.clear()
                else:
                    put(node.durable, *write)
            node.pending.clear()
            return
        wanted: set[tuple[Directory, str]] = set()
        synced: list[Change] = []
        for change in reversed(self._changes):  # with what was done to the same names before
            names = {(directory, name) for directory, name, _ in change}
            if wanted & names or any(directory is node for directory, _ in names):
                wanted |= names
                synced.insert(0, change)
        for change in synced:
            self._rename(change)
            self._changes.remove(change)

    # The calls

    def call(self, happens: Callable[[], Any]) -> Any:
        """One call that changes something: it is cut short by the power, fails, or happens."""
        if self._down:
            raise PowerCut
        self.calls += 1
        if self.calls == self.cut_at:
            if self._random.random() < 0.5:
                happens()
            self._down = True
            raise PowerCut
        fault = self.faults.get(self.calls)
        if fault is not None and fault != SHORT:
            self.injected += 1
            if self._random.random() < 0.5:
                happens()
            raise OSError(fault, os.strerror(fault))
        return happens()

    @contextmanager
    def running(self) -> Iterator[None]:
        """Have this process's calls below `root` go to this disk."""
        with ExitStack() as stack:
            for name in _CALLS:
                stack.enter_context(patch.object(os, name, getattr(self, f"do_{name}")))
            try:
                yield
            finally:
                for descriptor in [*self._descriptors]:
                    self.do_close(descriptor)

    def _place(self, path: Any) -> tuple[Directory, str]:
        parent, _, name = os.fspath(path).rpartition("/")
        directory = self._live[parent]
        assert isinstance(directory, Directory)
        return directory, name

    def _is_ours(self, path: Any) -> bool:
        text = os.fspath(path)
        return isinstance(text, str) and (text + "/").startswith(f"{self.root}/")

    def do_open(self, path: Any, flags: int, mode: int = 0o777, **more: Any) -> int:
        if not self._is_ours(path):
            return int(_REAL["open"](path, flags, mode, **more))
        key = os.fspath(path)

        def happens() -> int:
            descriptor = int(_REAL["open"](path, flags & ~os.O_DIRECT, mode))
            node = self._live.get(key)
            if node is None:
                node = self._live[key] = File()
                self._changes.append([(*self._place(key), node)])
            elif flags & os.O_TRUNC and isinstance(node, File):
                node.pending.append(None)
            self._descriptors[descriptor] = _Opened(node)
            return descriptor

        creates = flags & os.O_CREAT and key not in self._live
        return int(self.call(happens) if creates or flags & os.O_TRUNC else happens())

    def do_close(self, descriptor: int) -> None:
        self._descriptors.pop(descriptor, None)
        _REAL["close"](descriptor)

    def _write(self, descriptor: int, data: bytes, offset: int) -> int:
        if self.faults.get(self.calls + 1) == SHORT and len(data) > 1:
            self.injected += 1
            data = data[: self._random.randrange(1, len(data))]
        node = self._descriptors[descriptor].node
        assert isinstance(node, File)

        def happens() -> int:
            os.pwrite(descriptor, data, offset)
            node.pending.append((offset, data))
            return len(data)

        return int(self.call(happens))

    def do_write(self, descriptor: int, data: Any) -> int:
        opened = self._descriptors.get(descriptor)
        if opened is None:
            return int(_REAL["write"](descriptor, data))
        written = self._write(descriptor, bytes(data), opened.offset)
        opened.offset += written
        return written

    def do_pwritev(self, descriptor: int, parts: Sequence[Any], offset: int, flags: int = 0) -> int:
        if descriptor not in self._descriptors:
            return int(_REAL["pwritev"](descriptor, parts, offset, flags))
        return self._write(descriptor, b"".join(parts), offset)

    def do_posix_fallocate(self, descriptor: int, offset: int, length: int) -> None:
        if descriptor not in self._descriptors:
            _REAL["posix_fallocate"](descriptor, offset, length)
            return
        node = self._descriptors[descriptor].node
        assert isinstance(node, File)

        def happens() -> None:
            _REAL["posix_fallocate"](descriptor, offset, length)
            node.pending.append((offset + length, b""))

        self.call(happens)

    def do_fsync(self, descriptor: int) -> None:
        opened = self._descriptors.get(descriptor)
        if opened is None:
            _REAL["fsync"](descriptor)
            return
        try:
            self.call(lambda: self._sync(opened.node))
        except OSError:
            if isinstance(opened.node, File):  # rule 3; of names the journal is what it is
                self._tear(opened.node)
            raise

    do_fdatasync = do_fsync

    def do_rename(self, source: Any, target: Any, **more: Any) -> None:
        if not self._is_ours(source):
            _REAL["rename"](source, target, **more)
            return

        def happens() -> None:
            _REAL["rename"](source, target)
            node = self._live.pop(os.fspath(source))
            self._live[os.fspath(target)] = node
            self._changes.append([(*self._place(source), None), (*self._place(target), node)])

        self.call(happens)

    do_replace = do_rename

    def do_mkdir(self, path: Any, mode: int = 0o777, **more: Any) -> None:
        if not self._is_ours(path):
            _REAL["mkdir"](path, mode, **more)
            return

        def happens() -> None:
            _REAL["mkdir"](path, mode)
            node = self._live[os.fspath(path)] = Directory()
            self._changes.append([(*self._place(path), node)])

        self.call(happens)

    def _remove(self, name: str, path: Any, more: dict[str, Any]) -> None:
        if more or not self._is_ours(path):
            _REAL[name](path, **more)
            return

        def happens() -> None:
            _REAL[name](path)
            self._live.pop(os.fspath(path))
            self._changes.append([(*self._place(path), None)])

        self.call(happens)

    def do_unlink(self, path: Any, **more: Any) -> None:
        self._remove("unlink", path, more)

    def do_rmdir(self, path: Any, **more: Any) -> None:
        self._remove("rmdir", path, more)


class LockRow:
    """The lock database on a simulated disk: one row, durable when `swap` returns. As
    `ops.audit.store.lock.LockDatabase`.
    """

    def __init__(self, disk: SimulatedDisk) -> None:
        self._disk = disk

    def read(self) -> bytes | None:
        return self._disk.rows[-1] if self._disk.rows else None

    def swap(self, old: bytes | None, new: bytes) -> None:
        if self.read() != old:
            raise AppenderRunning("another appender extended the log")
        self._disk.call(lambda: self._disk.rows.append(new))

    def close(self) -> None:
        pass
