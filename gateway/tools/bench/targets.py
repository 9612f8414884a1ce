"""What is measured: our gateway in its settings, two floors, and three peers. One record each.

Our gateway is what `stockade init` gives to anybody: screens that enforce, hardening, audit, no payload capture. Edited
are ports, TLS and limits that no load meets; the policy is signed again. A target says how it is started and why so; it
starts nothing itself. Every one gets the same request, on loopback, and answers with at least the ten probabilities.
Settings of the peers are the fastest of those their documentation offers that we measured on two cores;
docs/reference/benchmarks.md has what was tried.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import yaml

from gateway.config.load import load_config
from gateway.tools.bench import peers
from gateway.tools.bench.load import MODEL, Endpoint, echo_reply
from gateway.tools.bench.machine import free_pair, free_ports
from gateway.tools.bench.runner import Launch
from gateway.tools.init.files import Ports
from gateway.tools.init.init import init_directory
from gateway.tools.rewrite import UNMET_LIMITS, rewrite_policy
from ops.audit.log.checkpoint import parse_vkey
from ops.audit.reader.read import LogReader

CLIENT = "kiosk-7"
READ_RECORDS = 4096
PYTRITON_START_ATTEMPTS = 5
RAY_THROUGHPUT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_AUTH_MODE": "disabled",
    "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
    "RAY_worker_niceness": "0",
}
"""What Ray offers for throughput: for its own proxy, for our replica and for the bridge.

Ray's workers are nice by 15 otherwise: beside the load generator, on two cores, that is another machine."""
RAY_BESIDE_US = {
    **RAY_THROUGHPUT,
    "RAY_SERVE_ENABLE_DIRECT_INGRESS": "0",  # throughput brings a way past the gateway
    "RAY_raylet_start_wait_time_s": "120",  # a busy machine takes longer than the 30 s that Ray gives itself
}

Change = Callable[[dict[str, Any]], None]


def edit_yaml(path: Path, change: Change) -> None:
    """Have `change` work on a document in place."""
    document: dict[str, Any] = yaml.safe_load(path.read_text())
    change(document)
    path.write_text(yaml.safe_dump(document, sort_keys=False))


def launch_gateway(
    directory: Path,
    bundles: Path,
    *,
    tls: bool = False,
    protected: bool = True,
    configure: Change = lambda _: None,
    change: Change = lambda _: None,
    version: str | None = None,
) -> Launch:
    """Make a gateway's directory inside `directory` and say how to start it.

    `configure` edits its configuration, `change` its policy. `version` of the kiosk's model is the only one served;
    None: the one that `init` takes.
    """
    data, metrics, admin, data_mtls = free_ports(4)
    home = directory / "gateway"
    ports = Ports(data=data, metrics=metrics, admin=admin, data_mtls=data_mtls)
    init_directory(home, now=datetime.now(UTC), random_bytes=os.urandom, ports=ports, bundles=bundles)

    def settings(config: dict[str, Any]) -> None:
        if not tls:
            # Without TLS nobody can be asked for a certificate: the ports that live by one go too.
            del config["tls"]
            config["unsafe_plaintext"] = True
            config["listen"] |= {"data_mtls": None, "admin": None}
        if not protected:
            config["unsafe_unprotected"] = True
        configure(config)

    def rules(policy: dict[str, Any]) -> None:
        policy["limits"]["default"] = dict(UNMET_LIMITS)
        change(policy)

    edit_yaml(home / "stockade.yaml", settings)
    rewrite_policy(home, rules)
    if version is not None:
        shutil.rmtree(home / "bundles" / MODEL)
        shutil.copytree(bundles / MODEL / version, home / "bundles" / MODEL / version)
    key = (home / "clients" / f"{CLIENT}.key").read_text().strip()
    authority = (home / "tls" / "ca.crt").read_bytes() if tls else None
    return Launch(
        command=[sys.executable, "-m", "gateway", "serve", str(home / "stockade.yaml")],
        endpoint=Endpoint(data, (("authorization", f"Bearer {key}"),), authority, metrics),
        directory=directory,
    )


def log_entries(home: Path) -> Iterator[dict[str, Any]]:
    """The entries of a gateway's public log, as far as published. `home` holds its stockade.yaml."""
    config = load_config(home / "stockade.yaml")
    reader = LogReader.open(config.audit.directory, parse_vkey(config.audit.vkey.read_text().strip()))
    for first in range(0, reader.checkpoint.size, READ_RECORDS):
        for data in reader.entries(first, min(READ_RECORDS, reader.checkpoint.size - first)):
            yield json.loads(data)


def ray_missing() -> str | None:
    """How to get Ray beside our own packages, or None when it is there."""
    return None if find_spec("ray") else "Ray is not installed beside Stockade: pip install 'stockade[ray]'"


def launch_ray(directory: Path, bundles: Path, *, replicas: int = 1, cpus: float = 0.5) -> Launch:
    """As `launch_gateway`, with its model on a Ray cluster of its own that servers/ray_stand.py starts first.

    `cpus` is what Ray sets aside for each replica, of two.
    """
    (port,) = free_ports(1)
    cluster = {
        "address": f"127.0.0.1:{port}",
        "replicas": {"min": replicas, "max": replicas, "cpus": cpus},
        "start_timeout": "50s",
    }
    engine = {"engine": {"kind": "ray", "threads": 2, "ray": cluster}}
    launch = launch_gateway(directory, bundles, configure=lambda config: config.update(engine))
    command = [sys.executable, str(peers.script("ray_stand.py")), launch.command[-1], str(directory / "r"), str(port)]
    return replace(launch, command=command, environment=RAY_BESIDE_US)


