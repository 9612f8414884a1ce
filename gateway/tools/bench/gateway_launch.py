"""How the benchmark starts our own gateway: `stockade init`, two edits, `stockade serve`.

The edits: free ports and TLS on or off in stockade.yaml; limits that the load cannot meet in policy.yaml, which is
signed again. Everything else is what `stockade init` gives to anybody: screens that enforce, hardening, audit, no
payload capture.
"""

from __future__ import annotations

import http.client
import os
import re
import shutil
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml

from gateway.tools.bench.running import Endpoint, Launch, free_ports
from gateway.tools.init.init import Ports, init_directory
from gateway.tools.rewrite import UNMET_LIMITS, rewrite_policy

CLIENT = "kiosk-7"
METRICS_TIMEOUT_S = 5.0
POLL_S = 0.05
_HANDLED = re.compile(
    r'^grpc_server_handled_total\{(?=[^}]*grpc_method="ModelInfer")[^}]*grpc_code="(\w+)"[^}]*\} (\S+)'
)


def launch_gateway(
    directory: Path,
    bundles: Path,
    *,
    tls: bool,
    protected: bool,
    change: Callable[[dict[str, Any]], None] = lambda _: None,
    version: str | None = None,
) -> Launch:
    """Make a gateway's directory inside `directory` and say how to start it.

    `change` edits its policy. `version` of the kiosk's model is the only one served; None: the one that `init` takes.
    """
    data, metrics, admin, data_mtls = free_ports(4)
    home = directory / "gateway"
    ports = Ports(data=data, metrics=metrics, admin=admin, data_mtls=data_mtls)
    init_directory(home, now=datetime.now(UTC), random_bytes=os.urandom, ports=ports, bundles=bundles)
    _edit_config(home / "stockade.yaml", tls=tls, protected=protected)
    _edit_policy(home, change)
    if version is not None:
        _serve_only(home, bundles / "kiosk" / version)
    key = (home / "clients" / f"{CLIENT}.key").read_text().strip()
    return Launch(
        command=[sys.executable, "-m", "gateway", "serve", str(home / "stockade.yaml")],
        endpoint=Endpoint(
            port=data,
            headers=(("authorization", f"Bearer {key}"),),
            authority=(home / "tls" / "ca.crt").read_bytes() if tls else None,
            answered=lambda: read_handled(metrics),
        ),
        directory=directory,
    )


def _serve_only(home: Path, bundle: Path) -> None:
    shutil.rmtree(home / "bundles" / "kiosk")
    shutil.copytree(bundle, home / "bundles" / "kiosk" / bundle.name)


def _edit_config(path: Path, *, tls: bool, protected: bool) -> None:
    config: dict[str, Any] = yaml.safe_load(path.read_text())
    if not tls:
        # Without TLS nobody can be asked for a certificate: the ports that live by one go too.
        del config["tls"]
        config["unsafe_plaintext"] = True
        config["listen"] |= {"data_mtls": None, "admin": None}
    if not protected:
        config["unsafe_unprotected"] = True
    path.write_text(yaml.safe_dump(config, sort_keys=False))


def _edit_policy(home: Path, change: Callable[[dict[str, Any]], None]) -> None:
    def unlimited(policy: dict[str, Any]) -> None:
        policy["limits"]["default"] = dict(UNMET_LIMITS)
        change(policy)

    rewrite_policy(home, unlimited)


def read_handled(metrics_port: int) -> Mapping[str, int]:
    """ModelInfer calls by gRPC status, from the gateway's own metrics."""
    return parse_handled(read_metrics(metrics_port))


def read_metrics(metrics_port: int) -> str:
    """The gateway's page of metrics. It opens a moment after the data port."""
    give_up = time.monotonic() + METRICS_TIMEOUT_S
    while True:
        connection = http.client.HTTPConnection("127.0.0.1", metrics_port, timeout=METRICS_TIMEOUT_S)
        try:
            connection.request("GET", "/metrics")
            return connection.getresponse().read().decode()
        except ConnectionRefusedError:
            if time.monotonic() > give_up:
                raise
            time.sleep(POLL_S)
        finally:
            connection.close()


def parse_handled(text: str) -> Mapping[str, int]:
    """ModelInfer calls by gRPC status, from a page of metrics."""
    counts: Counter[str] = Counter()
    for line in text.splitlines():
        if match := _HANDLED.match(line):
            counts[match[1]] += int(float(match[2]))
    return counts
