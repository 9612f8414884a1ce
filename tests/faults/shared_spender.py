"""One gateway's limiter as a process of its own: `python -m tests.faults.shared_spender URL HOURS_AHEAD TIMEOUT_S`.

It says `ready` once it has reached Redis, waits for a line with the seconds to go on for, and spends as fast as it
can, for that long and until it was refused often: so it has asked for more than there was, however busy the machine.
Its last line is what happened, JSON. Its clock is HOURS_AHEAD of the others'.
"""

from __future__ import annotations

import asyncio
import io
import json
import sys
import time

from gateway.admission.limiter import Bucket, Rule
from gateway.errors import LimitsUnavailable
from ops.process.logging import configure
from tests.gateway.admission.stepped import ledger_at, limiter_at

AT_ONCE = 16
REFUSED_LEAST = 50
INTERVAL_NS = 10_000_000
BURST = 1_000
BUCKET = Bucket("principal-requests/a", Rule("principal-requests", INTERVAL_NS, BURST))
OTHERS = [Bucket(f"{name}/a", Rule(name, 1_000, 10_000_000)) for name in ("tenant-requests", "cost", "tenant-cost")]
CHARGES = ((BUCKET, 1), *[(other, 1) for other in OTHERS])
NS_PER_HOUR = 3_600_000_000_000


async def run(url: str, hours_ahead: float, timeout_s: float) -> None:
    ahead_ns = int(hours_ahead * NS_PER_HOUR)
    ledger, written = ledger_at(url, timeout_s=timeout_s), io.StringIO()
    log = configure("info", written, format="json")
    limiter = limiter_at(ledger, clock_ns=lambda: time.monotonic_ns() + ahead_ns, log=log)
    await limiter.start()
    while not limiter.up:  # noqa: ASYNC110  nothing tells us
        await asyncio.sleep(0.001)
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    end_s = time.monotonic() + float(await asyncio.to_thread(sys.stdin.readline))
    seen = {"admitted": 0, "refused": 0, "unavailable": 0, "refused_ns": 0, "ended_ns": 0, "outages": 0}

    async def spend() -> None:
        while time.monotonic() < end_s or seen["refused"] < REFUSED_LEAST:
            asked_ns = time.time_ns()  # the machine's clock, which is also that of Redis
            try:
                decision = await limiter.take(CHARGES)
            except LimitsUnavailable:
                seen["unavailable"] += 1
                await asyncio.sleep(0.001)
                continue
            if decision is not None and decision.admitted:
                seen["admitted"] += 1
            else:
                seen["refused"] += 1
                seen["refused_ns"] = max(seen["refused_ns"], asked_ns)

    await asyncio.gather(*[spend() for _ in range(AT_ONCE)])
    seen["ended_ns"] = time.time_ns()
    seen["outages"] = written.getvalue().count('"shared-limits-back"')
    await limiter.close()
    sys.stdout.write(json.dumps(seen) + "\n")


if __name__ == "__main__":
    asyncio.run(run(sys.argv[1], float(sys.argv[2]), float(sys.argv[3])))
