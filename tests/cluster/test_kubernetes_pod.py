"""A gateway pod as the manifests describe it, without Kubernetes.

Two programs under their own users, each with the mounts of its container and no others, a read-only root, one network:
what a kubelet does is done here with namespaces.
"""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import Any

import pytest
import yaml

from gateway.tools.init.init import init_directory
from gateway.tools.init.log_key import make_log_key
from ops.audit.verify.verify import verify_log
from tests.e2e.running import until

ROOT = Path(__file__).resolve().parent.parent.parent
OVERLAY = ROOT / "ops/deploy/kubernetes/overlays/in-process"
HOST = "stockade-0"
ORIGIN = f"stockade.example.org/{HOST}"
IN_IMAGE = "/opt/stockade/lib/python3.11/site-packages/gateway/bundles"
TOOLS = ("kustomize", "unshare", "nsenter", "setpriv", "ip")
END_S = 60

missing = [tool for tool in TOOLS if shutil.which(tool) is None]
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(os.geteuid() != 0, reason="mounts and other users need root"),
    pytest.mark.skipif(bool(missing), reason=f"not installed: {', '.join(missing)}"),
]


def render() -> list[dict[str, Any]]:
    done = subprocess.run(["kustomize", "build", OVERLAY], capture_output=True, text=True, timeout=60, check=True)
    return list(yaml.safe_load_all(done.stdout))


def put(directory: Path, files: dict[str, bytes], group: int) -> Path:
    """A Secret or ConfigMap as it is mounted: of the group, which may read it."""
    directory.mkdir()
    for name, data in files.items():
        path = directory / name
        path.write_bytes(data)
        os.chown(path, 0, group)
        path.chmod(0o440)
    os.chown(directory, 0, group)
    directory.chmod(0o750)
    return directory


