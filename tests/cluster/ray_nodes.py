"""A Ray cluster of this test's own on loopback: real `ray start` processes that are stopped by their numbers."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gateway.tools.bench.machine import ProcessTree, free_ports
from serving.bundles.catalog import find_bundles
from serving.engines.ray.settings import Deployable, DeployPlan, RaySettings, applications
from tests.e2e.running import until

OBJECT_STORE_BYTES = 100 * 1000 * 1000
START_S = 240.0
DEPLOY_S = 300.0
ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_raylet_start_wait_time_s": "240",
    "RAY_health_check_period_ms": "500",  # a node that is gone is noticed in seconds, so tests need not wait a minute
    "RAY_health_check_failure_threshold": "4",
    "RAY_health_check_initial_delay_ms": "0",
    "OMP_NUM_THREADS": "1",
    "RAY_worker_niceness": "0",  # 15 by default: beside other work on the machine a replica would hardly run
}


@dataclass(slots=True)
class Node:
    """One `ray start --block` and all it started."""

    process: subprocess.Popen[bytes]
    tree: ProcessTree

    def stop(self, *, hard: bool = False) -> None:
        """SIGTERM, or with `hard` SIGKILL to everything at once, as when the machine loses its power."""
        living = self.tree.living()
        if not hard:
            with suppress(ProcessLookupError):
                self.process.send_signal(signal.SIGTERM)
            with suppress(subprocess.TimeoutExpired):
                self.process.wait(3)
        while living := {**living, **self.tree.living()}:
            for pid in living:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            self.process.poll()
            living = self.tree.living()
            time.sleep(0.05)
        self.process.wait()


@dataclass(slots=True)
class Cluster:
    """A head and perhaps more nodes."""

    directory: Path
    port: int
    nodes: list[Node] = field(default_factory=list)

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def start_head(self, *, cpus: int = 4) -> Node:
        return self._start(["--head", f"--port={self.port}", "--include-dashboard=false"], cpus)

    def add_node(self, *, cpus: int = 2) -> Node:
        return self._start([f"--address={self.address}"], cpus)

    def _start(self, options: Sequence[str], cpus: int) -> Node:
        ray = Path(sys.executable).with_name("ray")
        command = [
            str(ray), "start", "--block", f"--num-cpus={cpus}", "--disable-usage-stats",
            f"--object-store-memory={OBJECT_STORE_BYTES}", f"--temp-dir={self.directory}", *options,
        ]  # fmt: skip
        log = (self.directory / f"node-{len(self.nodes)}.log").open("wb")
        with log:
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=os.environ | ENVIRONMENT
            )
        node = Node(process, ProcessTree(process.pid))
        self.nodes.append(node)
        until(lambda: self._is_up(node, log.name), "no node", START_S)
        return node

    def _is_up(self, node: Node, log: str) -> bool:
        text = Path(log).read_text(errors="replace")
        assert node.process.poll() is None, text
        node.tree.living()  # get to know them before their parents go
        return "Ray runtime started" in text

    def stop(self) -> None:
        for node in reversed(self.nodes):
            node.stop()
        self.nodes.clear()

    def deploy(
        self, settings: RaySettings, bundles: Path, keys: Sequence[Path], **changes: Any
    ) -> list[dict[str, Any]]:
        """Deploy every bundle of a directory as `stockade ray deploy` does; returns what it said."""
        from serving.bundles.bundle import load_bundle

        found = [(directory, load_bundle(directory, keys)) for directory in find_bundles(bundles)]
        named = [Deployable(bundle.name, bundle.version, bundle.digest, str(path)) for path, bundle in found]
        plan = DeployPlan(settings.address, applications(settings, named, keys))
        for application in plan.applications:
            application.args.update(changes)
        return deploy(plan)

    def replica_pids(self, application: str) -> list[int]:
        """The processes of an application's replicas, on every node."""
        return sorted(pid for node in self.nodes for pid in replicas_of(node, application))


def replicas_of(node: Node, application: str) -> list[int]:
    """The processes of an application's replicas on one node. Ray writes what they are into their titles."""
    found = []
    for pid in node.tree.living():
        with suppress(OSError):
            if f"ServeReplica:{application}:".encode() in Path(f"/proc/{pid}/cmdline").read_bytes():
                found.append(pid)
    return found


def deploy(plan: DeployPlan, timeout_s: float = DEPLOY_S) -> list[dict[str, Any]]:
    """Run the verb; returns its lines, with the exit code as the last."""
    import msgspec

    done = subprocess.run(
        [sys.executable, "-m", "serving.engines.ray.verbs", "deploy", str(timeout_s)],
        input=msgspec.json.encode(plan), capture_output=True, timeout=timeout_s + 60, check=False,
    )  # fmt: skip
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith(b"{")]
    return [*lines, {"exit": done.returncode, "stderr": done.stderr.decode()[-2000:]}]


@contextmanager
def ray_cluster(*, cpus: int = 4) -> Iterator[Cluster]:
    """A running head, for as long as the block runs. Its directory is short: sockets lie far below it."""
    directory = Path(tempfile.mkdtemp(prefix="rc", dir="/tmp"))
    cluster = Cluster(directory, free_ports(1)[0])
    try:
        cluster.start_head(cpus=cpus)
        yield cluster
    finally:
        cluster.stop()
        shutil.rmtree(directory, ignore_errors=True)
