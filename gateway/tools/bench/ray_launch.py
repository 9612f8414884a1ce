"""How the benchmark starts our gateway with its model on a Ray cluster of its own.

Run as a module it is the stand itself, `python -m gateway.tools.bench.ray_launch STOCKADE.YAML DIRECTORY`: a Ray head,
the deployment, the gateway; told to stop, the same in the opposite order. `launch_ray` says how it is started. Ray
listens on every interface: only where there is but loopback (gateway/tools/bench/isolation.py).
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import yaml

from gateway.tools.bench.gateway_launch import launch_gateway
from gateway.tools.bench.running import Launch, free_ports

OBJECT_STORE_BYTES = 128 << 20
ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_AUTH_MODE": "disabled",
    "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
    "RAY_worker_niceness": "0",
}
"""What Ray offers for throughput, for its own proxy too (targets.py); here for the replica and for the bridge.

Ray's workers are nice by 15 otherwise: beside the load generator, on two cores, that is another machine."""


def ray_missing() -> str | None:
    """How to get Ray beside our own packages, or None when it is there."""
    return None if find_spec("ray") else "Ray is not installed beside Stockade: pip install 'stockade[ray]'"


def launch_ray(directory: Path, bundles: Path, *, replicas: int = 1, cpus: float = 0.5) -> Launch:
    """Make a gateway's directory inside `directory`, with its replicas on a cluster, and say how to start it all.

    `cpus` is what Ray sets aside for each replica, of two.
    """
    launch = launch_gateway(directory, bundles, tls=False, protected=True)
    file = directory / "gateway" / "stockade.yaml"
    config = yaml.safe_load(file.read_text())
    (port,) = free_ports(1)
    config["engine"] = {
        "kind": "ray",
        "threads": 2,
        "ray": {
            "address": f"127.0.0.1:{port}",
            "replicas": {"min": replicas, "max": replicas, "cpus": cpus},
            "start_timeout": "50s",
        },
    }
    file.write_text(yaml.safe_dump(config, sort_keys=False))
    command = [sys.executable, "-m", "gateway.tools.bench.ray_launch", str(file), str(directory / "r"), str(port)]
    environment = {
        **ENVIRONMENT,
        "RAY_SERVE_ENABLE_DIRECT_INGRESS": "0",  # throughput brings a way past the gateway
        "RAY_raylet_start_wait_time_s": "120",  # a busy machine takes longer than the 30 s that Ray gives itself
    }
    return replace(launch, command=command, environment=environment)


def main(arguments: Sequence[str]) -> int:
    """Run the stand until SIGTERM."""
    file, directory, port = arguments
    head = [str(Path(sys.executable).with_name("ray")), "start", "--head", "--block", f"--port={port}", "--num-cpus=2"]
    head += ["--include-dashboard=false", f"--object-store-memory={OBJECT_STORE_BYTES}", f"--temp-dir={directory}"]
    running: list[subprocess.Popen[str]] = []

    def stop(*_: object) -> None:
        raise SystemExit(0)

    signal.signal(signal.SIGTERM, stop)
    try:
        running.append(subprocess.Popen(head, stdout=subprocess.PIPE, text=True, env=os.environ))
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
    sys.exit(main(sys.argv[1:]))
