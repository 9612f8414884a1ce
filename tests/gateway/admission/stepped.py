"""Shared limits for tests that hand the time in: the real limiter and script on a real Redis whose clock is a key."""

from __future__ import annotations

import asyncio
import atexit
import os
import random
import sys
from functools import cache
from typing import TYPE_CHECKING, Any

from gateway.admission.memory import MemoryLimiter
from gateway.admission.redis import RedisLedger, connections, script_text
from gateway.admission.shared import SharedLimiter
from ops.process.logging import Log, configure
from tests.redis_server import common_server

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from gateway.admission.limiter import Bucket, Decision

PATIENCE_S = 20.0  # the test machine may be busy
SECRET = bytes(range(32))


def quiet() -> Log:
    return configure("error", sys.stderr, format="json")


def ledger_at(url: str, *, timeout_s: float = PATIENCE_S, script: str | None = None, **more: Any) -> RedisLedger:
    access = {"username": None, "password": None, "ca": None, "certificate": None, "key": None}
    known = {"namespace": "stockade", "secret": SECRET} | {
        name: more.pop(name) for name in list(more) if name not in access
    }
    return RedisLedger(
        connections(url, **(access | more)), timeout_s=timeout_s, script=script or script_text(), **known
    )


def limiter_at(ledger: Any, *, clock_ns: Callable[[], int], log: Log | None = None) -> SharedLimiter:
    return SharedLimiter(ledger, MemoryLimiter(), clock_ns=clock_ns, jitter=random.Random(1).random, log=log or quiet())


@cache
def runner() -> asyncio.Runner:
    made = asyncio.Runner()
    atexit.register(made.close)
    return made


class Stepped:
    """Implements `Limiter` by the shared limiter's `take`. The server's clock is `now_ns`, in microseconds."""

    def __init__(self) -> None:
        self._server = common_server()
        self._namespace = os.urandom(8).hex()
        clock = f"{self._namespace}-clock"
        script = script_text().replace("redis.call('TIME')", f"redis.call('HMGET', '{clock}', 's', 'us')")
        assert script != script_text()
        self._ledger = ledger_at(self._server.url, namespace=self._namespace, script=script)
        self._tell(0)
        self._now_ns = 0
        self._shared = limiter_at(self._ledger, clock_ns=lambda: self._now_ns)
        runner().run(self._shared.start())
        atexit.register(self.close)

    def close(self) -> None:
        runner().run(self._shared.close())

    def spend(self, charges: Sequence[tuple[Bucket, int]], now_ns: int) -> Decision:
        if now_ns != self._now_ns:
            self._now_ns = now_ns
            self._tell(now_ns // 1000)
        decision = runner().run(self._shared.take(tuple(charges)))
        assert decision is not None
        return decision

    def stored(self, key: str) -> bytes | None:
        """What stands in Redis for a bucket."""
        return self._server.ask("GET", self._ledger.name_of(key))

    def lives_ms(self, key: str) -> int:
        return int(self._server.ask("PTTL", self._ledger.name_of(key)))

    def _tell(self, now_us: int) -> None:
        self._server.ask("HSET", f"{self._namespace}-clock", "s", now_us // 1_000_000, "us", now_us % 1_000_000)


_BEFORE: list[Stepped] = []


def stepped(buckets: int = 0) -> Stepped:
    """An empty limiter. The one before it is over: a property test would make hundreds."""
    if _BEFORE:
        before = _BEFORE.pop()
        atexit.unregister(before.close)
        before.close()
    _BEFORE.append(Stepped())
    return _BEFORE[0]
