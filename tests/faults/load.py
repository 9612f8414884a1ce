"""Steady load from a real client, with receipts told to the oracle."""

import asyncio
from collections.abc import Callable

from ops.audit.errors import AuditUnavailable
from ops.audit.store.client import AuditClient, Receipt
from tests.faults.oracle import Oracle
from tests.ops.audit.samples import captured, small


class Load:
    """Keeps a number of appends in flight; each has a number of its own among all the oracle's, some have payloads."""

    def __init__(self, client: AuditClient, oracle: Oracle, in_flight: int = 16) -> None:
        self._client = client
        self._oracle = oracle
        self._in_flight = in_flight
        self._running = True
        self._open = 0
        self.acknowledged = 0
        self.failed: list[AuditUnavailable] = []
        self.progress = asyncio.Event()

    def start(self) -> None:
        for _ in range(self._in_flight):
            self._next()

    def _next(self) -> None:
        self._oracle.sent += 1
        number = self._oracle.sent
        if number % 10:
            entries, blobs = [small(number * 8 + n) for n in range(number % 7 + 1)], []
        else:
            blobs = [b"sealed %d" % number * 50]
            entries = [captured(number * 8, *blobs)]
        self._open += 1
        self._client.append(entries, self._finished(entries), blobs=blobs)

    def _finished(self, entries: list[bytes]) -> Callable[[Receipt | AuditUnavailable], None]:
        def done(result: Receipt | AuditUnavailable) -> None:
            self._open -= 1
            if isinstance(result, Receipt):
                self._oracle.saw(result, entries)
                self.acknowledged += 1
                self.progress.set()
                if self._running:
                    self._next()
            else:
                self.failed.append(result)
                if self._running:  # not at once: the recorder is away
                    asyncio.get_running_loop().call_later(0.01, self._again)

        return done

    def _again(self) -> None:
        if self._running:
            self._next()

    async def wait_for(self, more: int) -> None:
        """Until so many more appends were acknowledged."""
        goal = self.acknowledged + more
        async with asyncio.timeout(60):
            while self.acknowledged < goal:
                self.progress.clear()
                await self.progress.wait()

    def stop(self) -> None:
        self._running = False
