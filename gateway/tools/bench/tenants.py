"""What a caller costs who does not call: memory and time of a policy with many principals.

`python -m gateway.tools.bench.tenants HOME PRINCIPALS` measures one size and prints JSON, in its own process, since
Python seldom gives memory back. Each principal has an API key; PRINCIPALS_PER_TENANT share a tenant.
"""

from __future__ import annotations

import gc
import io
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from gateway.admission.memory import MemoryLimiter
from gateway.config.load import load_config
from gateway.models.compile import compile_policy
from gateway.models.models import load_bundles, serve
from gateway.policy.load import POLICY_BYTES_MAX, parse_policy
from ops.process.logging import configure

PRINCIPALS_PER_TENANT = 10
SECONDS_MAX = 300


def measure_principals(home: Path, principals: int) -> dict[str, float]:
    """One size, in a process of its own."""
    command = [sys.executable, "-m", "gateway.tools.bench.tenants", str(home), str(principals)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, timeout=SECONDS_MAX)
    found: dict[str, float] = json.loads(done.stdout)
    return found


def policy_text(principals: int) -> Iterator[str]:
    """Lines of a policy with so many principals, written as tightly as its form allows."""
    yield "version: 1\nrevision: 1\nclasses: {c: {lane: 1}}"
    yield "limits: {l: {requests: 100/s, request_burst: 200, cost: 100/s, cost_burst: 200, in_flight: 8}}"
    yield 'roles: {r: [{methods: [ModelInfer], models: [kiosk], versions: ["*"]}]}'
    yield "tenants:"
    tenants = -(-principals // PRINCIPALS_PER_TENANT)
    yield from (f" t{number}: {{limits: l, class: c}}" for number in range(tenants))
    yield "principals:"
    for number in range(principals):
        key = f"{{id: k{number}, hmac: {number:064x}, expires: 2099-01-01}}"
        yield f" p{number}: {{tenant: t{number % tenants}, roles: [r], limits: l, api_keys: [{key}]}}"
    yield 'models: {kiosk: {serve: "1"}}'


def _resident() -> int:
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def _measure(home: Path, principals: int) -> dict[str, Any]:
    config = load_config(home / "stockade.yaml")
    log = configure("error", io.StringIO(), format="json")
    served = {
        (bundle.name, bundle.version): serve(bundle, config, log) for bundle in load_bundles(config, log).values()
    }
    data = "\n".join(policy_text(principals)).encode()
    began_bytes, began_s = _resident(), time.process_time()
    policy = parse_policy(data, home / "policy.yaml")
    parsed_s = time.process_time()
    active = compile_policy(policy, served, bytes(32), (), time.time_ns())
    compiled_s, kept_bytes = time.process_time(), _resident()  # a worker keeps both: the file and its tables
    limiter, now_ns = MemoryLimiter(), time.monotonic_ns()
    for budget in active.budgets.values():
        limiter.spend([*budget.request_charges, *budget.cost_charges(1, 1)], now_ns)
    return {
        "principals": principals,
        "file_bytes": len(data),
        "fits": len(data) <= POLICY_BYTES_MAX,
        "parse_cpu_s": parsed_s - began_s,
        "compile_cpu_s": compiled_s - parsed_s,
        "policy_bytes_a_principal": (kept_bytes - began_bytes) / principals,
        "limiter_bytes_a_principal": (_resident() - kept_bytes) / principals,
        "buckets": limiter.buckets,
    }


if __name__ == "__main__":
    json.dump(_measure(Path(sys.argv[1]), int(sys.argv[2])), sys.stdout)