@dataclass(frozen=True, slots=True)
class Place:
    """Where things are. `directory` is a target's own; `no_private_network` says why there is none, or is None."""

    directory: Path
    bundles: Path
    peers: Path
    no_private_network: str | None


@dataclass(frozen=True, slots=True)
class Target:
    """One row of the report. `peer` names its environment. `missing` gives the sentence why it is skipped, or None."""

    title: str
    setup: str
    launch: Callable[[Place], Launch]
    peer: str | None = None
    every_interface: bool = False
    ray_beside_us: bool = False

    def missing(self, place: Place) -> str | None:
        if self.ray_beside_us and (sentence := ray_missing()):
            return sentence
        if self.peer and (sentence := peers.missing(place.peers, self.peer)):
            return sentence
        if self.every_interface and place.no_private_network:
            return f"it listens on every interface, and there is {place.no_private_network}"
        return None


def _gateway(place: Place, *, tls: bool = False, protected: bool = True) -> Launch:
    return launch_gateway(place.directory, place.bundles, tls=tls, protected=protected)


def _script(
    place: Place,
    file: str,
    peer: str | None = None,
    *,
    model: bool = True,
    environment: Callable[[Place], Mapping[str, str]] = lambda _: {},
    attempts: int = 1,
) -> Launch:
    """A file of servers/, under the peer's interpreter or ours; `model` has it run the kiosk's graph."""
    reply = place.directory / "reply"
    place.directory.mkdir(parents=True, exist_ok=True)
    reply.write_bytes(echo_reply())
    port, python = free_pair(), peers.interpreter(place.peers, peer) if peer else sys.executable
    command = [str(python), str(peers.script(file)), "--port", str(port), "--reply", str(reply)]
    command += ["--directory", str(place.directory / "r")]  # a short path, for the sockets of Ray
    if model:
        command += ["--model", str(place.bundles / MODEL / "1" / "model.onnx")]
    home = {"HOME": str(place.directory)} if peer else {}  # nothing of a peer's is left in ours
    return Launch(command, Endpoint(port), place.directory, {**home, **environment(place)}, attempts=attempts)


def _ray_settings(_place: Place) -> dict[str, str]:
    return {"PYTHONPATH": str(peers.script("")), **RAY_THROUGHPUT}


def _haproxy_settings(place: Place) -> dict[str, str]:
    return _ray_settings(place) | {
        "RAY_SERVE_ENABLE_HA_PROXY": "1",
        "RAY_SERVE_HAPROXY_NBTHREAD": "2",
        "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": str(place.directory / "haproxy.cfg"),
        "RAY_SERVE_HAPROXY_SOCKET_PATH": str(place.directory / "a"),
        "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": str(place.directory),
        "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": str(place.directory / "server-state"),
    }


_GATEWAY = "`stockade init`, one worker, one recorder, in-process engine"
_PROTECTIONS = "API key, rights, limits, screens, hardening, audit with fdatasync, metrics"
TARGETS: Mapping[str, Target] = {
    "protected": Target("Stockade, protected", f"{_GATEWAY}; {_PROTECTIONS}; plaintext", _gateway),
    "protected_tls": Target(
        "Stockade, protected, TLS", f"{_GATEWAY}; {_PROTECTIONS}; TLS 1.3", partial(_gateway, tls=True)
    ),
    "unprotected": Target(
        "Stockade, unprotected",
        f"{_GATEWAY}; `unsafe_unprotected`: every protection off; plaintext",
        partial(_gateway, protected=False),
    ),
    "ray_engine": Target(
        "Stockade, protected, Ray",
        "`stockade init`, one worker, one recorder; the model in one Ray Serve replica, two batches at once; "
        f"{_PROTECTIONS}; plaintext",
        lambda place: launch_ray(place.directory, place.bundles),
        every_interface=True,
        ray_beside_us=True,
    ),
    "ray_model": Target(
        "Ray proxy with the model",
        "one proxy, one replica that runs the kiosk graph in ONNX Runtime with one thread; settings as ray_proxy",
        partial(_script, file="ray_proxy.py", environment=_ray_settings),
        every_interface=True,
        ray_beside_us=True,
    ),
    "echo": Target(
        "grpc.aio echo",
        "uvloop, bytes in, one fixed reply of the same size out; no model",
        partial(_script, file="echo.py", model=False),
    ),
    "ray_proxy": Target(
        "Ray Serve gRPC proxy",
        "one proxy, one replica that returns a fixed reply; RAY_SERVE_THROUGHPUT_OPTIMIZED, no access log, no protobuf",
        partial(_script, file="ray_proxy.py", peer="ray", model=False, environment=_ray_settings),
        peer="ray",
        every_interface=True,
    ),
    "ray_haproxy": Target(
        "Ray Serve behind HAProxy",
        "as above with RAY_SERVE_ENABLE_HA_PROXY (opt-in): HAProxy with two threads hands calls to the replica",
        partial(_script, file="ray_proxy.py", peer="ray", model=False, environment=_haproxy_settings),
        peer="ray",
        every_interface=True,
    ),
    "mlserver": Target(
        "MLServer",
        "the kiosk graph in a custom runtime, ONNX Runtime with one thread; parallel_workers 0, no adaptive batching, "
        "debug and metrics off",
        partial(_script, file="mlserver_kiosk.py", peer="mlserver"),
        peer="mlserver",
    ),
    "triton": Target(
        "Triton (Python backend)",
        "nvidia-pytriton, the kiosk graph in ONNX Runtime with one thread, one instance, dynamic batching up to 64 "
        "without delay, metrics off",
        partial(
            _script,
            file="triton_kiosk.py",
            peer="triton",
            environment=lambda _: {"LD_LIBRARY_PATH": peers.library_path()},
            attempts=PYTRITON_START_ATTEMPTS,
        ),
        peer="triton",
    ),
}
