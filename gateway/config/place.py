"""Where the processes of one host find each other, and who may touch what there.

With a recorder of its own user, the state directory is the meeting place of two users with a common group. Then:
- The group gets in, nobody else does. What is made below has that group (set-group-ID directories).
- Either user can make files, and removes none of the other's unless the directory is its own (sticky directories). So
  let the state directory belong to neither. Rings are the exception: the recorder removes those of dead workers.
- What is the gateway's alone, such as the accepted policy, stays its own.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from gateway.config.config import Config

MEMORY = "policy.revision"
COSIGNED = "cosigned"
EVERYWHERE = ("0.0.0.0", "[::]")  # noqa: S104  what listens there is no name that a certificate could carry

PRIVATE = 0o700


@dataclass(frozen=True, slots=True)
class Modes:
    """Permissions of directories, ring files and the recorder's socket."""

    state: int
    rings: int
    metrics: int
    ring: int
    socket: int


OWNER = Modes(state=PRIVATE, rings=PRIVATE, metrics=PRIVATE, ring=0o600, socket=0o600)
GROUP = Modes(state=0o3770, rings=0o2770, metrics=0o3770, ring=0o640, socket=0o660)


@dataclass(frozen=True, slots=True)
class Place:
    """The places of a host, below its state directory; `memory` outlives that."""

    state: Path
    socket: Path
    rings: Path
    metrics: Path
    policies: Path
    memory: Path
    cosigned: Path
    modes: Modes

    def make_shared(self) -> None:
        """Make what both the gateway and the recorder use, whoever comes first."""
        modes = self.modes
        for directory, mode in ((self.state, modes.state), (self.rings, modes.rings), (self.metrics, modes.metrics)):
            directory.mkdir(mode=PRIVATE, parents=True, exist_ok=True)
            if modes is not OWNER and directory.stat().st_uid == os.geteuid():
                directory.chmod(mode)  # `mkdir` heeds the umask, and sets no bits beyond permissions


def from_here(address: str) -> str:
    """Return where a client on this machine finds what listens on `address`."""
    host, _, port = address.rpartition(":")
    return f"localhost:{port}" if host in EVERYWHERE else address


def place_of(config: Config) -> Place:
    """Return the places of a host. Nothing is created."""
    state = config.state_dir
    external = config.audit.recorder == "external"
    return Place(
        state=state,
        socket=state / "recorder.sock",
        rings=state / "rings",
        metrics=state / "metrics",
        policies=state / "policy",
        memory=(config.audit.key_database.parent if external else config.audit.state_directory) / MEMORY,
        cosigned=state / COSIGNED,
        modes=GROUP if external else OWNER,
    )
