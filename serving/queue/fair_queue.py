"""Who goes next, and who gives way: the order of a batcher's queue. Pure: no locks, no threads, no clock.

**Order.** Lane 0 goes before lane 1 and so on. Inside a lane, flows (tenants) share the rows evenly by self-clocked
fair queueing (Golestani 1994): the lane's virtual time V counts rows, a flow's first waiting item carries the tag
F = V + rows, the smallest tag is served and V becomes it. With items of one row that is round robin; with items of
many rows the light flows are not made to wait for the heavy ones. Inside a flow items keep their order.
    - Two flows that both stay backlogged never differ by more than the sum of their largest items, in rows served.
    - V is at least the tag of anything already served, so a flow with nothing queued needs no memory, and has none.

**No starvation.** Every `GUARD_EVERY`-th batch is led by another lane than the first: lanes 3, 2, 1 take turns, the
next that waits goes. A lane that waits leads at least one of any 3 * GUARD_EVERY batches.

**Bounds.** Never more than `rows_max` rows and `bytes_max` bytes wait. An item that finds no room may displace others:
the newest item of the heaviest flow of the lowest waiting lane, again and again until there is room, but only from
lanes of its own or lower priority and only while its flow, the item included, is lighter than that flow (or, against a
lower lane, no heavier). Otherwise it is refused and nothing has changed. Weight is in rows: the items of one queue are
for one model, so bytes go with rows. A flood thus sheds itself first, and equals never displace each other.

Costs: O(log flows) an item in C (a heap), everything else O(1) amortised; state is O(items waiting).
"""

from __future__ import annotations

from collections import deque
from heapq import heapify, heappop, heappush
from typing import Generic, TypeAlias, TypeVar

T = TypeVar("T")
_Waiting: TypeAlias = tuple[T, int, int]  # item, rows, bytes; a bare tuple, as two are made or read for every request

LANES = 4
GUARD_EVERY = 8


class _Flow(Generic[T]):
    """The waiting items of one tenant in one lane. Gone once it is empty; a tenant that returns gets a new one."""

    __slots__ = ("items", "name", "rows")

    def __init__(self, name: str) -> None:
        self.name = name
        self.items: deque[_Waiting[T]] = deque()
        self.rows = 0


class _Lane(Generic[T]):
    """The flows of one priority: a heap with one (tag, ticket, flow) for each, and the same flows by weight.

    Tickets count up and settle equal tags: who came first goes first. Displacement can empty a flow whose entry sits
    deep in the heap; that entry is skipped when it surfaces, and once such outnumber the living the heap is rebuilt.
    """

    __slots__ = ("by_weight", "flows", "heap", "heaviest_rows", "tickets", "virtual_time")

    def __init__(self) -> None:
        self.flows: dict[str, _Flow[T]] = {}
        self.heap: list[tuple[int, int, _Flow[T]]] = []
        self.by_weight: dict[int, dict[str, _Flow[T]]] = {}
        self.heaviest_rows = 0  # no flow is heavier
        self.virtual_time = 0
        self.tickets = 0

    def append(self, name: str, waiting: _Waiting[T]) -> None:
        flow = self.flows.get(name)
        if flow is None:
            flow = self.flows[name] = _Flow(name)
            self._enter_heap(flow, waiting[1])
        flow.items.append(waiting)
        self._reweigh(flow, waiting[1])

    def first_rows(self) -> int:
        """Return the rows of the item that goes next, 0 if nothing waits."""
        heap = self.heap
        while heap:
            items = heap[0][2].items
            if items:
                return items[0][1]
            heappop(heap)
        return 0

    def pop_first(self) -> _Waiting[T]:
        """Serve the item that `first_rows` spoke of; only right after it."""
        self.virtual_time, _, flow = heappop(self.heap)
        waiting = flow.items.popleft()
        self._reweigh(flow, -waiting[1])
        if flow.items:
            self._enter_heap(flow, flow.items[0][1])
        else:
            del self.flows[flow.name]
        return waiting

    def heaviest(self) -> _Flow[T]:
        """Return the flow with most rows waiting, of equals the one that reached that weight first. Needs a flow."""
        while self.heaviest_rows not in self.by_weight:  # each step was paid for by a row that came in
            self.heaviest_rows -= 1
        return next(iter(self.by_weight[self.heaviest_rows].values()))

    def pop_newest(self, flow: _Flow[T]) -> _Waiting[T]:
        waiting = flow.items.pop()
        self._reweigh(flow, -waiting[1])
        if not flow.items:
            del self.flows[flow.name]
        return waiting

    def put_back(self, flow: _Flow[T], waiting: _Waiting[T]) -> None:
        """Undo a `pop_newest`; the flow's heap entry is still there."""
        flow.items.append(waiting)
        self.flows[flow.name] = flow
        self._reweigh(flow, waiting[1])

    def sweep(self) -> None:
        """Drop dead heap entries once they outnumber the live ones."""
        if len(self.heap) > 2 * len(self.flows):
            self.heap = [entry for entry in self.heap if entry[2].items]
            heapify(self.heap)

    def _enter_heap(self, flow: _Flow[T], rows: int) -> None:
        self.tickets += 1
        heappush(self.heap, (self.virtual_time + rows, self.tickets, flow))

    def _reweigh(self, flow: _Flow[T], change: int) -> None:
        by_weight = self.by_weight
        rows = flow.rows
        if rows:
            alike = by_weight[rows]
            del alike[flow.name]
            if not alike:
                del by_weight[rows]
        rows += change
        flow.rows = rows
        if rows:
            if rows in by_weight:
                by_weight[rows][flow.name] = flow
            else:
                by_weight[rows] = {flow.name: flow}
            if rows > self.heaviest_rows:  # noqa: PLR1730 - max() would be a call for every request
                self.heaviest_rows = rows


