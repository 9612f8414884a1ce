"""A file system of its own on a loop device, whose power can be cut: the ioctl FS_IOC_SHUTDOWN without a log flush.

After `cut` nothing reaches the device any more, neither data nor journal; every call fails until the file system is
mounted again, which is when the journal is replayed. What was not synced is gone, as after a real power cut (short of
the device's own cache, which a loop device does not have). ext4 and xfs have the ioctl; btrfs refuses it before Linux
6.19. Needs root, loop devices and the file system's `mkfs`.
"""

import ctypes
import fcntl
import os
import shutil
import struct
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

FS_IOC_SHUTDOWN = 0x8004587D  # _IOR('X', 125, __u32), linux/fs.h
NO_LOG_FLUSH = 2
IMAGE_BYTES = {"ext4": 96 << 20, "xfs": 320 << 20, "btrfs": 160 << 20}
MKFS = {"ext4": ("-q", "-F"), "xfs": ("-q",), "btrfs": ("-q",)}
MNT_DETACH = 2


class CutMount:
    """`directory` is where it is mounted."""

    def __init__(self, kind: str, image: Path, directory: Path) -> None:
        self.kind = kind
        self.directory = directory
        with image.open("wb") as file:
            file.truncate(IMAGE_BYTES[kind])
        _run(f"mkfs.{kind}", *MKFS[kind], str(image))
        directory.mkdir()
        self.device = _run("losetup", "--find", "--show", str(image))
        self.mount()

    def mount(self) -> None:
        _run("mount", "-t", self.kind, self.device, str(self.directory))

    def cut(self) -> None:
        """From here on nothing is written. OSError where the file system does not know how."""
        descriptor = os.open(self.directory, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.ioctl(descriptor, FS_IOC_SHUTDOWN, struct.pack("=I", NO_LOG_FLUSH))
        finally:
            os.close(descriptor)

    def remount(self) -> None:
        """As the machine does when the power is back. Nobody may have a file open."""
        _run("umount", str(self.directory))
        self.mount()

    def remove(self) -> None:
        """Whatever state it is in."""
        ctypes.CDLL(None, use_errno=True).umount2(os.fsencode(self.directory), MNT_DETACH)
        subprocess.run(["losetup", "--detach", self.device], check=False, capture_output=True)


def _run(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


@contextmanager
def cut_mount(kind: str, home: Path) -> Iterator[CutMount]:
    """A fresh file system below `home`; unmounted and its device given back on any exit."""
    made = CutMount(kind, home / f"{kind}.image", home / kind)
    try:
        yield made
    finally:
        made.remove()
        (home / f"{kind}.image").unlink()


@cache
def why_not(kind: str) -> str:
    """Why the power of this file system cannot be cut here; empty when it can. It is tried."""
    for program in ("losetup", "mount", f"mkfs.{kind}"):
        if shutil.which(program) is None:
            return f"{program} is not installed"
    if os.geteuid() != 0:
        return "needs root"
    with TemporaryDirectory() as home:
        try:
            with cut_mount(kind, Path(home)) as mounted:
                mounted.cut()
        except subprocess.CalledProcessError as error:
            return f"{error.cmd[0]}: {error.stderr.strip()}"
        except OSError as error:
            return f"{kind} has no shutdown ioctl here: {error.strerror}"
    return ""
