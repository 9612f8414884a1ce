"""The Ray node of the compose stack, by the script that we ship: its directory replaced, and `ray` by a stand-in."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

SHIPPED = Path(__file__).parent.parent.parent / "ops/deploy/compose/ray.sh"
NODE, GATEWAY, GROUP = 64_001, 64_002, 64_000
# Ray takes the newest session that is there for the one it is to join. This node ends once it has shown what there is.
PROGRAMS = {"ray": "ls -d {ray}/session_* >{ray}/found", "python": "echo 10.0.0.1", "sleep": "exec /bin/sleep 0.01"}

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="gives files to other users")


@pytest.fixture
def ray() -> Iterator[Path]:
    """The volume of node and gateway, who are two users of one group. What pytest makes is not for other users."""
    with TemporaryDirectory() as directory:
        Path(directory).chmod(0o755)
        volume = Path(directory) / "ray"
        volume.mkdir()
        os.chown(volume, NODE, GROUP)
        volume.chmod(0o2770)
        yield volume


def session(ray: Path, name: str, owner: int) -> Path:
    """A session's directory with a log in it, which only its owner may remove."""
    directory = ray / name
    (directory / "logs").mkdir(parents=True)
    (directory / "logs/driver.log").write_text("began\n")
    for path in (directory / "logs/driver.log", directory / "logs", directory):
        os.chown(path, owner, GROUP)
        path.chmod(0o755 if path.is_dir() else 0o644)
    return directory


def start_node(ray: Path) -> list[str]:
    """Run `ray.sh node` until its node has ended; returns the sessions that the node found."""
    programs = ray.parent / "bin"
    programs.mkdir()
    for name, line in PROGRAMS.items():
        (programs / name).write_text(f"#!/bin/sh\n{line.format(ray=ray)}\n")
        (programs / name).chmod(0o755)
    script = ray.parent / "ray.sh"
    script.write_text(SHIPPED.read_text().replace("/tmp/ray", str(ray)))
    done = subprocess.run(
        ["sh", script, "node"], env={"PATH": f"{programs}:/usr/bin:/bin"}, user=NODE, group=GROUP, extra_groups=[],
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert done.returncode == 1, done.stderr  # so that the engine starts the container again
    return (ray / "found").read_text().split()


def test_a_node_that_was_killed_leaves_no_session_to_the_next(ray):
    killed = session(ray, "session_2026-01-01_00-00-00_000000_7", NODE)
    (ray / "session_latest").symlink_to(killed)
    assert start_node(ray) == []
    assert not killed.exists()


def test_the_session_of_a_gateway_that_came_first_is_out_of_the_nodes_way_and_keeps_its_logs(ray):
    first = session(ray, "session_2026-01-01_00-00-00_000000_9", GATEWAY)
    assert start_node(ray) == []
    assert not first.exists()
    [left] = ray.glob("left.*")
    assert (left / "logs/driver.log").read_text() == "began\n"
