"""One gateway a state directory: a lock that the kernel lets go of when its holder dies, however it dies."""

from __future__ import annotations

import fcntl
import os
from contextlib import contextmanager
from typing import TYPE_CHECKING

from gateway.config.place import PRIVATE

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

LOCK = "serve.lock"


class DirectoryInUse(Exception):
    """Another gateway runs on this state directory. The message is for the person at the terminal."""


@contextmanager
def occupied(state_dir: Path) -> Iterator[None]:
    """Hold the directory, which is made if missing, while the block runs; nothing in it may be touched before.

    Raises:
        DirectoryInUse: somebody else holds it.
    """
    state_dir.mkdir(mode=PRIVATE, parents=True, exist_ok=True)
    descriptor = os.open(state_dir / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        _lock(descriptor, state_dir)
        yield
    finally:
        os.close(descriptor)


def _lock(descriptor: int, state_dir: Path) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        advice = "stop it first, or make another directory with `stockade init`"
        raise DirectoryInUse(f"a gateway is running on {state_dir} already: {advice}") from None
