"""The in-flight ring: which requests a worker was working on, in a memory-mapped file that outlives it.

One file a worker, locked (flock) for as long as the worker lives. `enter` costs a microsecond and no system call; a
page written to a shared mapping survives the death of the process, which is all it is for (after a power cut no caller
got an answer). The recorder reads the rings that nobody holds any more, and removes them.

Layout: a header of 4,096 bytes (magic, slots, length of context, context), then slots of 264 bytes: state u8 (1 = in
flight), length of note u8, six zeros, request id 16, note 240. Notes and the context are JSON objects with fields of
the `outcome-unknown` entry (see `ops.audit.log.entry.OutcomeUnknown`).
"""

import fcntl
import mmap
import os
import stat
import struct
import tempfile
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from ops.audit.errors import RingError

MAGIC = b"STOCKADE-RING-1\n"
HEADER_BYTES = 4096
CONTEXT_BYTES_MAX = 2048
NOTE_BYTES_MAX = 240
ID_BYTES = 16
SLOT_BYTES = 264
SLOTS_MAX = 65_536
FILE_BYTES_MAX = HEADER_BYTES + SLOTS_MAX * SLOT_BYTES
SUFFIX = ".ring"

_HEADER = struct.Struct(">16sII")
_SLOT = struct.Struct("<BB6x16s")
_IN_FLIGHT = 1


@dataclass(frozen=True, slots=True)
class Slot:
    request_id: bytes
    note: bytes


@dataclass(frozen=True, slots=True)
class LeftOver:
    """What a dead worker left in flight."""

    context: bytes
    slots: tuple[Slot, ...]


NOTHING = LeftOver(b"", ())


class InflightRing:
    """A worker's own ring; thread-safe. `full` counts the requests that found no slot."""

    def __init__(self, descriptor: int, memory: mmap.mmap, slots: int) -> None:
        self._descriptor = descriptor
        self._memory = memory
        self._free = list(range(slots - 1, -1, -1))  # list.pop and append are atomic
        self._lock = threading.Lock()
        self.full = 0

    @classmethod
    def open(cls, path: Path, slots: int, context: bytes = b"{}", *, mode: int = 0o600) -> Self:
        """Create the ring of a new worker, as a new file beside `path` that begins with its stem.

        What an earlier worker left there stays for the recorder; no two workers ever share a file. A recorder that runs
        as another user has to read it, so `mode` may let the group do that.

        Raises:
            RingError: too many slots or too long a context.
        """
        if not 1 <= slots <= SLOTS_MAX or len(context) > CONTEXT_BYTES_MAX:
            raise RingError(f"a ring has 1 to {SLOTS_MAX} slots and a context of at most {CONTEXT_BYTES_MAX} bytes")
        descriptor, draft = tempfile.mkstemp(prefix=f"{path.stem}-", suffix=".new", dir=path.parent)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        os.fchmod(descriptor, mode)
        os.truncate(descriptor, HEADER_BYTES + slots * SLOT_BYTES)
        memory = mmap.mmap(descriptor, HEADER_BYTES + slots * SLOT_BYTES)
        _HEADER.pack_into(memory, 0, MAGIC, slots, len(context))
        memory[_HEADER.size : _HEADER.size + len(context)] = context
        Path(draft).rename(Path(draft).with_suffix(SUFFIX))
        return cls(descriptor, memory, slots)

    def enter(self, request_id: bytes, note: bytes) -> int:
        """Mark a request as in flight. Returns its slot, or -1 when the ring is full."""
        if len(request_id) != ID_BYTES or len(note) > NOTE_BYTES_MAX:
            raise RingError(f"an id has {ID_BYTES} bytes, a note at most {NOTE_BYTES_MAX}")
        try:
            slot = self._free.pop()
        except IndexError:
            with self._lock:
                self.full += 1
            return -1
        start = HEADER_BYTES + slot * SLOT_BYTES
        body = start + _SLOT.size
        self._memory[body : body + len(note)] = note
        _SLOT.pack_into(self._memory, start, _IN_FLIGHT, len(note), request_id)
        return slot

    def leave(self, slot: int) -> None:
        """The request has its record (or never needed one). -1 is fine."""
        if slot >= 0:
            self._memory[HEADER_BYTES + slot * SLOT_BYTES] = 0
            self._free.append(slot)

    def close(self) -> None:
        """Let go. What is still in flight stays for the recorder."""
        self._memory.close()
        os.close(self._descriptor)


def ring_files(directory: Path) -> list[Path]:
    """The rings in a directory, of the living and the dead."""
    return sorted(path for path in directory.glob(f"*{SUFFIX}") if not path.is_dir())


def left_over(path: Path) -> LeftOver | None:
    """What a ring holds, or None while its worker lives. What is no ring holds nothing.

    A worker that was taken over can put anything there. It must not make the recorder wait (a pipe), follow (a link),
    or read without end.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        return None
    except OSError:
        return NOTHING
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            return NOTHING
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return parse(os.read(descriptor, FILE_BYTES_MAX))
    except BlockingIOError:
        return None
    finally:
        os.close(descriptor)


def parse(data: bytes) -> LeftOver:
    """The requests in flight that a ring's bytes hold; nothing where they are damaged."""
    if len(data) < HEADER_BYTES:
        return NOTHING
    magic, slots, length = _HEADER.unpack_from(data)
    if magic != MAGIC or slots > SLOTS_MAX or length > CONTEXT_BYTES_MAX:
        return NOTHING
    found: list[Slot] = []
    for start in range(HEADER_BYTES, min(HEADER_BYTES + slots * SLOT_BYTES, len(data) - SLOT_BYTES + 1), SLOT_BYTES):
        state, note_length, request_id = _SLOT.unpack_from(data, start)
        if state == _IN_FLIGHT and note_length <= NOTE_BYTES_MAX:
            body = start + _SLOT.size
            found.append(Slot(request_id, data[body : body + note_length]))
    return LeftOver(data[_HEADER.size : _HEADER.size + length], tuple(found))
