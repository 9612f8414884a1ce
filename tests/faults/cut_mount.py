"""A file system of its own on a loop device, whose power can be cut: the ioctl FS_IOC_SHUTDOWN without a log flush.

After `cut` nothing reaches the device any more, neither data nor journal; every call fails until the file system is
mounted again, which is when the journal is replayed. What was not synced is gone, as after a real power cut. ext4 and
xfs have the ioctl. btrfs has not: its image lies in an ext4 of ours whose power is cut, so that what it wrote without a
flush of its device is lost as well. Needs root, loop devices and the file system's `mkfs`.
"""

import ctypes
import fcntl
import os
import shutil
import struct
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

FS_IOC_SHUTDOWN = 0x8004587D  # _IOR('X', 125, __u32), linux/fs.h
NO_LOG_FLUSH = 2
IMAGE_BYTES = {"ext4": 96 << 20, "xfs": 320 << 20, "btrfs": 200 << 20}
MKFS = {"ext4": ("-q", "-F"), "xfs": ("-q",), "btrfs": ("-q",)}
MNT_DETACH = 2
DETACH_S = 30
OUTER = "outer"


class CutMount:
    """`directory` is where it is mounted. `beneath` is the mount whose power is cut in place of ours."""

    def __init__(self, kind: str, image: Path, directory: Path, beneath: "CutMount | None" = None) -> None:
        self.kind = kind
        self.directory = directory
        self.beneath = beneath
        self._image = image
        with image.open("wb") as file:
            file.truncate(IMAGE_BYTES[kind] + (IMAGE_BYTES["btrfs"] if image.stem == OUTER else 0))
        _run(f"mkfs.{kind}", *MKFS[kind], str(image))
        directory.mkdir()
        self.mount()

    def mount(self) -> None:
        self._device = _run("losetup", "--find", "--show", str(self._image))
        _run("mount", "-t", self.kind, self._device, str(self.directory))

    def unmount(self) -> None:
        _run("umount", str(self.directory))
        _run("losetup", "--detach", self._device)
        held = Path("/sys/block", Path(self._device).name, "loop/backing_file")
        end = time.monotonic() + DETACH_S
        with suppress(OSError):  # it ends: until whoever else has the device open closes it, our image is in use
            while held.read_text().strip() == str(self._image):
                assert time.monotonic() < end, f"{self._device} is not given back"
                time.sleep(0.01)

    def cut(self) -> None:
        """From here on nothing is written. OSError where the file system does not know how."""
        cut_power((self.beneath or self).directory)

    def remount(self) -> None:
        """As the machine does when the power is back. Nobody may have a file open."""
        self.unmount()
        if self.beneath is not None:
            self.beneath.remount()
        self.mount()

    def remove(self) -> None:
        """Whatever state it is in."""
        ctypes.CDLL(None, use_errno=True).umount2(os.fsencode(self.directory), MNT_DETACH)
        subprocess.run(["losetup", "--detach", self._device], check=False, capture_output=True)
        with suppress(OSError):  # it lay in a file system without power
            self._image.unlink()


def cut_power(mount: Path) -> None:
    """Cut the power of the file system that is mounted here. OSError where it does not know how."""
    descriptor = os.open(mount, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.ioctl(descriptor, FS_IOC_SHUTDOWN, struct.pack("=I", NO_LOG_FLUSH))
    finally:
        os.close(descriptor)


def _run(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


@contextmanager
def cut_mount(kind: str, home: Path) -> Iterator[CutMount]:
    """A fresh file system below `home`; unmounted and its device given back on any exit."""
    with ExitStack() as stack:
        beneath = None
        if kind == "btrfs":
            beneath = CutMount("ext4", home / f"{OUTER}.image", home / OUTER)
            stack.callback(beneath.remove)
        made = CutMount(kind, (beneath.directory if beneath else home) / f"{kind}.image", home / kind, beneath)
        stack.callback(made.remove)
        yield made


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
