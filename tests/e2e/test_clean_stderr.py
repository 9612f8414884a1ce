"""The log of a host is JSON lines and nothing else: strangers and dying children add no lines of gRPC's own."""

from __future__ import annotations

import json
import socket

import grpc

from tests.e2e.caller import calling, infer_body
from tests.e2e.running import serving, until
from tests.e2e.site import copy_site


def hang_up_on(address: str) -> None:
    """Begin a handshake that cannot succeed."""
    host, _, port = address.rpartition(":")
    with socket.create_connection((host, int(port)), timeout=20) as stranger:
        stranger.sendall(b"GET / HTTP/1.1\r\n\r\n")
        while stranger.recv(4096):
            pass


def test_every_line_is_json(made_site, tmp_path):
    site = copy_site(made_site, tmp_path / "site")
    with serving(site) as running:
        for name in ("data", "data_mtls", "admin"):
            hang_up_on(running.facts[name])
        for child in ("worker-0", "recorder"):
            dead = running.kill(child)
            until(lambda: running.pid_of(child) != dead, f"{child} was not started again")  # noqa: B023  called at once
        with calling(site, running.facts["data"], site.bearer("kiosk-7")) as caller:
            until(lambda: caller.infer(infer_body()).code is grpc.StatusCode.OK, "nobody answers")
    for line in running.errors.read_text().splitlines():
        assert isinstance(json.loads(line), dict)
