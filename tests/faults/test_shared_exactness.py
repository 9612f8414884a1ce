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
from tests.gateway.admission.stepped import ledger_at
from tests.redis_server import RedisServer, needs_redis, redis_server

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = needs_redis
ROOT = Path(__file__).parent.parent.parent
HOURS_AHEAD = (0.0, 1.0, -1.0, 0.5)
GO_ON_S = 2.0
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


def told_to_go(processes: list[subprocess.Popen[str]]) -> None:
    for process in processes:
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        process.stdin.write(f"{GO_ON_S}\n")
        process.stdin.flush()


def ended(processes: list[subprocess.Popen[str]]) -> list[dict[str, int]]:
    seen = [json.loads(process.stdout.readline()) for process in processes]
    assert [process.wait(60) for process in processes] == [0] * len(processes)
    return seen


def test_four_gateways_admit_exactly_the_limit():
    with redis_server() as server, ExitStack() as stack:
        processes = list(gateways(server, stack, timeout_s=20.0))
        before_ns = now_ns(server)
        told_to_go(processes)
        seen = ended(processes)
        after_ns = max(each["ended_ns"] for each in seen)
        admitted = sum(each["admitted"] for each in seen)
        began_ns = full_ns(server) - admitted * INTERVAL_NS  # when the first unit was taken, if none is missing
        assert before_ns <= began_ns <= after_ns
        limit = BURST + (after_ns - began_ns) / INTERVAL_NS
        assert 0.99 * limit <= admitted <= limit
        assert all(each["unavailable"] == 0 for each in seen)
        assert all(each["admitted"] > 0 for each in seen)


def test_a_server_that_hangs_for_a_while_neither_loses_units_nor_admits_more():
    """Who got no answer was not admitted, and may have been charged: at most all that were on their way."""
    with redis_server() as server, ExitStack() as stack:
        processes = list(gateways(server, stack, timeout_s=0.2, hours_ahead=(0.0, 1.0)))
        told_to_go(processes)
        before_ns = now_ns(server)
        until(lambda: server.ask("GET", name_in(server)), "nobody has spent anything")
        server.pause()
        time.sleep(0.5)  # more than twice the time that is waited for an answer
        server.resume()
        seen = ended(processes)
        admitted = sum(each["admitted"] for each in seen)
        assert sum(each["unavailable"] for each in seen) > 0
        began_ns = full_ns(server) - admitted * INTERVAL_NS  # later than it was, by what was charged without an answer
        assert before_ns <= began_ns <= now_ns(server) + len(seen) * AT_ONCE * INTERVAL_NS
        assert admitted <= BURST + (now_ns(server) - before_ns) / INTERVAL_NS
