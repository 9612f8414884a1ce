"""Natural micro-batching: a batch is what was waiting when a worker thread came free.

No timer, no window: at one request in flight a batch is one request and waits for nobody; under load batches grow by
themselves up to `batch_rows_max`. Order, fairness, bounds and shedding are `serving.fair_queue`'s; this is its shell of
a lock and threads.

Every accepted item ends in exactly one call: in a batch given to `run`, or given to `shed`. Then:
- `run(items)` is called in a worker thread, in several at once. If it raises, anything at all, `on_error(items, error)`
  is called there, and the thread goes on.
- `shed(item)` is called for an item that had to give way, in the thread whose submit displaced it, after that submit
  took effect and outside the lock; and for what was still waiting at a close without drain.
- Neither `on_error` nor `shed` may raise; if one does, it is logged and nothing else suffers.

Waking is lazy because hand-overs between threads cost more than anything else here: one thread is called at a time,
and it calls the next if it leaves something behind.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

from serving.errors import BatcherClosed, QueueFull
from serving.fair_queue import FairQueue
from serving.pace import Pace

T = TypeVar("T")

__all__ = ["Batcher"]

_log = logging.getLogger(__name__)


class Batcher(Generic[T]):
    """A bounded, fair queue before `threads` worker threads that call `run`. They start here; `close` ends them.

    `clock_ns` is monotonic and is read twice a batch, for the hint in QueueFull. ValueError for limits below one.
    """

    def __init__(
        self,
        run: Callable[[Sequence[T]], None],
        *,
        on_error: Callable[[Sequence[T], BaseException], None],
        shed: Callable[[T], None],
        threads: int,
        batch_rows_max: int,
        queue_rows_max: int,
        queue_bytes_max: int,
        clock_ns: Callable[[], int] = time.monotonic_ns,
        name: str = "batcher",
    ) -> None:
        if threads < 1 or batch_rows_max < 1:
            raise ValueError(f"nothing would run: {threads=}, {batch_rows_max=}")
        self._run = run
        self._on_error = on_error
        self._shed = shed
        self._batch_rows_max = batch_rows_max
        self._clock_ns = clock_ns
        self._queue: FairQueue[T] = FairQueue(rows_max=queue_rows_max, bytes_max=queue_bytes_max)
        # Guards the queue and everything below. Entered bare, as Condition's own way in is several times slower.
        self._lock = threading.Lock()
        self._wake = threading.Condition(self._lock)
        self._idle = 0
        self._called = False  # an idle thread was notified and has not looked yet
        self._closed = False
        self._pace = Pace()
        # Daemons: a process whose main thread died must not be held up by its queue.
        self._threads = [
            threading.Thread(target=self._work, name=f"{name}-{number}", daemon=True) for number in range(threads)
        ]
        for thread in self._threads:
            thread.start()

    @property
    def queued_rows(self) -> int:
        return self._queue.rows

    @property
    def queued_bytes(self) -> int:
        return self._queue.nbytes

    def submit(self, item: T, *, rows: int, nbytes: int, lane: int, flow: str) -> None:
        """Queue an item of `rows` rows for `flow` (a tenant) in `lane` (0 goes first). Thread-safe; waits for no work.

        QueueFull: no room, nothing changed. BatcherClosed: after close. ValueError: a lane outside 0..3, rows < 1.
        """
        with self._lock:
            if self._closed:
                raise BatcherClosed
            displaced = self._queue.push(item, rows=rows, nbytes=nbytes, lane=lane, flow=flow)
            if displaced is None:
                raise QueueFull(self._pace.retry_after_ms(self._queue.rows, threads=len(self._threads)))
            self._call_one()
        for victim in displaced:
            self._give_up(victim)

    def freed(self) -> None:
        """A thread is free when `run` returns, so there is nothing to say (`LoopBatcher.freed`)."""

    def close(self, *, drain: bool, timeout_s: float | None = None) -> bool:
        """Take nothing more; finish what was accepted, or (without drain) only what is running, and end the threads.

        Returns False if threads are still busy after `timeout_s`: they go on, and close may be called again, for
        instance without drain. Idempotent. Not to be called from `run`.
        """
        abandoned: list[T] = []
        with self._lock:
            self._closed = True
            while not drain and self._queue.count:
                abandoned += self._queue.take(self._queue.rows)
            self._wake.notify_all()
        for item in abandoned:
            self._give_up(item)
        ends_ns = None if timeout_s is None else self._clock_ns() + int(timeout_s * 1e9)
        for thread in self._threads:
            thread.join(None if ends_ns is None else max(0.0, (ends_ns - self._clock_ns()) / 1e9))
        return not any(thread.is_alive() for thread in self._threads)

    def _work(self) -> None:
        while True:
            with self._lock:
                while not self._queue.count:
                    if self._closed:
                        return
                    self._idle += 1
                    self._wake.wait()
                    self._idle -= 1
                    self._called = False
                before = self._queue.rows
                batch = self._queue.take(self._batch_rows_max)
                rows = before - self._queue.rows
                self._call_one()
            began_ns = self._clock_ns()
            self._run_batch(batch)
            del batch  # while this thread sleeps it must not keep the last requests alive
            self._pace.observe(self._clock_ns() - began_ns, rows)

    def _run_batch(self, batch: list[T]) -> None:
        try:
            self._run(batch)
        except BaseException as error:  # noqa: BLE001 - even SystemExit must not end the thread others wait for
            try:
                self._on_error(batch, error)
            except BaseException:  # noqa: BLE001 - nor may its last resort
                _log.exception("on_error raised")

    def _give_up(self, item: T) -> None:
        try:
            self._shed(item)
        except Exception:  # noqa: BLE001 - the caller's own item was taken; this is not its failure
            _log.exception("shed raised")

    def _call_one(self) -> None:
        """Wake a thread if there is work, one that sleeps, and none on its way. Under the lock."""
        if self._idle and not self._called and self._queue.count:
            self._called = True
            self._wake.notify()