@dataclass(slots=True)
class Pod:
    """Its volumes by name, the network that its containers share, and what runs in them."""

    spec: dict[str, Any]
    directory: Path
    volumes: dict[str, Path]
    network: int
    running: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    @property
    def group(self) -> int:
        return int(self.spec["securityContext"]["fsGroup"])

    def container(self, name: str) -> dict[str, Any]:
        (found,) = [each for each in (*self.spec["initContainers"], *self.spec["containers"]) if each["name"] == name]
        return found

    def inside(self, *command: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run a program of the host in the pod's network."""
        enter = ["nsenter", f"--net=/proc/{self.network}/ns/net", *command]
        return subprocess.run(enter, capture_output=True, text=True, timeout=END_S, check=check)

    def start(self, name: str) -> None:
        container = self.container(name)
        user = container["securityContext"].get("runAsUser", self.spec["securityContext"]["runAsUser"])
        drop = ["--clear-groups", "--no-new-privs", "--bounding-set=-all", "--inh-caps=-all"]
        ids = [f"--reuid={user}", f"--regid={self.spec['securityContext']['runAsGroup']}"]
        program, *rest = container["command"]
        assert program == "stockade"
        run = ["exec", "setpriv", *ids, *drop, sys.executable, "-m", "gateway", *rest]
        script = "\n".join(
            ["set -e", *root_filesystem(), *self.mounts(container), "mount -o remount,ro,bind /", shlex.join(run)]
        )
        enter = ["nsenter", f"--net=/proc/{self.network}/ns/net", "unshare", "--mount", "--propagation", "private"]
        with (self.directory / f"{name}.log").open("wb") as log:
            self.running[name] = subprocess.Popen(
                [*enter, "sh", "-c", script],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={"PATH": os.environ["PATH"], "POD_NAME": HOST, "HOME": "/nonexistent"},
            )

    def mounts(self, container: dict[str, Any]) -> Iterator[str]:
        """What mounts a container's volumes, the outer before the inner."""
        for mount in sorted(container["volumeMounts"], key=lambda each: each["mountPath"].count("/")):
            part = mount.get("subPath", mount.get("subPathExpr", "").replace("$(POD_NAME)", HOST))
            source, target = self.volumes[mount["name"]] / part, mount["mountPath"]
            parent = PurePosixPath(target).parent
            make = f"mkdir -p {parent} && touch {target}" if source.is_file() else f"mkdir -p {target}"
            yield f"{make} && mount --bind {source} {target}"
            if mount.get("readOnly"):
                yield f"mount -o remount,ro,bind {target}"

    def log(self, name: str) -> str:
        return (self.directory / f"{name}.log").read_text()

    def sees(self, name: str, path: str) -> bool:
        """Whether the container has this path."""
        target = str(self.running[name].pid)
        command = ["nsenter", "--mount", f"--target={target}", "test", "-e", path]
        return subprocess.run(command, timeout=END_S, check=False).returncode == 0

    def stop(self, name: str) -> int:
        process = self.running[name]
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        return process.wait(END_S)


def root_filesystem() -> Iterator[str]:
    """An image's root, made of the machine's: empty where volumes go, with Python and the bundles in their place."""
    yield "mount -t tmpfs -o mode=755 tmpfs /mnt && mkdir /mnt/upper /mnt/work /mnt/python"
    if Path(sys.base_prefix).is_relative_to("/root"):  # where other users get in only like this
        yield f"mount --bind {sys.base_prefix} /mnt/python && mount -t tmpfs -o mode=755 tmpfs /root"
        yield f"mkdir -p {sys.base_prefix} && mount --move /mnt/python {sys.base_prefix}"
    yield "mount -t overlay overlay -o lowerdir=/etc,upperdir=/mnt/upper,workdir=/mnt/work /etc"
    yield from (f"mount -t tmpfs -o mode=755 tmpfs {path}" for path in ("/run", "/var/lib", "/opt"))
    yield f"mkdir -p {IN_IMAGE} && mount --bind {ROOT / 'bundles'} {IN_IMAGE}"


@pytest.fixture
def pod(tmp_path: Path) -> Iterator[Pod]:
    made, keys = tmp_path / "made", tmp_path / "log.key"
    init_directory(made, now=datetime.now(UTC), random_bytes=os.urandom, bundles=ROOT / "bundles")
    vkey = make_log_key(ORIGIN, os.urandom(32), keys)
    manifests = render()
    (host,) = [each for each in manifests if each["kind"] == "StatefulSet"]
    (config,) = [each for each in manifests if each["kind"] == "ConfigMap"]
    spec = host["spec"]["template"]["spec"]
    group = int(spec["securityContext"]["fsGroup"])
    brought = {
        "config": {name: text.encode() for name, text in config["data"].items()},
        "policy": {name: (made / name).read_bytes() for name in ("policy.yaml", "policy.yaml.sig")},
        "trust": {
            "client-ca.crt": (made / "tls/ca.crt").read_bytes(),
            "policy.pub": (made / "keys/policy.pub").read_bytes(),
            "bundles.pub": (made / "keys/bundles.pub").read_bytes(),
            f"{HOST}.vkey": vkey.encode(),
        },
        "tls": {"tls.crt": (made / "tls/server.crt").read_bytes(), "tls.key": (made / "tls/server.key").read_bytes()},
        "secrets": {name: (made / "keys" / name).read_bytes() for name in ("pepper", "payload-master.key")},
        "log-keys": {f"{HOST}.key": keys.read_bytes()},
    }
    volumes = {name: put(tmp_path / name, files, group) for name, files in brought.items()}
    for name, mode in (("run", 0o2777), ("log", 0o2775), ("signer", 0o2775), ("payload-keys", 0o2775)):
        volumes[name] = tmp_path / name
        volumes[name].mkdir()
        os.chown(volumes[name], 0, group)
        volumes[name].chmod(mode)  # as a kubelet leaves an emptyDir, and a volume of which fsGroup took possession
    with ExitStack() as stack:
        holder = subprocess.Popen(["unshare", "--net", "sleep", "600"])
        stack.callback(holder.wait)
        stack.callback(holder.kill)
        ours, theirs = Path("/proc/self/ns/net"), Path(f"/proc/{holder.pid}/ns/net")
        until(lambda: ours.readlink() != theirs.readlink(), "the pod has no network")
        pod = Pod(spec, tmp_path, volumes, holder.pid)
        pod.inside("ip", "link", "set", "lo", "up")
        yield pod
        for process in pod.running.values():
            if process.poll() is None:
                process.kill()
                process.wait()


def ready(pod: Pod) -> bool:
    ask = "import urllib.request as r; r.urlopen('http://127.0.0.1:8002/readyz', timeout=2)"
    return pod.inside(sys.executable, "-c", ask, check=False).returncode == 0


def test_a_pod_answers_and_leaves_a_log_that_verifies(pod):
    pod.start("recorder")
    until((pod.volumes["run"] / "state/recorder.sock").exists, "the recorder did not come up")
    pod.start("gateway")
    until(lambda: ready(pod) or pod.running["gateway"].poll() is not None, "the gateway is not ready", 60)
    client = [sys.executable, "-m", "gateway", "client", str(pod.directory / "made"), "--count", "5"]
    done = pod.inside(*client, "--address", "localhost:8001", check=False)
    assert done.returncode == 0, done.stdout + done.stderr + pod.log("gateway") + pod.log("recorder")

    assert pod.sees("recorder", "/var/lib/stockade/signer/log.signed")
    assert not pod.sees("gateway", "/var/lib/stockade/signer")
    assert not pod.sees("gateway", "/var/lib/stockade/audit/recorder")
    assert pod.sees("gateway", "/var/lib/stockade/audit/log/checkpoint")
    assert not pod.sees("recorder", "/etc/stockade/secrets")
    assert not pod.sees("recorder", "/etc/stockade/tls")

    assert pod.stop("gateway") == 0, pod.log("gateway")
    assert pod.stop("recorder") == 0, pod.log("recorder")
    vkey = (pod.volumes["trust"] / f"{HOST}.vkey").read_text()
    report = verify_log(pod.volumes["log"] / "log", [vkey])
    assert (report.exit_code, report.findings) == (0, [])
    assert report.size > 5
