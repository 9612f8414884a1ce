"""The disk of a whole gateway fills up: whoever asks whether it can serve is told no, with and without a credential."""

from __future__ import annotations

import os
import subprocess
import urllib.error
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2

from tests.e2e.caller import calling, infer_body
from tests.e2e.running import Running, serving, until
from tests.e2e.site import copy_site

DISK_BYTES = 400 << 20  # two segments and the reserve take half of it
LEFT_BYTES = 8 << 20
SERVING = health_pb2.HealthCheckResponse.SERVING


@pytest.fixture
def disk(tmp_path) -> Iterator[Path]:
    mounted = tmp_path / "disk"
    mounted.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tmpfs", os.fspath(mounted)]
    if os.geteuid() != 0 or subprocess.run(command, capture_output=True, check=False).returncode != 0:
        pytest.skip("mounting needs root")
    yield mounted
    subprocess.run(["umount", os.fspath(mounted)], check=True)


def readyz(running: Running) -> int:
    try:
        running.page("/readyz")
    except urllib.error.HTTPError as refused:
        return refused.code
    return 200


def test_the_page_and_the_health_service_agree_about_a_full_disk(made_site, disk):
    site = copy_site(made_site, disk / "site")
    with serving(site) as running, calling(site, running.facts["data"], site.bearer("plenty")) as caller:

        def answers() -> tuple[int, bool, str]:
            reply = caller.ask("/grpc.health.v1.Health/Check")
            able = reply.code is grpc.StatusCode.OK and (
                health_pb2.HealthCheckResponse.FromString(reply.body).status == SERVING
            )
            return readyz(running), able, caller.infer(infer_body()).reason

        until(lambda: answers() == (200, True, "OK"), "it never was ready")
        free = os.statvfs(disk).f_bavail * os.statvfs(disk).f_frsize
        with (disk / "ballast").open("wb") as ballast:
            os.posix_fallocate(ballast.fileno(), 0, free - LEFT_BYTES)
        until(lambda: answers() == (503, False, "AUDIT_UNAVAILABLE"), "nobody noticed the full disk")
        (disk / "ballast").unlink()
        until(lambda: answers() == (200, True, "OK"), "it did not come back")
