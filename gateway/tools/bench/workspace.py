"""Where a benchmark puts its files, and the image it sends.

The directory must lie on a real disk: in memory, fdatasync costs nothing, and a gateway that waits for it would look
faster than it is. So the default is /var/tmp, which survives a reboot, and the report names the filesystem. The path is
short because Ray puts sockets far below it, and a socket's path has 107 bytes.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file

from gateway.tools.samples import sample_images

ON_DISK = Path("/var/tmp")  # noqa: S108  # a directory of our own is made inside


@contextlib.contextmanager
def workspace(beside: Path | None) -> Iterator[Path]:
    """A directory inside `beside` (ON_DISK when None), gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="sb-", dir=beside or ON_DISK, ignore_cleanup_errors=True) as name:
        yield Path(name)


def first_image() -> np.ndarray[Any, Any]:
    """The first real test image that comes with the project, float32 (28, 28) in [0, 1]."""
    pixels: np.ndarray[Any, Any] = load_file(sample_images())["images"][0]
    return np.asarray(pixels, dtype=np.float32) / np.float32(255)


def filesystem(path: Path, mounts: Path = Path("/proc/self/mounts")) -> str:
    """The kind of filesystem that `path` lies on, such as `ext4`."""
    kinds = {}
    for line in mounts.read_text().splitlines():
        _device, point, kind, *_rest = line.split(" ")
        kinds[Path(point.encode().decode("unicode_escape"))] = kind  # a later mount hides an earlier one
    absolute = path.resolve()
    return next(kinds[point] for point in (absolute, *absolute.parents) if point in kinds)
