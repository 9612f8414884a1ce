"""Files and directories that survive a power cut: the few calls everything durable goes through.

Rules: a file's bytes are durable after `fsync` of the file, its name after `fsync` of every directory up to one that
was durable already. No call here is ever retried after an error: the kernel may have dropped what it failed to write.
"""

import contextlib
import fcntl
import mmap
import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Executor
from contextlib import contextmanager
from pathlib import Path

IOV_MAX = 1024
FILES_OPEN_MAX = 64


def sync_directory(directory: Path) -> None:
    """Make the names in a directory durable."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_file(path: Path) -> None:
    """Make the bytes of a file durable that another process has written."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_directories(directory: Path) -> set[Path]:
    """Create a directory with its parents. Returns the directories whose names changed, for `sync_directory`."""
    missing: list[Path] = []
    while not directory.is_dir():
        missing.append(directory)
        directory = directory.parent
    for each in reversed(missing):
        each.mkdir(exist_ok=True)
    return {each.parent for each in missing}


def write_file(path: Path, data: bytes, mode: int = 0o644) -> None:
    """Write a whole file and make its bytes durable; its name is the caller's to sync."""
    descriptor = _written(path, data, mode)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_files(files: Sequence[tuple[Path, bytes]], pool: Executor) -> None:
    """Write whole files and make the bytes of all durable; their names are the caller's to sync.

    Synced once all are written, so that one commit of the journal is for many of them and who syncs other files
    meanwhile waits for fewer.
    """
    for start in range(0, len(files), FILES_OPEN_MAX):
        with contextlib.ExitStack() as stack:
            descriptors: list[int] = []
            for path, data in files[start : start + FILES_OPEN_MAX]:
                descriptors.append(_written(path, data, 0o644))
                stack.callback(os.close, descriptors[-1])
            list(pool.map(os.fsync, descriptors))


def _written(path: Path, data: bytes, mode: int) -> int:
    """A new file with these bytes, not synced: its open descriptor."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, mode)
    try:
        view = memoryview(data)
        while view:
            view = view[os.write(descriptor, view) :]
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def replace_file(path: Path, data: bytes, mode: int = 0o644) -> None:
    """Put a file in place of another at once: either the old or the new one is there, durably, never a mixture."""
    temporary = path.with_name(path.name + ".new")
    write_file(temporary, data, mode)
    temporary.replace(path)
    sync_directory(path.parent)


def keep_file(path: Path, data: bytes, mode: int = 0o600) -> None:
    """Put a file in place of another at once, and make the directories it stands in where they are missing."""
    for changed in make_directories(path.parent):
        sync_directory(changed)
    replace_file(path, data, mode)


def write_at(descriptor: int, parts: Sequence[bytes], offset: int) -> int:
    """Write all parts at an offset, whatever the kernel takes at a time. Returns the offset behind them."""
    for start in range(0, len(parts), IOV_MAX):
        views = [memoryview(part) for part in parts[start : start + IOV_MAX]]
        while views:
            written = os.pwritev(descriptor, views, offset)
            offset += written
            while views and written >= len(views[0]):
                written -= len(views.pop(0))
            if written:
                views[0] = views[0][written:]
    return offset


def read_device(path: Path) -> bytes | mmap.mmap:
    """Read a file from the device, past the page cache where the filesystem allows it.

    After a failed sync the cache may hold pages that never reached the disk and are marked clean: they would look
    durable to a restarted recorder.
    """
    size = path.stat().st_size
    if size == 0:
        return b""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECT | os.O_CLOEXEC)
    except OSError:  # tmpfs and others have no direct I/O, and no device to differ from
        return path.read_bytes()
    room = -(-size // mmap.PAGESIZE) * mmap.PAGESIZE
    aligned = mmap.mmap(-1, room)
    filled = 0
    try:
        with memoryview(aligned) as view:
            while filled < size:
                got = os.preadv(descriptor, [view[filled : filled + (16 << 20)]], filled)
                if got == 0:
                    break
                filled += got
    finally:
        os.close(descriptor)
    end = min(filled, size)
    return aligned if end == room else aligned[:end]  # a segment is not copied


def remove_files(paths: Iterable[Path]) -> None:
    """Remove what is there; what is not is fine."""
    for path in paths:
        with contextlib.suppress(FileNotFoundError):
            path.unlink()


@contextmanager
def exclusive(directory: Path, busy: Exception) -> Iterator[None]:
    """Hold the directory while the block runs. Raises `busy` where another process holds it; OSError."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise busy from None
        yield
    finally:
        os.close(descriptor)
