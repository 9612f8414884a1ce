"""The story of the stack, told to a running engine: `run.sh` has made the images and says by DOCKER_HOST where it is.

Each step prints what it saw. The first thing that is not as it should be ends it with exit code 1.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from tests.e2e.compose.engine import PATIENCE_S, Wrong, compose, eventually, inside, inspect, require, run, say
from tests.e2e.compose.objects import test_objects, test_replica

SITE = Path(os.environ["STOCKADE_SITE"])
STOCKADE = str(Path(sys.executable).with_name("stockade"))
NOT_PULLED = {"grafana"}
"""What cannot be run without a registry; `docker compose config` has still read it."""
ONE_SHOT = {"prepare", "bucket"}
RAY = ("ray-node", "ray-worker", "ray-head")
RAY_PATIENCE_S = 300.0
"""A new head begins with nothing: nodes notice, end, join again, and replicas start; nobody waits for it meanwhile."""
COUNT = 20
TARGETS = 5
LOG = "/var/lib/stockade/audit/log"


def free_ports(count: int) -> list[int]:
    held = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [one.getsockname()[1] for one in held]
    for one in held:
        one.close()
    return ports


def predicted(*, count: int = COUNT) -> bool:
    """Whether `stockade client` on the host got an answer to every image, each with its place in the log."""
    address = f"localhost:{os.environ['STOCKADE_PORT']}"
    done = run(STOCKADE, "client", str(SITE), "--address", address, "--count", str(count), "--json", ok=False)
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    return len(answers) == count and all(
        answer["status"] == "OK" and answer["audit_index"] is not None for answer in answers
    )


def test_compose_file_is_valid() -> list[str]:
    services = compose("config", "--services").stdout.split()
    wanted = {"prepare", "recorder", "gateway", "ray-node", "ray-head", "ray-worker", "redis", "objects", "bucket"}
    wanted |= {"prometheus", "alertmanager", "grafana"}
    require(wanted <= set(services), f"services are missing: {wanted - set(services)}")
    images = run("env", "-i", f"PATH={os.environ['PATH']}", "HOME=/", "docker", "compose", "config", "--images").stdout
    unpinned = [image for image in images.split() if ":" not in image or image.endswith(":latest")]
    require(not unpinned, f"images without a version: {unpinned}")
    return [service for service in services if service not in NOT_PULLED]


def up(services: list[str]) -> None:
    compose("up", "--detach", "--wait", "--no-build", *services)


def test_clients(bin_directory: Path) -> None:
    require(predicted(), "stockade client on the host is not answered")
    triton = Path(os.environ.get("CLIENT_PYTHON", ".venv-client/bin/python"))
    if not triton.exists():
        triton = bin_directory / "python"
    program = Path(__file__).with_name("triton_client.py")
    told = run(str(triton), str(program), f"localhost:{os.environ['STOCKADE_PORT']}", str(SITE)).stdout.strip()
    say(f"stockade client: {COUNT} answers; tritonclient: {told}")


def test_confinement(services: list[str]) -> None:
    for service in services:
        found = inspect(service)
        host = found["HostConfig"]
        require(host["ReadonlyRootfs"], f"{service} can write to its root")
        require(host["CapDrop"] == ["ALL"], f"{service} has capabilities")
        require("no-new-privileges:true" in host["SecurityOpt"], f"{service} can gain privileges")
        require(host["Memory"] and host["NanoCpus"] and host["PidsLimit"], f"{service} has no limits")
        require(
            found["Config"]["User"].split(":")[0] not in ("", "0", "root") or service == "prepare", f"{service}: root"
        )
        require(service in ONE_SHOT or found["State"]["Health"]["Status"] == "healthy", f"{service} is not healthy")
        published = {port: at for port, at in (host["PortBindings"] or {}).items() if at}
        require(service == "gateway" or not published, f"{service} publishes {published}")
        if service == "gateway":
            require(set(published) == {"8001/tcp", "8002/tcp", "8003/tcp"}, f"gateway publishes {published}")
            require(all(at["HostIp"] == "127.0.0.1" for ats in published.values() for at in ats), "beyond loopback")
    say(f"read-only, without capabilities, limited: {', '.join(services)}")


def test_secrets() -> None:
    read = "import sys; open(sys.argv[1], 'rb').read()"
    key, pepper = "/var/lib/stockade/vault/log.key", "/etc/stockade/secrets/pepper"
    inside("recorder", "python", "-c", read, key)
    inside("gateway", "python", "-c", read, pepper)
    strangers = [(service, secret) for service in RAY for secret in (pepper, key)]
    for service, secret in (("gateway", key), ("recorder", pepper), *strangers):
        refused = inside(service, "python", "-c", read, secret, ok=False)
        require("Error" in refused.stderr and refused.returncode == 1, f"{service} can read {secret}")
    require(not (SITE / "keys/log.key").exists(), "the log's key is still on the host")
    say("the log's key is the recorder's alone, the gateway's secrets are the gateway's")


def test_ray_node() -> None:
    """It shares the gateway's network; it is another user, and sees none of the gateway's processes."""
    commands = "import glob; print(*(open(f, 'rb').read() for f in glob.glob('/proc/[0-9]*/cmdline')))"
    ours, theirs = (inside(service, "python", "-c", commands).stdout for service in ("gateway", "ray-node"))
    require("gateway.host.worker" in ours and "raylet/raylet" not in ours, "the gateway's container runs a Ray node")
    require(
        "raylet/raylet" in theirs and "gateway.host.worker" not in theirs, "the Ray node sees the gateway's processes"
    )
    networks = [inside(service, "readlink", "/proc/self/ns/net").stdout for service in ("gateway", "ray-node")]
    require(networks[0] == networks[1], "gateway and Ray node have two networks")
    users = [inside(service, "id", "-u").stdout for service in ("gateway", "ray-node")]
    require(users[0] != users[1], "gateway and Ray node are one user")
    say("the Ray node is a container of its own, as another user, with the gateway's network")


def test_images() -> None:
    """Each says what is in it, holds nothing to install with, and as it is runs as nobody in particular."""
    sizes = []
    for service in ("recorder", "gateway"):
        require(inside(service, "python", "-c", "import pip", ok=False).returncode == 1, f"{service} has a pip")
        bill = json.loads(inside(service, "cat", "/opt/stockade/sbom.cdx.json").stdout)
        require(bill["bomFormat"] == "CycloneDX", f"{service} has no bill of materials")
        named = {canonical(each["name"]): each["version"] for each in bill["components"]}
        there = json.loads(inside(service, "python", "-c", DISTRIBUTIONS).stdout)
        installed = {canonical(name): version for name, version in there}
        require(named == installed, f"{service}'s bill of materials and it differ: {named.items() ^ installed.items()}")
        require("stockade" in named and ("ray" in named) == (service == "gateway"), f"{service}: {sorted(named)}")
        sizes.append(len(named))
        image = inspect(service)["Config"]["Image"]
        plain = ("docker", "run", "--rm", "--read-only", "--cap-drop", "ALL", "--network", "none")
        require(run(*plain, "--entrypoint", "id", image, "-u").stdout.strip() == "10001", f"{image} has another user")
        require("serve" in run(*plain, image, "--help").stdout, f"{image} does not run with a read-only root")
        writable = run(*plain, "--entrypoint", "find", image, *WRITABLE, ok=False).stdout.split()
        require(not writable, f"{image}: its user can write to {writable[:5]}")
    report = inside("gateway", "stockade", "check", "/etc/stockade/stockade.yaml", "--json", ok=False).stdout
    errors = [finding for finding in json.loads(report)["findings"] if finding["level"] == "error"]
    require(not errors, f"stockade check: {errors}")
    say(f"images without pip, not root, read-only; bills of materials are whole ({sizes}); stockade check is content")


DISTRIBUTIONS = """
import json
from importlib.metadata import distributions
print(json.dumps([(each.name, each.version) for each in distributions()]))
"""
WRITABLE = ("/", "-xdev", "-writable", "!", "-type", "l", "!", "-path", "/tmp*", "!", "-path", "/var/tmp*",
            "!", "-path", "/run/lock*", "!", "-path", "/proc*", "!", "-path", "/dev*")  # fmt: skip
"""What find is asked for: what is writable to its user, beyond what Debian gives to everybody."""


def canonical(name: str) -> str:
    """The name of a distribution as PyPI compares it."""
    return name.lower().replace("_", "-").replace(".", "-")


def ask_monitoring(service: str, url: str) -> Any:
    return json.loads(inside(service, "wget", "-q", "-O", "-", url).stdout)["data"]


def targets_up() -> list[str] | None:
    found = ask_monitoring("prometheus", "http://127.0.0.1:9090/api/v1/targets?state=active")["activeTargets"]
    up = all(each["health"] == "up" for each in found)
    return [each["labels"]["job"] for each in found] if up and len(found) >= TARGETS else None


def test_monitoring() -> None:
    jobs = eventually(targets_up, "a target of Prometheus is not up", 60)
    wanted = ["objects", "prometheus", "ray", "ray", "stockade"]
    require(sorted(jobs) == wanted, f"Prometheus asks {jobs}")
    groups = ask_monitoring("prometheus", "http://127.0.0.1:9090/api/v1/rules")["groups"]
    rules = [rule for group in groups for rule in group["rules"]]
    require(rules and all(rule["health"] in ("ok", "unknown") for rule in rules), "rules are missing or wrong")
    found = ask_monitoring("prometheus", "http://127.0.0.1:9090/api/v1/alertmanagers")["activeAlertmanagers"]
    require(len(found) == 1, "Prometheus does not know the Alertmanager")
    say(f"Prometheus: targets {', '.join(jobs)} up, {len(rules)} rules, one Alertmanager")


def test_replicas() -> None:
    """That the cluster answers, and not the gateway's fallback."""

    page = "import urllib.request as u; print(u.urlopen('http://127.0.0.1:8080/metrics', timeout=20).read().decode())"

    def handled() -> float:
        lines = inside("ray-worker", "python", "-c", page, ok=False).stdout.splitlines()
        counts = [line for line in lines if line.startswith("ray_serve_deployment_request_counter_total{")]
        return sum(float(line.rpartition(" ")[2]) for line in counts)

    before = handled()
    eventually(lambda: predicted() and handled() > before, "replicas handle nothing", RAY_PATIENCE_S)
    say(f"replicas have handled {handled():.0f} calls")


