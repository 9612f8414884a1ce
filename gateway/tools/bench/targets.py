"""What is measured: our gateway in three settings, two floors, and three peers. One record each.

Rules: a target says how it is started and why so; it starts nothing itself. Every one gets the same request, on
loopback, and answers with at least the ten probabilities. Settings of the peers are the fastest of those their
documentation offers that we measured on two cores; docs/reference/benchmarks.md has what was tried.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from gateway.tools.bench import peers
from gateway.tools.bench.frame import echo_reply
from gateway.tools.bench.gateway_launch import launch_gateway
from gateway.tools.bench.ray_launch import ENVIRONMENT, launch_ray, ray_missing
from gateway.tools.bench.running import Endpoint, Launch, free_pair, free_ports

MODEL = "kiosk"
PYTRITON_START_ATTEMPTS = 5


@dataclass(frozen=True, slots=True)
class Place:
    """Where things are. `directory` is a target's own; `no_private_network` says why there is none, or is None."""

    directory: Path
    bundles: Path
    peers: Path
    no_private_network: str | None

    @property
    def graph(self) -> Path:
        return self.bundles / MODEL / "1" / "model.onnx"


@dataclass(frozen=True, slots=True)
class Target:
    """One row of the report. `missing` gives the sentence why it is skipped, or None; `peer` names its environment."""

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


def _protected(place: Place) -> Launch:
    return launch_gateway(place.directory, place.bundles, tls=False, protected=True)


def _protected_tls(place: Place) -> Launch:
    return launch_gateway(place.directory, place.bundles, tls=True, protected=True)


def _unprotected(place: Place) -> Launch:
    return launch_gateway(place.directory, place.bundles, tls=False, protected=False)


def _ray_engine(place: Place) -> Launch:
    return launch_ray(place.directory, place.bundles)


def _ray_model(place: Place) -> Launch:
    """The peers' script under our interpreter, which has Ray and ONNX Runtime."""
    port = free_pair()
    options = [
        "--reply",
        str(_reply_file(place)),
        "--directory",
        str(place.directory / "r"),
        "--model",
        str(place.graph),
    ]
    command = [sys.executable, str(peers.script("ray_proxy.py")), "--port", str(port), *options]
    return Launch(command, Endpoint(port), place.directory, environment=_ray_settings())


def _reply_file(place: Place) -> Path:
    path = place.directory / "reply"
    path.write_bytes(echo_reply(MODEL))
    return path


def _echo(place: Place) -> Launch:
    (port,) = free_ports(1)
    command = [sys.executable, str(peers.script("echo.py")), "--port", str(port), "--reply", str(_reply_file(place))]
    return Launch(command, Endpoint(port), place.directory)


def _peer(
    place: Place, peer: str, file: str, *options: str, environment: Mapping[str, str], attempts: int = 1
) -> Launch:
    port = free_pair()
    command = [str(peers.interpreter(place.peers, peer)), str(peers.script(file)), "--port", str(port), *options]
    home = {"HOME": str(place.directory)}  # nothing of a peer's is left in ours
    return Launch(command, Endpoint(port), place.directory, environment={**home, **environment}, attempts=attempts)


def _ray(place: Place, **environment: str) -> Launch:
    options = ("--reply", str(_reply_file(place)), "--directory", str(place.directory / "ray"))
    return _peer(place, "ray", "ray_proxy.py", *options, environment=_ray_settings() | environment)


def _ray_settings() -> dict[str, str]:
    return {"PYTHONPATH": str(peers.script("")), **ENVIRONMENT}


def _ray_proxy(place: Place) -> Launch:
    return _ray(place)


def _ray_haproxy(place: Place) -> Launch:
    return _ray(
        place,
        RAY_SERVE_ENABLE_HA_PROXY="1",
        RAY_SERVE_HAPROXY_NBTHREAD="2",
        RAY_SERVE_HAPROXY_CONFIG_FILE_LOC=str(place.directory / "haproxy.cfg"),
        RAY_SERVE_HAPROXY_SOCKET_PATH=str(place.directory / "a"),
        RAY_SERVE_HAPROXY_SERVER_STATE_BASE=str(place.directory),
        RAY_SERVE_HAPROXY_SERVER_STATE_FILE=str(place.directory / "server-state"),
    )


def _mlserver(place: Place) -> Launch:
    options = ("--model", str(place.graph), "--directory", str(place.directory / "mlserver"))
    return _peer(place, "mlserver", "mlserver_kiosk.py", *options, environment={})


def _triton(place: Place) -> Launch:
    options = ("--model", str(place.graph), "--directory", str(place.directory / "triton"))
    return _peer(
        place,
        "triton",
        "triton_kiosk.py",
        *options,
        environment={"LD_LIBRARY_PATH": peers.library_path()},
        attempts=PYTRITON_START_ATTEMPTS,
    )


_GATEWAY = "`stockade init`, one worker, one recorder, in-process engine"
TARGETS: Mapping[str, Target] = {
    "protected": Target(
        "Stockade, protected",
        f"{_GATEWAY}; API key, rights, limits, screens, hardening, audit with fdatasync, metrics; plaintext",
        _protected,
    ),
    "protected_tls": Target(
        "Stockade, protected, TLS",
        f"{_GATEWAY}; API key, rights, limits, screens, hardening, audit with fdatasync, metrics; TLS 1.3",
        _protected_tls,
    ),
    "unprotected": Target(
        "Stockade, unprotected", f"{_GATEWAY}; `unsafe_unprotected`: every protection off; plaintext", _unprotected
    ),
    "ray_engine": Target(
        "Stockade, protected, Ray",
        "`stockade init`, one worker, one recorder; the model in one Ray Serve replica, two batches at once; API key, "
        "rights, limits, screens, hardening, audit with fdatasync, metrics; plaintext",
        _ray_engine,
        every_interface=True,
        ray_beside_us=True,
    ),
    "ray_model": Target(
        "Ray proxy with the model",
        "one proxy, one replica that runs the kiosk graph in ONNX Runtime with one thread; settings as ray_proxy",
        _ray_model,
        every_interface=True,
        ray_beside_us=True,
    ),
    "echo": Target("grpc.aio echo", "uvloop, bytes in, one fixed reply of the same size out; no model", _echo),
    "ray_proxy": Target(
        "Ray Serve gRPC proxy",
        "one proxy, one replica that returns a fixed reply; RAY_SERVE_THROUGHPUT_OPTIMIZED, no access log, no protobuf",
        _ray_proxy,
        peer="ray",
        every_interface=True,
    ),
    "ray_haproxy": Target(
        "Ray Serve behind HAProxy",
        "as above with RAY_SERVE_ENABLE_HA_PROXY (opt-in): HAProxy with two threads hands calls to the replica",
        _ray_haproxy,
        peer="ray",
        every_interface=True,
    ),
    "mlserver": Target(
        "MLServer",
        "the kiosk graph in a custom runtime, ONNX Runtime with one thread; parallel_workers 0, no adaptive batching, "
        "debug and metrics off",
        _mlserver,
        peer="mlserver",
    ),
    "triton": Target(
        "Triton (Python backend)",
        "nvidia-pytriton, the kiosk graph in ONNX Runtime with one thread, one instance, dynamic batching up to 64 "
        "without delay, metrics off",
        _triton,
        peer="triton",
    ),
}
