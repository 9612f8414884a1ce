"""A network of our own for a benchmark: loopback and nothing else.

Some peers listen on every interface and cannot be told otherwise. In a network namespace that holds only loopback
nobody else can reach them, and they can reach nobody. Linux; root, or `unshare -rn` around the command.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import socket
import struct

CLONE_NEWNET = 0x40000000
SIOCSIFFLAGS = 0x8914
IFF_UP, IFF_RUNNING = 0x1, 0x40


def enter_private_network() -> str | None:
    """Move this process, and all it starts from here on, into a new network. No way back.

    Returns None when that is so, otherwise what to do about it; then nothing has changed. Call it before threads run.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(CLONE_NEWNET) != 0:
        problem = os.strerror(ctypes.get_errno()).lower()
        return f"no network of its own ({problem}): run it as root, or put `unshare -rn` before the command"
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        fcntl.ioctl(control, SIOCSIFFLAGS, struct.pack("16sh14x", b"lo", IFF_UP | IFF_RUNNING))
    return None
