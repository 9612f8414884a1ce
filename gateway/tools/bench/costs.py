"""What parts of a gateway cost by themselves, without gRPC and load: stages, principals, shared limits.

- `measure_stages`: the pipeline driven in this process, on a thread's own clock. The real parts: policy, bundle,
  limits, ring, metrics, and the recorder of a gateway that runs beside. A turn admits and answers as many requests as a
  batch shall hold. Stages are read from the records, only that their clock counts the CPU time of this thread: waiting
  costs nothing on it. What is left after the named stages (`rest`) is the leaf, append, acknowledgement, futures and
  metrics; gRPC's own part is what a worker spends beyond all this (units.py).
- `measure_principals`: memory and loading time of a policy with many principals who do not call, each with an API key.
- `measure_ledger`: CPU time of a Redis of our own for the shared limits of a request, which takes from four buckets:
  requests and cost, of a principal and of its tenant.
"""

from __future__ import annotations

import asyncio
import gc
import io
import os
import subprocess
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from gateway.admission.budget import compile_budget
from gateway.admission.limiter import Limits
from gateway.admission.memory import MemoryLimiter
from gateway.auth.principal import Presented
from gateway.config.load import load_config
from gateway.edge.methods import data_methods
from gateway.host.app import App, open_app
from gateway.models.compile import compile_policy
from gateway.models.models import load_bundles, serve
from gateway.policy.load import POLICY_BYTES_MAX, parse_policy
from gateway.request.completion import finish, open_record
from gateway.request.pipeline import admit, answer
from gateway.request.record import trailers
from gateway.tools.bench.load import METHOD
from gateway.tools.bench.machine import process_cpu_us
from gateway.tools.bench.runner import medians
from ops.process.logging import configure

RIGHT = "ModelInfer"
STAGES = ("auth", "admit", "decode", "infer", "screen", "harden")
BATCH_STAGES = frozenset({"infer", "screen", "harden"})
"""Stages that a record holds for its whole batch."""
HALF_US = 0.5
"""Records hold whole microseconds, cut off: half of one is missing on average."""
PROCESS = "bench-units"
PRINCIPALS_PER_TENANT = 10
SECONDS_MAX = 300
LEDGER_PRINCIPALS = 10_000
REDIS_START_S = 10.0
POLL_S = 0.05
UNMET = Limits(
    request_interval_ns=1000, request_burst=10_000_000, cost_interval_ns=1000, cost_burst=10_000_000, in_flight_max=8
)


