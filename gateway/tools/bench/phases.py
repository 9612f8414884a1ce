"""What clients see while the cluster behind a gateway loses a replica and changes its model: part of `bench serve`.

One gateway, two replicas on a Ray cluster of their own, and callers that ask without a pause and check each answer.
Rules: a call that did not end with a prediction is an error, whatever its status; nobody repeats a call; a phase ends
when the cluster is whole again and has answered a while longer. Callers are in Python: they show no throughput.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc

from gateway.tools.bench.load import METHOD, Endpoint, NotAnAnswer, read_answer
from gateway.tools.bench.machine import ProcessTree
from gateway.tools.bench.runner import NotMeasured, Running, running
from gateway.tools.bench.targets import edit_yaml, launch_ray
from gateway.tools.rewrite import rewrite_policy
from serving.bundles.bundle import read_bundle
from serving.bundles.manifest import MANIFEST_FILE
from serving.bundles.signature import SIGNATURE_FILE
from serving.train.pack import open_signing_key, public_pem, seal, write_bundle
from stockade.open_inference import grpc_service_pb2 as oip

PHASES = ("replica_kill", "rolling_update")
REPLICAS = 2
REPLICA_CPUS = 0.1  # an update has up to three of each version at once, and Ray only counts them
CALLERS = 8
REQUESTS_BESIDE = 500
"""Answered before and after each change."""

CALL_TIMEOUT_S = 30.0
CHANGE_S_MAX = 180.0
POLL_S = 0.05
NEXT_VERSION = "2"
NEXT_KEY = "keys/next"
Step = Callable[[str, int], None]
"""What is happening now, and how many parts were finished by it."""


@dataclass(frozen=True, slots=True)
class Phase:
    """What one change cost. `errors` are by status and reason; `versions` of the model that answered, with how many."""

    requests: int
    errors: Mapping[str, int]
    versions: Mapping[str, int]
    seconds: float


class Asking:
    """What came of calls, counted by outcome and by the version that answered. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.errors: Counter[str] = Counter()
        self.versions: Counter[str] = Counter()
        self.going = True

    @property
    def total(self) -> int:
        with self._lock:
            return self.errors.total() + self.versions.total()

    def count(self, problem: str, version: str) -> None:
        """Count one call that ended: by its problem, "" for none."""
        with self._lock:
            if problem:
                self.errors[problem] += 1
            else:
                self.versions[version] += 1

    def more(self, requests: int) -> None:
        """Wait until that many further calls have ended. Raises NotMeasured."""
        goal = self.total + requests
        wait_for(lambda: self.total >= goal, f"{requests} further replies")


@contextmanager
def asking(endpoint: Endpoint, request: bytes, callers: int = CALLERS) -> Iterator[Asking]:
    """Keep `callers` calls in flight while the block runs, each on a connection of its own."""
    seen = Asking()
    threads = [threading.Thread(target=_ask, args=(endpoint, request, seen)) for _ in range(callers)]
    for thread in threads:
        thread.start()
    try:
        yield seen
    finally:
        seen.going = False
        for thread in threads:
            thread.join()


def _ask(endpoint: Endpoint, request: bytes, seen: Asking) -> None:
    options = [("grpc.enable_http_proxy", 0), ("grpc.enable_retries", 0), ("grpc.use_local_subchannel_pool", 1)]
    with grpc.insecure_channel(f"127.0.0.1:{endpoint.port}", options) as channel:
        call: grpc.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(METHOD)
        while seen.going:
            try:
                reply = call(request, metadata=endpoint.headers, timeout=CALL_TIMEOUT_S)
                read_answer(reply)
            except grpc.RpcError as error:
                seen.count(_problem(error), "")
            except NotAnAnswer as error:
                seen.count(str(error), "")
            else:
                seen.count("", oip.ModelInferResponse.FromString(reply).model_version)


def _problem(error: Any) -> str:
    """Status and reason, such as `UNAVAILABLE [BACKEND_UNAVAILABLE]`, without the sentence and the request's id."""
    reason, bracket, _ = (error.details() or "").partition("]")
    return f"{error.code().name} {reason}{bracket}" if bracket else str(error.code().name)


def measure_phases(directory: Path, bundles: Path, request: bytes, step: Step) -> dict[str, Phase]:
    """Start the gateway and its cluster, and go through both phases. Raises NotMeasured."""
    step("Replicas that fail: starting", 0)
    launch = launch_ray(directory, bundles, replicas=REPLICAS, cpus=REPLICA_CPUS)
    _trust_next_key(directory / "gateway")
    with running(launch, request) as server:
        found = {}
        for name, change in (("replica_kill", _kill_replicas), ("rolling_update", _update)):
            step(f"Replicas that fail: {name.replace('_', ' ')}", 0)
            found[name] = _phase(server, request, directory / "gateway", change)
            step(name, 1)
        return found


