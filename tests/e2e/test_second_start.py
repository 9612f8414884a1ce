"""A second `stockade serve` on one directory ends at once and takes nothing from the first."""

from __future__ import annotations

import subprocess
import sys

import grpc
import pytest

from tests.e2e.caller import calling, infer_body
from tests.e2e.running import serving, until, verified
from tests.e2e.site import copy_site


@pytest.fixture(scope="module")
def first(made_site, tmp_path_factory):
    """The gateway from which nothing is taken: its site, itself, and a caller; its log verifies at the end."""
    site = copy_site(made_site, tmp_path_factory.mktemp("first") / "site")
    with serving(site) as running, calling(site, running.facts["data"], site.bearer("plenty")) as caller:
        yield site, running, caller
    assert verified(site).exit_code == 0


def second_on(site) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "gateway", "serve", str(site.config)]
    second = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (second.returncode, second.stdout) == (2, "")
    return second


def test_it_says_which_directory_is_taken_and_leaves_the_first_alone(first):
    site, running, caller = first
    assert caller.infer(infer_body()).code is grpc.StatusCode.OK
    until(lambda: running.counted("stockade_requests_total", outcome="served") == 1, "it was not counted")
    second = second_on(site)
    assert len(second.stderr.splitlines()) == 1
    assert f"a gateway is running on {site.directory / 'state'} already" in second.stderr
    assert running.counted("stockade_requests_total", outcome="served") == 1
    assert caller.infer(infer_body()).code is grpc.StatusCode.OK


@pytest.mark.parametrize("port", ["data", "data_mtls", "admin", "metrics"])
def test_another_gateway_on_a_port_of_the_first_does_not_start(first, made_site, tmp_path, port):
    """Workers share their port, so without looking it would take some of the first one's connections."""
    _, running, caller = first
    other = copy_site(made_site, tmp_path / "other")
    other.change_config(lambda document: document["listen"].update({port: running.facts[port]}))
    assert f"cannot listen on {running.facts[port]}: Address already in use" in second_on(other).stderr
    assert not (other.directory / "log/checkpoint").exists()
    assert caller.infer(infer_body()).code is grpc.StatusCode.OK
