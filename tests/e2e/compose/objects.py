"""The object store of the stack: who reaches it, what it refuses, and the copy of the log that it holds."""

from __future__ import annotations

import json
import subprocess

from tests.e2e.compose.engine import compose, eventually, inside, inspect, require, say

S3, S3_GRPC, METRICS = 8333, 18333, 9327
OPEN = [S3, METRICS, S3_GRPC]
"""The ports of the object store that are not on loopback."""
LISTENING = "0A"
"""The state in /proc/net/tcp, proc(5)."""
REPLICA = "s3://stockade-log/log"
COPIED_S = 180.0
"""Three times `every` of the stack's `audit.replication`."""


def test_objects() -> None:
    """Master, volume and filer are on loopback, S3 is where its clients are, and its gRPC port takes none."""
    sockets = [line.split() for line in inside("objects", "cat", "/proc/net/tcp", "/proc/net/tcp6").stdout.splitlines()]
    listening = [line[1].split(":") for line in sockets if line[3:4] == [LISTENING]]
    loopback = [int(port, 16) for address, port in listening if address.endswith("7F")]
    beyond = sorted(int(port, 16) for address, port in listening if not address.endswith("7F"))
    require(beyond == OPEN, f"objects listens to others on {beyond}")
    require(
        {9333, 8888, 8080} <= set(loopback), f"the parts of SeaweedFS are not where they are looked for: {loopback}"
    )

    addresses = {
        name.partition("_")[2]: each["IPAddress"]
        for name, each in inspect("objects")["NetworkSettings"]["Networks"].items()
    }
    tried = [f"{address}:{port}" for address in addresses.values() for port in {*loopback, *beyond}]
    of_clients = {f"{addresses['objects']}:{S3}", f"{addresses['objects']}:{S3_GRPC}"}
    for service, may in (("gateway", {*of_clients, f"{addresses['monitoring']}:{METRICS}"}), ("ray-worker", set())):
        reached = set(inside(service, "python", "-c", REACHED, *tried).stdout.split())
        require(reached == may, f"{service} reaches {reached} of objects")
    told = beside_objects("/deploy/bucket.py", f"http://objects-s3:{S3}", "stockade-log", "/etc/seaweedfs/s3.json")
    require("Object Lock is enabled" in told.stdout, f"S3 does not answer: {told.stdout}{told.stderr}")
    told = beside_objects("-c", ASK_S3, f"objects-s3:{S3}")
    require(told.stdout.split() == ["403"], f"S3 without credentials: {told.stdout}{told.stderr}")
    told = beside_objects("-c", ASK_S3_GRPC, f"objects-s3:{S3_GRPC}")
    require("StatusCode.UNAVAILABLE" in told.stdout, f"S3's gRPC port: {told.stdout}{told.stderr}")
    say(f"objects: {len(loopback)} ports on loopback; S3 on its own network, by credentials, its gRPC port by none")


REACHED = """
import socket, sys
from concurrent.futures import ThreadPoolExecutor
def reached(address):
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host, int(port)), 3).close()
    except OSError:
        return False
    return True
with ThreadPoolExecutor(len(sys.argv)) as at_once:
    print(*(address for address, yes in zip(sys.argv[1:], at_once.map(reached, sys.argv[1:])) if yes))
"""
ASK_S3 = """
import http.client, sys
asked = http.client.HTTPConnection(sys.argv[1], timeout=10)
asked.request("DELETE", "/stockade-log")
print(asked.getresponse().status)
"""
ASK_S3_GRPC = """
import sys, grpc
with grpc.insecure_channel(sys.argv[1]) as channel:
    ask = channel.unary_unary("/messaging_pb.SeaweedS3IamCache/ListPolicies")
    try:
        print(ask(b"", timeout=10))
    except grpc.RpcError as refusal:
        print(refusal.code())
"""


def beside_objects(*program: str) -> subprocess.CompletedProcess[str]:
    """Run Python on the network of those who may use S3."""
    return compose("run", "--rm", "--no-deps", "--entrypoint", "python", "bucket", *program, ok=False)


def test_replica(least: int) -> None:
    """All entries arrive, and what is there verifies: as docs/how-to/deploy-compose.md says, in a container of its
    own.
    """
    size = eventually(lambda: (found := verified()) >= least and found, f"{least} entries do not arrive", COPIED_S)
    metrics = inside("gateway", "python", "-c", METRICS_PAGE).stdout
    stopped = [line for line in metrics.splitlines() if line.startswith(STOPPED) and not line.endswith(" 0.0")]
    require(not stopped, f"replication stopped: {stopped}")
    say(f"the object store holds {size} entries of the log, and they are verified")


METRICS_PAGE = (
    "import urllib.request as u; print(u.urlopen('http://127.0.0.1:8002/metrics', timeout=20).read().decode())"
)
STOPPED = 'stockade_audit_replication_failures_total{result="stopped"}'


def verified() -> int:
    """How many entries of the log the object store holds, all of them verified; 0 while there is no copy."""
    place = (REPLICA, "--endpoint", f"http://objects-s3:{S3}", "--credentials", "/etc/stockade/secrets/objects.json")
    verify = ("audit", "verify", *place, "--vkey", "/etc/stockade/keys/log.vkey", "--json")
    done = compose("run", "--rm", "--no-deps", "--no-TTY", "--entrypoint", "stockade", "gateway", *verify, ok=False)
    return int(json.loads(done.stdout)["size"]) if done.returncode == 0 else 0
