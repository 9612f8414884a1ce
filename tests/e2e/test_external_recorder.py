"""A recorder that runs apart: the gateway finds it, misses it, finds it again; and as another user it keeps its key.

As root, gateway and recorder run as two users with a common group; otherwise both as whoever runs the tests.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import urllib.error
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest

from ops.audit.store.ring import ring_files
from tests.e2e.caller import Reply, calling, images, infer_body
from tests.e2e.running import Running, end_all, start, until, verified
from tests.e2e.site import Site, copy_site

GATEWAY, RECORDER, STRANGER, GROUP = 61_001, 61_002, 61_003, 61_000
RING_OF_THE_DEAD = """
import os, sys
from pathlib import Path
from ops.audit.store.ring import InflightRing
ring = InflightRing.open(Path(sys.argv[1]) / "worker-9.ring", 4, b'{"gateway":"host/worker-9"}', mode=0o640)
ring.enter(bytes.fromhex(sys.argv[2]), b'{"method":"/m/Infer"}')
os._exit(9)
"""


def as_user(user: int | None, group: int = GROUP) -> dict[str, Any]:
    """What Popen needs to run as a user; it may not write coverage where the tests do."""
    if user is None:
        return {}
    environment = {name: value for name, value in os.environ.items() if not name.startswith("COV")}
    return {"user": user, "group": group, "extra_groups": [], "env": environment | {"HOME": "/nonexistent"}}


def two_users() -> bool:
    """Whether we may run programs as others, and these can read the program."""
    if os.geteuid() != 0:
        return False
    command = [sys.executable, "-c", "import gateway.cli.main"]
    try:
        return subprocess.run(command, check=False, capture_output=True, **as_user(GATEWAY)).returncode == 0
    except PermissionError:
        return False


@dataclass(slots=True)
class Apart:
    """A gateway and the recorder beside it."""

    site: Site
    apart: bool
    gateway: Running | None = None
    recorder: subprocess.Popen[bytes] | None = None

    def start_recorder(self) -> None:
        with (self.site.directory.parent / "recorder.stderr").open("ab") as errors:
            self.recorder = subprocess.Popen(
                [sys.executable, "-m", "gateway", "recorder", str(self.site.config)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=errors,
                **as_user(RECORDER if self.apart else None),
            )

    def kill_recorder(self) -> None:
        assert self.recorder is not None
        self.recorder.kill()
        self.recorder.wait()

    def ask(self) -> Reply:
        assert self.gateway is not None
        with calling(self.site, self.gateway.facts["data"], self.site.bearer("plenty")) as caller:
            return caller.infer(infer_body(images()[:1]))

    def state(self, name: str) -> Path:
        return self.site.directory / "state" / name


def hand_over(site: Site) -> None:
    """Give each user what is theirs, as an installation with two users does."""
    directory = site.directory
    for path in (directory, *directory.rglob("*")):
        os.chown(path, GATEWAY, GROUP)
    directory.chmod(0o750)  # the recorder reads stockade.yaml
    for name in ("log", "recorder", "vault"):
        for path in (directory / name, *(directory / name).rglob("*")):
            os.chown(path, RECORDER, GROUP)
    (directory / "state").mkdir(exist_ok=True)
    os.chown(directory / "state", 0, GROUP)
    (directory / "state").chmod(0o3770)
    directory.parent.chmod(0o755)


@pytest.fixture(scope="module")
def host(made_site: Site) -> Iterator[Apart]:
    home = Path(tempfile.mkdtemp(prefix="stockade-apart-"))
    site = copy_site(made_site, home / "site")
    (site.directory / "vault").mkdir(mode=0o700)
    (site.directory / "keys/log.key").rename(site.directory / "vault/log.key")
    external = {"recorder": "external", "signing_key": "vault/log.key"}
    site.change_config(lambda document: document["audit"].update(external))
    found = Apart(site, two_users())
    if found.apart:
        hand_over(site)
    try:
        found.start_recorder()
        found.gateway = start(site, **as_user(GATEWAY if found.apart else None))
        yield found
    finally:
        if found.gateway is not None:
            end_all(found.gateway)
        if found.recorder is not None:
            found.kill_recorder()
        shutil.rmtree(home)


def test_answers_are_recorded_and_one_page_shows_both(host):
    reply = host.ask()
    assert reply.code is grpc.StatusCode.OK, reply.details
    assert host.gateway.entry(reply.request_id)["kind"] == "served"
    until(lambda: host.gateway.counted("stockade_audit_tree_size"), "the recorder is not on the page")
    until(lambda: host.gateway.counted("stockade_requests_total", outcome="served"), "it was not counted")


def test_without_it_nothing_is_answered_and_with_it_everything_is_again(host):
    counted = host.gateway.counted("stockade_audit_records_total")
    host.kill_recorder()
    until(lambda: not ready(host.gateway), "the gateway calls itself ready without a recorder")
    assert host.ask().reason == "AUDIT_UNAVAILABLE"
    host.start_recorder()
    until(lambda: ready(host.gateway), "the gateway does not find its recorder again")
    until(lambda: host.ask().code is grpc.StatusCode.OK, "the worker does not find its recorder again")
    until(
        lambda: host.gateway.counted("stockade_audit_records_total") > counted,
        "the page forgot what was counted before",
    )
    assert [event["event"] for event in host.gateway.events() if event["event"].startswith("neighbour")] == [
        "neighbour-found",
        "neighbour-missed",
        "neighbour-found",
    ]


def test_what_a_dead_worker_left_is_recorded_and_removed(host):
    request_id = os.urandom(16).hex()
    left = [sys.executable, "-c", RING_OF_THE_DEAD, str(host.state("rings")), request_id]
    died = subprocess.run(left, check=False, **as_user(GATEWAY if host.apart else None))
    assert died.returncode == 9
    entry = host.gateway.entry(request_id)
    assert (entry["kind"], entry["gateway"]) == ("outcome-unknown", "host/worker-9")
    until(
        lambda: not any(ring.name.startswith("worker-9") for ring in ring_files(host.state("rings"))),
        "it is still there",
    )


def may(user: int, group: int, code: str, *arguments: object) -> bool:
    """Whether a user gets through a few lines of Python."""
    ran = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)], check=False, capture_output=True, **as_user(user, group)
    )
    assert ran.returncode == 0 or b"PermissionError" in ran.stderr, ran.stderr.decode()
    return ran.returncode == 0


READ = "import sys; open(sys.argv[1], 'rb').read()"
CONNECT = "import socket, sys; socket.socket(socket.AF_UNIX).connect(sys.argv[1])"
REMOVE = "import os, sys; os.remove(sys.argv[1])"


def test_the_key_is_the_recorders_alone_and_the_socket_is_for_the_group(host):
    if not host.apart:
        pytest.skip("needs root, and a Python that other users can read")
    key, sock = host.site.directory / "vault/log.key", host.state("recorder.sock")
    assert may(RECORDER, GROUP, READ, key)
    assert not may(GATEWAY, GROUP, READ, key)
    assert may(GATEWAY, GROUP, CONNECT, sock)
    assert not may(STRANGER, STRANGER, CONNECT, sock)
    assert not may(RECORDER, GROUP, READ, host.site.directory / "keys/pepper")
    for user, theirs in ((GATEWAY, "recorder.sock"), (RECORDER, "serve.lock"), (GATEWAY, "metrics/recorder.lock")):
        assert not may(user, GROUP, REMOVE, host.state(theirs)), f"{user} can remove {theirs}"


def test_the_gateway_leaves_it_running(host):
    """Last, because the gateway is gone afterwards."""
    assert host.gateway.stop() == 0
    assert host.recorder.poll() is None
    with socket.socket(socket.AF_UNIX) as caller:
        caller.connect(str(host.state("recorder.sock")))
        assert caller.recv(1)
    host.recorder.send_signal(signal.SIGTERM)
    assert host.recorder.wait(30) == 0
    assert verified(host.site).exit_code == 0


def ready(running: Running) -> bool:
    try:
        return running.page("/readyz") == "ok\n"
    except urllib.error.HTTPError:
        return False