async def measure_stages(
    home: Path, body: bytes, key: str, sizes: Sequence[int], *, requests: int, rounds: int
) -> dict[str, dict[str, float]]:
    """CPU microseconds a request by stage, with `rest` and `total`, for each batch size: medians over rounds.

    `home` is the directory of a gateway that runs: its recorder takes the records.
    """
    config = load_config(home / "stockade.yaml")
    presented = Presented(authorization=f"Bearer {key}")
    log = configure("error", io.StringIO(), format="json")
    app = await open_app(
        config,
        home / "policy.yaml",
        process=PROCESS,
        log=log,
        methods=data_methods(reflection=False),
        bundles=load_bundles(config, log).values(),
    )
    try:
        app.gw.clock_ns = time.thread_time_ns
        found: dict[str, list[dict[str, float]]] = {str(size): [] for size in sizes}
        for _ in range(rounds):
            for size in sizes:
                await _turns(app, body, presented, size, max(1, requests // size // 10))  # warm
                found[str(size)].append(await _turns(app, body, presented, size, max(1, requests // size)))
    finally:
        await app.close()
    return {size: medians(each) for size, each in found.items()}


async def _turns(app: App, body: bytes, presented: Presented, size: int, count: int) -> dict[str, float]:
    """One measurement: `count` batches of `size` requests."""
    spent: Counter[str] = Counter()
    began_ns = time.thread_time_ns()
    for _ in range(count):
        spent.update(await _turn(app, body, presented, size))
    app.gw.tally.flush()
    return per_request_us(spent, size, count, time.thread_time_ns() - began_ns)


async def _turn(app: App, body: bytes, presented: Presented, size: int) -> Mapping[str, int]:
    """Admit and answer one batch; returns the stages of all its records, added up, in microseconds."""
    gw, active = app.gw, app.gw.active
    records = []
    for _ in range(size):
        record = open_record(METHOD, RIGHT, gw)
        admit(record, presented, active, gw)
        records.append(record)
    answers = await asyncio.gather(*(answer(record, body, active, gw) for record in records))
    spent: Counter[str] = Counter()
    for record, given in zip(records, answers, strict=True):
        trailers(record, given.verdict)
        finish(record, gw)
        spent.update({stage: record.timings_us[stage] for stage in STAGES})
    return spent


def per_request_us(spent_us: Mapping[str, int], size: int, count: int, thread_ns: int) -> dict[str, float]:
    """Microseconds a request by stage. `spent_us` are the sums of all records of `count` batches of `size`."""
    requests = size * count
    stages = {
        stage: (spent_us[stage] / requests + HALF_US) / (size if stage in BATCH_STAGES else 1) for stage in STAGES
    }
    total = thread_ns / 1000 / requests
    return {**stages, "rest": total - sum(stages.values()), "total": total}


def measure_principals(home: Path, principals: int) -> dict[str, Any]:
    """One size, in a process of its own, since Python seldom gives memory back."""
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        return pool.submit(_principals, home, principals).result(SECONDS_MAX)


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


def _principals(home: Path, principals: int) -> dict[str, Any]:
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
    compiled_s, compiled_bytes = time.process_time(), _resident()  # a worker keeps both: the file and its tables
    limiter, now_ns = MemoryLimiter(), time.monotonic_ns()
    for budget in active.budgets.values():
        limiter.spend([*budget.request_charges, *budget.cost_charges(1, 1)], now_ns)
    return {
        "principals": principals,
        "file_bytes": len(data),
        "fits": len(data) <= POLICY_BYTES_MAX,
        "parse_cpu_s": parsed_s - began_s,
        "compile_cpu_s": compiled_s - parsed_s,
        "policy_bytes_a_principal": (compiled_bytes - began_bytes) / principals,
        "limiter_bytes_a_principal": (_resident() - compiled_bytes) / principals,
        "buckets": limiter.buckets,
    }


def measure_ledger(directory: Path, sizes: Sequence[int], *, requests: int) -> dict[str, dict[str, float]]:
    """Server CPU microseconds a request and exchanges a second of one gateway, by requests in an exchange."""
    socket = directory / "redis.sock"
    options = ("--port", "0", "--unixsocket", str(socket), "--save", "", "--appendonly", "no", "--dir", str(directory))
    server = subprocess.Popen(["redis-server", *options], stdout=subprocess.DEVNULL)  # noqa: S607  from PATH, as whoever measures has it
    try:
        give_up = time.monotonic() + REDIS_START_S
        while not socket.exists() and server.poll() is None and time.monotonic() < give_up:
            time.sleep(POLL_S)
        return {str(size): asyncio.run(_exchanges(socket, server.pid, size, requests)) for size in sizes}
    finally:
        server.terminate()
        server.wait()


async def _exchanges(socket: Path, pid: int, size: int, requests: int) -> dict[str, float]:
    from gateway.admission.redis import RedisLedger, connections, script_text  # noqa: PLC0415  redis-py is an extra

    connect = connections(f"unix:{socket}", username=None, password=None, ca=None, certificate=None, key=None)
    ledger = RedisLedger(connect, namespace="bench", secret=bytes(32), timeout_s=5.0, script=script_text())
    budgets = [
        compile_budget(f"p{number}", f"t{number // PRINCIPALS_PER_TENANT}", 1, UNMET, UNMET)
        for number in range(LEDGER_PRINCIPALS)
    ]
    spends = [(*budget.request_charges, *budget.cost_charges(1, 1)) for budget in budgets]
    await ledger.connect()
    try:
        exchanges = requests // size
        for warm in (True, False):
            before_us, began_s = process_cpu_us(pid), time.monotonic()
            for turn in range(exchanges // 10 if warm else exchanges):
                first = turn * size % (LEDGER_PRINCIPALS - size)
                await ledger.exchange(spends[first : first + size])
        took_s, spent_us = time.monotonic() - began_s, process_cpu_us(pid) - before_us
    finally:
        await ledger.close()
    return {"server_us": spent_us / (exchanges * size), "exchanges_per_s": exchanges / took_s}
