"""Our gateway with its model on a Ray cluster: a Ray head, the deployment, the gateway, under our own interpreter.

`python ray_stand.py STOCKADE.YAML DIRECTORY PORT`; told to stop, the same end in the opposite order. Ray listens on
every interface: only where there is but loopback.
"""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

OBJECT_STORE_BYTES = 128 << 20


def main(file: str, directory: str, port: str) -> int:
    """Run the stand until SIGTERM."""
    head = [str(Path(sys.executable).with_name("ray")), "start", "--head", "--block", f"--port={port}", "--num-cpus=2"]
    head += ["--include-dashboard=false", f"--object-store-memory={OBJECT_STORE_BYTES}", f"--temp-dir={directory}"]
    running: list[subprocess.Popen[str]] = []
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    try:
        running.append(subprocess.Popen(head, stdout=subprocess.PIPE, text=True))
        for line in running[0].stdout or ():
            if "Ray runtime started" in line:
                break
        subprocess.run([sys.executable, "-m", "gateway", "ray", "deploy", file], check=True)
        running.append(subprocess.Popen([sys.executable, "-m", "gateway", "serve", file], text=True))
        return running[1].wait()
    finally:
        for process in reversed(running):
            process.terminate()
            process.wait()


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