def test_kill(service: str) -> None:
    """kill -9, from outside: to the engine it is a death, not a stop that was asked for."""
    before = inspect(service)
    node = inspect("ray-node")
    os.kill(before["State"]["Pid"], signal.SIGKILL)
    at = time.monotonic()
    # What a dead replica was working on ends late, then the gateway runs the model itself; and the policy refuses what
    # Redis has not said yes to.
    if service in RAY or service == "redis":
        eventually(lambda: predicted(count=3), f"without {service} nothing is answered", 60)
    elif service not in ("gateway", "recorder"):
        require(predicted(count=3), f"without {service} nothing is answered")

    patience_s = RAY_PATIENCE_S if service in RAY else PATIENCE_S
    eventually(lambda: is_back(service, before), f"{service} did not come back", patience_s)
    if service == "gateway":  # its network is another, and the Ray node has to follow
        eventually(lambda: is_back("ray-node", node), "the Ray node did not follow the gateway", RAY_PATIENCE_S)
    eventually(predicted, f"no predictions after the death of {service}", 60)
    say(f"killed {service}: healthy and answering after {time.monotonic() - at:.1f} s")


def is_back(service: str, before: dict[str, Any]) -> bool:
    """Whether a service has begun again since `before`, and is healthy."""
    now = inspect(service)
    return now["State"]["Pid"] not in (0, before["State"]["Pid"]) and now["State"]["Health"]["Status"] == "healthy"


