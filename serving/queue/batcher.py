"""Natural micro-batching on the event loop: a batch is what arrived while those before it were under way.

There is no thread that waits for items, so the interpreter is not handed over for each of them: on two cores those
hand-overs cost more than a fast model itself. What `run` does on the loop holds up everything else; it may leave the
slow part of a batch, or all of it, to a thread, and go on in `resume`.

No timer, no window. With room for a batch, one starts at the end of the turn of the loop that brought an item, unless
more items are on their way (`expected`) and keep coming in: then it lets the loop take them in first, for at most
TURNS_MAX turns. An item that is alone waits for one turn.

Every accepted item ends in exactly one call: in a batch given to `run`, or given to `shed`. Order, fairness, bounds and
shedding are `serving.queue.fair_queue`'s. Everything here is called on the event loop.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import Generic, NamedTuple, TypeVar

from serving.errors import BatcherClosed, QueueFull
from serving.queue.fair_queue import FairQueue

T = TypeVar("T")

QUIET_TURNS = 3  # turns that brought nothing, after which nothing more is waited for
TURNS_MAX = 64
RETRY_MS_UNKNOWN = 100  # the hint before the first batch has been timed
RETRY_MS_MAX = 10_000
_WEIGHT = 0.125  # of the newest batch in the moving average


class Begun(NamedTuple):
    """A batch that is running or being recorded."""

    rows: int
    began_ns: int


class Pace:
    """How fast rows are served: a moving average of the time per row. Batches side by side each count as if alone."""

    def __init__(self) -> None:
        self._ns_per_row = 0.0

    def observe(self, batch_ns: int, rows: int) -> None:
        """Take in one finished batch."""
        per_row = batch_ns / rows
        self._ns_per_row += (per_row - self._ns_per_row) * (_WEIGHT if self._ns_per_row else 1.0)

    def retry_after_ms(self, rows: int, *, threads: int = 1) -> int:
        """Return when `rows` waiting rows will have been served, in whole milliseconds from 1 up."""
        if not self._ns_per_row:
            return RETRY_MS_UNKNOWN
        return min(RETRY_MS_MAX, max(1, int(rows * self._ns_per_row / threads / 1e6)))


class Batcher(Generic[T]):
    """A bounded, fair queue before `run`, with `at_once` batches under way at most.

    `run` starts a batch and may return before it is done; `freed` says that one is done. If `run` raises, `on_error`
    gets the batch and it counts as done. `soon` schedules a call for the end of this turn of the loop. `expected` says
    how many items there could be, those under way included. ValueError for limits below one.
    """

    def __init__(
        self,
        run: Callable[[Sequence[T]], None],
        *,
        on_error: Callable[[Sequence[T], BaseException], None],
        shed: Callable[[T], None],
        soon: Callable[[Callable[[], None]], object],
        expected: Callable[[], int],
        batch_rows_max: int,
        queue_rows_max: int,
        queue_bytes_max: int,
        clock_ns: Callable[[], int],
        at_once: int = 1,
    ) -> None:
        if at_once < 1 or batch_rows_max < 1:
            raise ValueError(f"nothing would run: {at_once=}, {batch_rows_max=}")
        self._run = run
        self._on_error = on_error
        self._shed = shed
        self._soon = soon
        self._expected = expected
        self._batch_rows_max = batch_rows_max
        self._clock_ns = clock_ns
        self._queue: FairQueue[T] = FairQueue(rows_max=queue_rows_max, bytes_max=queue_bytes_max)
        self._pace = Pace()
        self._at_once = at_once
        self._begun: deque[Begun] = deque()
        self._gathering = False
        self._closed = False
        self._turns = self._quiet_turns = self._rows_seen = 0

    @property
    def queued_rows(self) -> int:
        return self._queue.rows

    @property
    def queued_bytes(self) -> int:
        return self._queue.nbytes

    @property
    def rows_ahead(self) -> int:
        """Rows that an item which comes now waits for: those queued, shared out over the batches under way at once."""
        return self._queue.rows // self._at_once

    def submit(self, item: T, *, rows: int, nbytes: int, lane: int, flow: str) -> None:
        """Queue an item of `rows` rows for `flow` (a tenant) in `lane` (0 goes first).

        QueueFull: no room, nothing changed. BatcherClosed: after close. ValueError: a lane outside 0..3, rows < 1.
        """
        if self._closed:
            raise BatcherClosed
        displaced = self._queue.push(item, rows=rows, nbytes=nbytes, lane=lane, flow=flow)
        if displaced is None:
            raise QueueFull(self._pace.retry_after_ms(self._queue.rows, threads=self._at_once))
        self._gather()
        for victim in displaced:
            self._shed(victim)

    def freed(self) -> None:
        """Take note that a batch is done. The next one starts behind what its replies have scheduled."""
        done = self._begun.popleft()  # or another that is under way: of a pace it tells as much
        self._pace.observe(self._clock_ns() - done.began_ns, done.rows)
        self._gather()

    def resume(self, batch: Sequence[T], step: Callable[[], object]) -> None:
        """Go on with a batch that `run` has started. What `step` raises counts as raised by `run`."""
        try:
            step()
        except BaseException as error:  # noqa: BLE001  a model may raise anything, and others wait for the loop
            try:
                self._on_error(batch, error)
            finally:
                self.freed()

    def close(self, *, drain: bool) -> None:
        """Take nothing more; start everything that waits, or shed it."""
        self._closed = True
        while self._queue.count:
            if drain:
                self._start()
            else:
                for item in self._queue.take(self._queue.rows):
                    self._shed(item)

    def _gather(self) -> None:
        """Let a batch gather, if something waits, there is room for a batch, and none gathers yet."""
        if self._gathering or not self._queue.count or len(self._begun) >= self._at_once:
            return
        self._gathering = True
        self._turns = self._quiet_turns = 0
        self._rows_seen = self._queue.rows
        self._soon(self._turn)

    def _turn(self) -> None:
        """One turn of the loop is over: start the batch, unless more items are on their way and still coming in."""
        rows = self._queue.rows
        self._turns += 1
        self._quiet_turns = 0 if rows > self._rows_seen else self._quiet_turns + 1
        self._rows_seen = rows
        under_way = sum(batch.rows for batch in self._begun)
        coming = 0 < rows < min(self._batch_rows_max, self._expected() - under_way)
        if coming and self._quiet_turns < QUIET_TURNS and self._turns < TURNS_MAX:
            self._soon(self._turn)
        else:
            self._gathering = False
            self._start()
            self._gather()

    def _start(self) -> None:
        rows = self._queue.rows
        batch = self._queue.take(self._batch_rows_max)
        if not batch:  # close, or shedding, was faster
            return
        self._begun.append(Begun(rows - self._queue.rows, self._clock_ns()))
        self.resume(batch, partial(self._run, batch))
