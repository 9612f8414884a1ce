"""Gives a model its queue, and its batches a place: the event loop for fast models, else threads (`engine.threads`)."""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from gateway import errors
from gateway.models.served import Offload
from gateway.request.batch import answer_batch
from gateway.request.completion import give_back, log_failure
from serving.bundles.manifest import DATATYPES
from serving.queue.batcher import Batcher

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from concurrent.futures import Future

    from gateway.config.engine import Engine
    from gateway.models.served import Served
    from gateway.request.gateway import Gateway
    from gateway.request.item import Item

SLOW_BATCH_MS = 20.0
RUNS_TIMED = 3
OFFLOAD_MS = 0.15
"""A batch that takes its model longer than this runs it in a thread: some times what the two hand-overs cost."""
REMOTE_KINDS = frozenset({"oip", "ray"})
REMOTE_THREADS = 8
"""For engines that run models elsewhere: there a batch is mostly waiting, and the event loop must not wait with it."""


def start_batching(served: Served, engine: Engine, gw: Gateway) -> None:
    """Open the queue of one model, and warn when its batches would wait long for one another."""

    def failed(items: Sequence[Item], problem: BaseException) -> None:
        log_failure(gw.log, items[0].record.id, problem)
        give_back(items, errors.ModelError(), gw)

    def shed(item: Item) -> None:
        give_back([item], errors.QueueFull(), gw)

    loop = gw.loop
    threads = threads_of(engine)
    name = f"{served.bundle.name}-{served.bundle.version}"
    served.pool = pool = ThreadPoolExecutor(threads or 1, thread_name_prefix=name)

    def run(items: Sequence[Item]) -> None:
        if threads:
            pool.submit(answer_batch, items, gw).add_done_callback(partial(ended, items))
        else:
            answer_batch(items, gw)

    def ended(items: Sequence[Item], answering: Future[None]) -> None:
        if answering.exception() is None:
            loop.call_soon_threadsafe(batcher.freed)
        else:
            resume(items, answering.result)

    def resume(items: Sequence[Item], step: Callable[[], object]) -> None:
        loop.call_soon_threadsafe(batcher.resume, items, step)

    served.batcher = batcher = Batcher(
        run,
        on_error=failed,
        shed=shed,
        soon=loop.call_soon,
        expected=lambda: gw.concurrency.in_flight,
        batch_rows_max=engine.batch_rows_max,
        queue_rows_max=engine.queue_rows_max,
        queue_bytes_max=engine.queue_bytes_max,
        clock_ns=gw.clock_ns,
        at_once=threads or 1,
    )
    if not threads:
        took_ms = time_full_batch(served, engine.batch_rows_max, gw)
        served.offload = Offload(offloaded_rows(engine.batch_rows_max, took_ms), resume)
        warn_if_slow(served, took_ms, gw)


def offloaded_rows(batch_rows_max: int, took_ms: float) -> int:
    """Return from how many rows on a batch runs its model in a thread, where a full one takes `took_ms`."""
    return math.ceil(batch_rows_max * OFFLOAD_MS / max(took_ms, OFFLOAD_MS))


def warn_if_slow(served: Served, took_ms: float, gw: Gateway) -> None:
    """Say where full batches would wait long for one another."""
    if took_ms > SLOW_BATCH_MS:
        problem = (
            "a full batch takes this long, and the next one waits for it: set engine.threads to run several at once"
        )
        gw.log("slow-batches", level="warning", model=served.bundle.name, duration_ms=took_ms, problem=problem)


def threads_of(engine: Engine) -> int:
    """Return how many threads run batches of one model; 0: they run on the event loop."""
    return engine.threads or (REMOTE_THREADS if engine.kind in REMOTE_KINDS else 0)


def time_full_batch(served: Served, rows: int, gw: Gateway) -> float:
    """Return how many milliseconds the model takes for a full batch of zeros, at its best, as others start too."""
    zeros: dict[str, Any] = {
        spec.name: np.zeros((rows, *(max(size, 1) for size in spec.shape[1:])), DATATYPES[spec.datatype])
        for spec in served.bundle.inputs
    }
    took_ns = []
    for _ in range(RUNS_TIMED):
        began_ns = gw.clock_ns()
        served.engine.infer(zeros)
        took_ns.append(gw.clock_ns() - began_ns)
    return min(took_ns) / 1e6
