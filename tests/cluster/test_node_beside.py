"""A gateway whose Ray node runs in a container beside it: one network, one /tmp/ray, and no sight of its processes."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

import msgspec
import pytest

from serving.engines.ray.settings import RaySettings
from tests.cluster.ray_nodes import ray_cluster

CANNOT_SEE = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child"]
END_S = 120
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(os.geteuid() != 0, reason="a process namespace needs root"),
    pytest.mark.skipif(shutil.which("unshare") is None, reason="not installed: unshare"),
]


def test_a_node_is_found_whose_processes_cannot_be_seen():
    with ray_cluster(cpus=0) as cluster:
        done = subprocess.run(
            [*CANNOT_SEE, sys.executable, "-m", "serving.engines.ray.verbs", "status"],
            input=msgspec.json.encode(RaySettings(address=cluster.address)),
            capture_output=True,
            timeout=END_S,
            check=False,
        )
    assert (done.returncode, done.stdout) == (0, b""), done.stdout + done.stderr
