"""What shared limits cost in Redis: CPU time of the server for each request, by how many travel together.

A Redis of our own on a unix socket, without persistence, and the ledger that the gateway uses. A request takes from
four buckets: requests and cost, of a principal and of its tenant. `python -m gateway.tools.bench.ledger DIR REQUESTS
SIZE...` prints JSON: a program of its own, because redis-py is an extra and not everybody's.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from gateway.admission.budget import compile_budget
from gateway.admission.limiter import Limits
from gateway.admission.redis import RedisLedger, connections, script_text
from gateway.tools.bench.procfs import parse_stat

PRINCIPALS = 10_000
PRINCIPALS_PER_TENANT = 10
START_S = 10.0
POLL_S = 0.05
UNMET = Limits(
    request_interval_ns=1000, request_burst=10_000_000, cost_interval_ns=1000, cost_burst=10_000_000, in_flight_max=8
)


def measure_ledger(directory: Path, sizes: Sequence[int], *, requests: int) -> dict[str, dict[str, float]]:
    """Server CPU microseconds a request and exchanges a second of one gateway, by requests in an exchange."""
    socket = directory / "redis.sock"
    options = ("--port", "0", "--unixsocket", str(socket), "--save", "", "--appendonly", "no", "--dir", str(directory))
    server = subprocess.Popen(["redis-server", *options], stdout=subprocess.DEVNULL)  # noqa: S607  from PATH, as whoever measures has it
    try:
        give_up = time.monotonic() + START_S
        while not socket.exists() and server.poll() is None and time.monotonic() < give_up:
            time.sleep(POLL_S)
        return {str(size): asyncio.run(_measure(socket, server.pid, size, requests)) for size in sizes}
    finally:
        server.terminate()
        server.wait()


async def _measure(socket: Path, pid: int, size: int, requests: int) -> dict[str, float]:
    connect = connections(f"unix:{socket}", username=None, password=None, ca=None, certificate=None, key=None)
    ledger = RedisLedger(connect, namespace="bench", secret=bytes(32), timeout_s=5.0, script=script_text())
    budgets = [
        compile_budget(f"p{number}", f"t{number // PRINCIPALS_PER_TENANT}", 1, UNMET, UNMET)
        for number in range(PRINCIPALS)
    ]
    spends = [(*budget.request_charges, *budget.cost_charges(1, 1)) for budget in budgets]
    await ledger.connect()
    try:
        exchanges = requests // size
        for warm in (True, False):
            before_us, began_s = _cpu_us(pid), time.monotonic()
            for turn in range(exchanges // 10 if warm else exchanges):
                first = turn * size % (PRINCIPALS - size)
                await ledger.exchange(spends[first : first + size])
        took_s, spent_us = time.monotonic() - began_s, _cpu_us(pid) - before_us
    finally:
        await ledger.close()
    return {"server_us": spent_us / (exchanges * size), "exchanges_per_s": exchanges / took_s}


def _cpu_us(pid: int) -> int:
    return parse_stat(Path(f"/proc/{pid}/stat").read_text()).cpu_us


if __name__ == "__main__":
    json.dump(measure_ledger(Path(sys.argv[1]), [*map(int, sys.argv[3:])], requests=int(sys.argv[2])), sys.stdout)