def test_log(least: int) -> int:
    verify = ("stockade", "audit", "verify", LOG, "--vkey", "/etc/stockade/keys/log.vkey", "--json")
    report = json.loads(inside("recorder", *verify).stdout)
    require(report["size"] >= least, f"{least} answers and {report['size']} entries")
    say(f"the log is verified: {report['size']} entries")
    return int(report["size"])


def digests() -> dict[str, str]:
    return {
        str(file.relative_to(SITE)): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in SITE.rglob("*")
        if file.is_file()
    }


def main() -> None:
    for name, port in zip(
        ("STOCKADE_PORT", "STOCKADE_METRICS_PORT", "STOCKADE_ADMIN_PORT"), free_ports(3), strict=True
    ):
        os.environ[name] = str(port)
    services = test_compose_file_is_valid()
    say(f"docker compose up: {', '.join(services)}")
    up(services)
    made = digests()
    test_clients(Path(sys.executable).parent)
    test_confinement(services)
    test_secrets()
    test_ray_node()
    test_objects()
    test_replica(COUNT)
    test_images()
    test_monitoring()
    test_replicas()
    lasting = [service for service in services if service not in {*ONE_SHOT, *RAY}] + [*RAY]
    for service in lasting:
        test_kill(service)
        if service in {"gateway", *RAY}:
            test_replicas()
    test_monitoring()
    up(services)
    require(digests() == made, "a second `up` changed the site")
    require(predicted(), "no predictions after a second `up`")
    test_replica(test_log(COUNT * (len(lasting) + 2)))
    compose("down", "--volumes")
    left = run("docker", "ps", "--all", "--quiet").stdout + run("docker", "volume", "ls", "--quiet").stdout
    require(not left.strip(), f"`down --volumes` left {left}")
    say("down")


if __name__ == "__main__":
    try:
        main()
    except (Wrong, subprocess.TimeoutExpired) as problem:
        say(f"WRONG: {problem}")
        sys.exit(1)
