"""Four gateways' limiters, in processes of their own, and one Redis: all together they admit the limit, to the unit.

The bucket itself is the judge: its key holds the moment at which it will be full, and each admitted unit moves that on
by exactly one interval. So units that were lost or counted twice would show as nanoseconds.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from tests.e2e.running import until
from tests.faults.shared_spender import AT_ONCE, BUCKET, BURST, INTERVAL_NS
from tests.gateway.admission.stepped import ledger_at, runner
from tests.redis_server import RedisServer, needs_redis, redis_server

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = needs_redis
ROOT = Path(__file__).parent.parent.parent
HOURS_AHEAD = (0.0, 1.0, -1.0, 0.5)
GO_ON_S = 2.0
FIRST = 300  # taken before they begin: three seconds in which the bucket does not become full
NS_PER_S = 1_000_000_000


def now_ns(server: RedisServer) -> int:
    seconds, micros = server.ask("TIME")
    return int(seconds) * NS_PER_S + int(micros) * 1_000


def name_in(server: RedisServer) -> bytes:
    return ledger_at(server.url).name_of(BUCKET.key)


def full_ns(server: RedisServer) -> int:
    """When the bucket will be full, as it stands in Redis."""
    return int(server.ask("GET", name_in(server)))


def gateways(
    server: RedisServer, stack: ExitStack, timeout_s: float, hours_ahead: tuple[float, ...] = HOURS_AHEAD
) -> Iterator[subprocess.Popen[str]]:
    """Processes that will say that they have reached Redis, and wait."""
    for hours in hours_ahead:
        command = [sys.executable, "-m", "tests.faults.shared_spender", server.url, str(hours), str(timeout_s)]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT)
        stack.enter_context(process)
        stack.callback(process.kill)
        yield process


def told_to_go(processes: list[subprocess.Popen[str]], server: RedisServer) -> int:
    """Let them go, once all are ready and the bucket is not full; returns when it will be."""
    for process in processes:
        assert process.stdout.readline() == "ready\n"
    runner().run(taken_first(server))
    moment_ns = full_ns(server)
    for process in processes:
        process.stdin.write(f"{GO_ON_S}\n")
        process.stdin.flush()
    return moment_ns


async def taken_first(server: RedisServer) -> None:
    ledger = ledger_at(server.url)
    await ledger.connect()
    assert await ledger.exchange([((BUCKET, FIRST),)]) == [[1, 0]]
    await ledger.close()


def ended(processes: list[subprocess.Popen[str]]) -> list[dict[str, int]]:
    seen = [json.loads(process.stdout.readline()) for process in processes]
    assert [process.wait(60) for process in processes] == [0] * len(processes)
    return seen


def limit(before_ns: int, until_ns: int) -> float:
    """What they may take together until then. `before_ns`: when the bucket would have been full without them."""
    return BURST - FIRST + (until_ns - (before_ns - FIRST * INTERVAL_NS)) / INTERVAL_NS


def test_four_gateways_admit_exactly_the_limit():
    """Whoever was refused had asked when less than a unit was left."""
    with redis_server() as server, ExitStack() as stack:
        processes = list(gateways(server, stack, timeout_s=20.0))
        before_ns = told_to_go(processes, server)
        seen = ended(processes)
        admitted = sum(each["admitted"] for each in seen)
        assert full_ns(server) == before_ns + admitted * INTERVAL_NS
        assert limit(before_ns, max(each["refused_ns"] for each in seen)) - 1 <= admitted
        assert admitted <= limit(before_ns, max(each["ended_ns"] for each in seen))
        assert all(each["unavailable"] == 0 for each in seen)
        assert all(each["admitted"] > 0 for each in seen)


def test_a_server_that_hangs_for_a_while_neither_loses_units_nor_admits_more():
    """Who got no answer was not admitted, and may have been charged: at most all that were on their way."""
    with redis_server() as server, ExitStack() as stack:
        processes = list(gateways(server, stack, timeout_s=0.2, hours_ahead=(0.0, 1.0)))
        before_ns = told_to_go(processes, server)
        until(lambda: full_ns(server) > before_ns, "nobody has spent anything")
        server.pause()
        time.sleep(0.5)  # more than twice the time that is waited for an answer
        server.resume()
        seen = ended(processes)
        admitted = sum(each["admitted"] for each in seen)
        assert sum(each["unavailable"] for each in seen) > 0
        charged, off = divmod(full_ns(server) - before_ns, INTERVAL_NS)
        assert off == 0
        on_their_way = sum(each["outages"] for each in seen) * AT_ONCE
        assert admitted <= charged <= admitted + on_their_way, "what was on its way, and not twice"
        assert charged <= limit(before_ns, now_ns(server))
