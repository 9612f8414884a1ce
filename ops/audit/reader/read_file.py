"""Files of a directory that nobody vouches for: whoever writes there must not hold up, or fill, who reads it.

A pipe is not waited for, and of a file larger than it may be no more is read than shows that.
"""

import os
import stat
from io import FileIO
from pathlib import Path

FILE_BYTES_MAX = 256 * (2 + 65_535)
"""Of a bundle with the longest entries that there can be; other tiles are smaller."""


def open_file(path: Path) -> FileIO:
    """Open a regular file to read it, unbuffered. Raises FileNotFoundError where there is none, and OSError."""
    return FileIO(path, "r", opener=_regular)


def _regular(path: str, flags: int) -> int:
    descriptor = os.open(path, flags | os.O_NONBLOCK)
    mode = os.fstat(descriptor).st_mode
    if stat.S_ISREG(mode) or stat.S_ISDIR(mode):  # a directory is refused by whoever opens it
        return descriptor
    os.close(descriptor)
    raise FileNotFoundError(path)


def bytes_in(file: FileIO, bytes_max: int = FILE_BYTES_MAX) -> int:
    """How many bytes to read of a file: all, or one more than it may have."""
    return min(os.fstat(file.fileno()).st_size, bytes_max + 1)


def read_file(path: Path, bytes_max: int = FILE_BYTES_MAX) -> bytes:
    """What a file holds, as far as `bytes_in` goes. Raises as `open_file`."""
    with open_file(path) as file:
        return file.read(bytes_in(file, bytes_max))