def _phase(server: Running, request: bytes, home: Path, change: Callable[[Running, Path, Asking], None]) -> Phase:
    began_s = time.monotonic()
    with asking(server.endpoint, request) as seen:
        seen.more(REQUESTS_BESIDE)
        change(server, home, seen)
        seen.more(REQUESTS_BESIDE)
    return Phase(seen.total, dict(seen.errors), dict(seen.versions), time.monotonic() - began_s)


def _kill_replicas(server: Running, _home: Path, seen: Asking) -> None:
    """SIGKILL each replica of the beginning, the next when all are there again and have answered."""
    killed: set[int] = set()
    for victim in replicas_of(server.tree):
        os.kill(victim, signal.SIGKILL)
        killed.add(victim)
        wait_for(lambda: len(replicas_of(server.tree) - killed) == REPLICAS, "successor of a killed replica")
        seen.more(REQUESTS_BESIDE)


def _update(server: Running, home: Path, seen: Asking) -> None:
    """Bring in a new version of the bundle: replicas of it, new replicas of the old one too, then the policy."""
    before = replicas_of(server.tree)
    _write_next_version(home / "bundles/kiosk", home / f"{NEXT_KEY}.key")
    command = [sys.executable, "-m", "gateway", "ray", "deploy", str(home / "stockade.yaml")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=CHANGE_S_MAX, check=False)
    if done.returncode:
        raise NotMeasured(f"`stockade ray deploy` ended with {done.returncode}: {done.stderr}")
    wait_for(lambda: not before & replicas_of(server.tree), "end of the old replicas")
    _serve(NEXT_VERSION, home)
    (supervisor,) = [pid for pid in server.tree.living() if "gateway serve" in server.tree.command(pid)]
    os.kill(supervisor, signal.SIGHUP)
    wait_for(lambda: seen.versions[NEXT_VERSION] > 0, "answer of the new version")


def _trust_next_key(home: Path) -> None:
    """Make the key that will sign the new version, and have the gateway and its replicas trust it."""
    key = open_signing_key(home / f"{NEXT_KEY}.key")
    (home / f"{NEXT_KEY}.pub").write_bytes(public_pem(key))
    edit_yaml(home / "stockade.yaml", lambda config: config["bundles"]["trusted_keys"].append(f"{NEXT_KEY}.pub"))


def _write_next_version(bundle: Path, key: Path) -> None:
    """The same model as version 2, signed by a key that the gateway trusts."""
    files = read_bundle(bundle / "1")
    manifest = json.loads(files.pop(MANIFEST_FILE)) | {"version": NEXT_VERSION}
    del files[SIGNATURE_FILE]
    signing_key = open_signing_key(key)
    write_bundle(bundle / NEXT_VERSION, seal(files, manifest, signing_key), signing_key)


def _serve(version: str, home: Path) -> None:
    """Make a version the one that answers who names none: in the policy, signed again."""

    def promote(policy: dict[str, Any]) -> None:
        policy["revision"] += 1
        policy["models"]["kiosk"]["serve"] = version

    rewrite_policy(home, promote)


def replicas_of(tree: ProcessTree, application: str = "stockade-kiosk-1") -> set[int]:
    """The processes of an application's replicas. Ray writes what they are into their titles."""
    return {pid for pid in tree.living() if f"ServeReplica:{application}:" in tree.command(pid)}


def wait_for(condition: Callable[[], bool], what: str) -> None:
    """Return when the condition holds. Raises NotMeasured when it does not within CHANGE_S_MAX."""
    give_up = time.monotonic() + CHANGE_S_MAX
    while not condition():
        if time.monotonic() > give_up:
            raise NotMeasured(f"no {what} within {CHANGE_S_MAX:g} s")
        time.sleep(POLL_S)


def as_json(phases: Mapping[str, Phase]) -> dict[str, Any]:
    """The keys of the report: errors and requests of each phase, null where it was not measured. Pure."""
    report: dict[str, Any] = {}
    for name in PHASES:
        phase = phases.get(name)
        report[f"{name}_errors"] = None if phase is None else sum(phase.errors.values())
        report[f"{name}_requests"] = None if phase is None else phase.requests
    report["phases"] = {
        name: {"errors": phase.errors, "answered_by_version": phase.versions, "seconds": round(phase.seconds, 1)}
        for name, phase in phases.items()
    }
    return report
