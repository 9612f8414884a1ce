"""What the processes of a host are started with: the recorder, the workers, and the port that workers share."""

from __future__ import annotations

import errno
import socket
import time
from typing import TYPE_CHECKING

from gateway.edge.server import ListenFailed
from gateway.host.doubt import doubt_of
from gateway.host.neighbour import Neighbour, greets
from gateway.host.recorder import RECORDER, recorder_settings
from gateway.host.supervisor import Child
from ops.audit.errors import ForkRefused, LogCorrupted, Poisoned, RecorderError

if TYPE_CHECKING:
    import contextlib
    from pathlib import Path

    from gateway.config.config import Config
    from gateway.config.place import Place
    from gateway.policy.file import Kept
    from ops.process.logging import Log

FREE_WITHIN_S = 5.0
FREE_LOOK_S = 0.1
RECORDER_FINAL = frozenset({LogCorrupted.exit_code, ForkRefused.exit_code})
RECORDER_FINAL_AT_START = frozenset({Poisoned.exit_code, RecorderError.exit_code})
"""What starting the recorder again would not change; its own last words say what it was."""
WORKER_ENVIRONMENT = {"OMP_NUM_THREADS": "1"}
"""NumPy's matrix products stay in the thread that asks for one. They are small here, and one that is shared out among
cores waits for whichever is busy with something else: a screen of 32 rows took tens of milliseconds that way."""


def recorder_of(config: Config, place: Place, log: Log) -> Child | Neighbour:
    """Return the recorder: our own, or one that somebody else keeps."""
    if config.audit.recorder == "managed":
        return recorder_child(config, place, log)
    patience_s = config.audit.append_timeout_ms / 1000  # one that is slower than that can record nothing either
    return Neighbour(RECORDER, lambda: greets(place.socket, patience_s), log)


def recorder_child(config: Config, place: Place, log: Log) -> Child:
    """Return the recorder, told by a file what it needs to know."""
    file = config.state_dir / "recorder.json"
    file.write_bytes(recorder_settings(config, place).to_json())
    doubt = doubt_of(config, place, log)
    return Child(
        RECORDER,
        ["-m", "ops.audit.store.recorder_main", str(file)],
        log,
        probe=lambda: accepts(place.socket),
        may_start=doubt.may_start,
        ended=doubt.ended,
        final=RECORDER_FINAL,
        final_at_start=RECORDER_FINAL_AT_START,
    )


def worker_child(config_file: Path, profile: str, kept: Kept, *, number: int, data: str, log: Log) -> Child:
    """Return one worker."""
    argv = ["-m", "gateway.host.worker", str(config_file), str(kept.copy), str(number), data, profile]
    return Child(f"worker-{number}", argv, log, environment=WORKER_ENVIRONMENT)


def share_port(address: str, stack: contextlib.ExitStack) -> str:
    """Return the address with a port that all workers can share: for port 0 one that is held, not listened on.

    Raises:
        ListenFailed: somebody listens there. Workers would not notice: they share their port with whoever else does,
            such as another gateway of the same user, and each would get some of the other's connections.
    """
    name, _, port = address.rpartition(":")
    if port != "0":
        require_free(address)
        return address
    holder = stack.enter_context(open_socket(name))
    holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    holder.bind((name.strip("[]"), 0))
    return f"{name}:{holder.getsockname()[1]}"


def require_free(address: str) -> None:
    """ListenFailed where a port is listened on, or is none of ours. Workers of a host that was killed end soon."""
    name, _, port = address.rpartition(":")
    ends = time.monotonic() + FREE_WITHIN_S
    while True:
        with open_socket(name) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # connections that ended lately do not count
            try:
                probe.bind((name.strip("[]"), int(port)))
            except OSError as problem:
                if problem.errno != errno.EADDRINUSE or time.monotonic() > ends:
                    raise ListenFailed(f"cannot listen on {address}: {problem.strerror}") from problem
            else:
                return
        time.sleep(FREE_LOOK_S)


def open_socket(name: str) -> socket.socket:
    """Return a socket of the family that an address is of."""
    return socket.socket(socket.AF_INET6 if ":" in name else socket.AF_INET)


def accepts(path: Path) -> bool:
    """Say whether something listens on a unix socket."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as caller:
        try:
            caller.connect(str(path))
        except OSError:
            return False
        return True
