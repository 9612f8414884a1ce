"""The policy's key is replaced while the gateway runs: nobody is cut off, and whoever dies comes back."""

from __future__ import annotations

import os
from datetime import UTC, datetime

import grpc
import pytest

from gateway.policy.signature import sign_policy
from gateway.tools.init.init import init_directory
from stockade.v1 import admin_pb2
from tests.e2e.caller import calling, infer_body
from tests.e2e.running import serving, until
from tests.e2e.site import copy_site


@pytest.mark.parametrize("how", ["reload", "no reload"])
def test_a_worker_comes_back_after_a_new_key_signed_the_same_policy(made_site, tmp_path, how):
    site = copy_site(made_site, tmp_path / "site")
    init_directory(tmp_path / "other", now=datetime.now(UTC), random_bytes=os.urandom)
    with serving(site) as running:
        until(running.entries, "no checkpoint")
        (site.directory / "keys/policy.pub").write_bytes((tmp_path / "other/keys/policy.pub").read_bytes())
        sign_policy(site.policy, tmp_path / "other/keys/policy.key")
        if how == "reload":
            certificate = (site.read("clients/operator.tls.crt"), site.read("clients/operator.tls.key"))
            with calling(site, running.facts["admin"], certificate=certificate) as admin:
                reply = admin.ask("/stockade.v1.Admin/ReloadPolicy")
                assert admin_pb2.ReloadPolicyResponse.FromString(reply.body).accepted
        dead = running.kill("worker-0")
        until(lambda: running.pid_of("worker-0") != dead, "the worker was not started again")
        with calling(site, running.facts["data"], site.bearer("kiosk-7")) as caller:
            until(lambda: caller.infer(infer_body()).code is grpc.StatusCode.OK, "the new worker does not answer")
        assert [event["event"] for event in running.events()].count("worker-not-started") == 0
