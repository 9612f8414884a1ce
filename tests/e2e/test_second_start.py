"""A second `stockade serve` on one directory ends at once and takes nothing from the first."""

from __future__ import annotations

import subprocess
import sys

import grpc

from tests.e2e.caller import calling, infer_body
from tests.e2e.running import serving, until
from tests.e2e.site import copy_site


def test_it_says_which_directory_is_taken_and_leaves_the_first_alone(made_site, tmp_path):
    site = copy_site(made_site, tmp_path / "site")
    with serving(site) as running, calling(site, running.facts["data"], site.bearer("kiosk-7")) as caller:
        assert caller.infer(infer_body()).code is grpc.StatusCode.OK
        until(lambda: running.counted("stockade_requests_total", outcome="served") == 1, "it was not counted")
        command = [sys.executable, "-m", "gateway.cli", "serve", str(site.config)]
        second = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        assert (second.returncode, second.stdout) == (2, "")
        assert len(second.stderr.splitlines()) == 1
        assert f"a gateway is running on {site.directory / 'state'} already" in second.stderr
        assert running.counted("stockade_requests_total", outcome="served") == 1
        assert caller.infer(infer_body()).code is grpc.StatusCode.OK