class FairQueue(Generic[T]):
    """A bounded queue of items for one model; see the module for its order and its bounds. Not thread-safe."""

    __slots__ = ("_batches", "_bytes_max", "_guard_lane", "_lanes", "_rows_max", "count", "nbytes", "rows")

    def __init__(self, *, rows_max: int, bytes_max: int) -> None:
        if rows_max < 1 or bytes_max < 1:
            raise ValueError(f"no room: {rows_max=}, {bytes_max=}")
        self._rows_max = rows_max
        self._bytes_max = bytes_max
        self._lanes: tuple[_Lane[T], ...] = tuple(_Lane() for _ in range(LANES))
        self._batches = 0
        self._guard_lane = LANES - 1
        self.count = 0
        self.rows = 0
        self.nbytes = 0

    def push(self, item: T, *, rows: int, nbytes: int, lane: int, flow: str) -> list[T] | None:
        """Queue an item; return the items that had to give way, newest first, or None if there is no room for it.

        ValueError for a lane outside 0..3, for rows < 1 and for nbytes < 0.
        """
        if not 0 <= lane < LANES or rows < 1 or nbytes < 0:
            raise ValueError(f"no such item: {lane=}, {rows=}, {nbytes=}")
        displaced: list[T] = []
        if self.rows + rows > self._rows_max or self.nbytes + nbytes > self._bytes_max:
            victims = self._make_room(rows, nbytes, lane, flow)
            if victims is None:
                return None
            displaced = victims
        self._lanes[lane].append(flow, (item, rows, nbytes))
        self.count += 1
        self.rows += rows
        self.nbytes += nbytes
        return displaced

    def take(self, rows_max: int) -> list[T]:
        """Take the next batch: at most `rows_max` rows, or one larger item alone; empty if nothing waits.

        The order is never bent to fill a batch up: the first item that does not fit ends it.
        """
        batch: list[T] = []
        room = rows_max
        for lane in self._order():
            while rows := lane.first_rows():
                if rows > room and batch:
                    return batch
                waiting = lane.pop_first()
                self._forget(waiting)
                batch.append(waiting[0])
                room -= rows
                if room <= 0:
                    return batch
        return batch

    def _order(self) -> tuple[_Lane[T], ...]:
        self._batches += 1
        lanes = self._lanes
        if self._batches % GUARD_EVERY:
            return lanes
        for _ in range(1, LANES):
            leader = lanes[self._guard_lane]
            self._guard_lane = self._guard_lane - 1 or LANES - 1
            if leader.flows:
                return (leader, *(lane for lane in lanes if lane is not leader))
        return lanes

    def _make_room(self, rows: int, nbytes: int, lane: int, name: str) -> list[T] | None:
        if rows > self._rows_max or nbytes > self._bytes_max:
            return None
        own = self._lanes[lane].flows.get(name)
        weight = rows + (own.rows if own else 0)
        taken: list[tuple[_Lane[T], _Flow[T], _Waiting[T]]] = []
        while self.rows + rows > self._rows_max or self.nbytes + nbytes > self._bytes_max:
            lowest = max(index for index in range(LANES) if self._lanes[index].flows)
            victim = self._lanes[lowest].heaviest()
            if lowest < lane or victim.rows < weight or (lowest == lane and victim.rows == weight):
                for source, flow, waiting in reversed(taken):
                    source.put_back(flow, waiting)
                    self._remember(waiting)
                return None
            waiting = self._lanes[lowest].pop_newest(victim)
            self._forget(waiting)
            taken.append((self._lanes[lowest], victim, waiting))
        for source in self._lanes:
            source.sweep()
        return [waiting[0] for _, _, waiting in taken]

    def _remember(self, waiting: _Waiting[T]) -> None:
        self.count += 1
        self.rows += waiting[1]
        self.nbytes += waiting[2]

    def _forget(self, waiting: _Waiting[T]) -> None:
        self.count -= 1
        self.rows -= waiting[1]
        self.nbytes -= waiting[2]
