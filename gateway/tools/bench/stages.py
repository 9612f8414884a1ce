"""Where the CPU time of a request goes: the pipeline driven in this process, without gRPC, on a thread's own clock.

The real parts: policy, bundle, limits, ring, metrics, and the recorder of a gateway that runs beside. A turn admits and
answers as many requests as a batch shall hold. Stages are read from the records, as everywhere; only that their clock
counts the CPU time of this thread, so other work on the machine does not show. Waiting costs nothing on that clock.

What is left after the named stages (`rest`) is the leaf, the append, the acknowledgement, futures and metrics. gRPC's
own part is what a worker spends beyond all this (gateway/tools/bench/units.py).
"""

from __future__ import annotations

import asyncio
import io
import statistics
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from gateway.auth.principal import Presented
from gateway.config.load import load_config
from gateway.edge.methods import data_methods
from gateway.host.app import App, open_app
from gateway.models.models import load_bundles
from gateway.request.completion import finish, open_record
from gateway.request.pipeline import admit, answer
from gateway.request.record import trailers
from gateway.tools.bench.frame import METHOD
from ops.process.logging import configure

RIGHT = "ModelInfer"
STAGES = ("auth", "admit", "decode", "infer", "screen", "harden")
BATCH_STAGES = frozenset({"infer", "screen", "harden"})
"""Stages that a record holds for its whole batch."""
HALF_US = 0.5
"""Records hold whole microseconds, cut off: half of one is missing on average."""
PROCESS = "bench-units"


def measure_stages(
    home: Path, body: bytes, key: str, sizes: Sequence[int], *, requests: int, rounds: int
) -> dict[int, dict[str, float]]:
    """CPU microseconds a request by stage, with `rest` and `total`, for each batch size: medians over rounds.

    `home` is the directory of a gateway that runs: its recorder takes the records.
    """
    return asyncio.run(
        _measure(home, body, Presented(authorization=f"Bearer {key}"), sizes=sizes, requests=requests, rounds=rounds)
    )


async def _measure(
    home: Path, body: bytes, presented: Presented, *, sizes: Sequence[int], requests: int, rounds: int
) -> dict[int, dict[str, float]]:
    config = load_config(home / "stockade.yaml")
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
        found: dict[int, list[dict[str, float]]] = {size: [] for size in sizes}
        for _ in range(rounds):
            for size in sizes:
                await _turns(app, body, presented, size, max(1, requests // size // 10))  # warm
                found[size].append(await _turns(app, body, presented, size, max(1, requests // size)))
    finally:
        await app.close()
    return {size: _medians(each) for size, each in found.items()}


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
    shown = {stage: (spent_us[stage] / requests + HALF_US) / (size if stage in BATCH_STAGES else 1) for stage in STAGES}
    total = thread_ns / 1000 / requests
    return {**shown, "rest": total - sum(shown.values()), "total": total}


def _medians(rounds: Sequence[Mapping[str, float]]) -> dict[str, float]:
    return {stage: statistics.median(each[stage] for each in rounds) for stage in rounds[0]}
