"""What `bench audit` asks of whole gateways: what the log adds to a call, a flood, and a log that is replayed.

- `gateway_*`: calls at a fixed rate that leaves the machine room, by turns to a gateway with its log and to one whose
  records are made, sent and acknowledged, and kept by nobody (audit_load.py); all else is the same.
- `overload_*`: one account asks as fast as it is refused, for a minute. Each call that the gateway counts has to be in
  the log, by itself or in a sum; memory is that of all its processes, above what they had at rest.
- `replay_*`: different images, every payload kept; then `stockade audit replay`, in a process of its own. Of decisions
  `replay_r1` percent come out the same, of scores and answers `replay_r2` percent, to the byte.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from statistics import median
from typing import Any

from gateway.config.load import load_config
from gateway.config.place import place_of
from gateway.tools.bench import load as h2load
from gateway.tools.bench.audit_load import listening
from gateway.tools.bench.load import MODEL, SHAPES, ask, first_request, image_request, load_of, sample_floats
from gateway.tools.bench.machine import MIB, peak_memory
from gateway.tools.bench.runner import NotMeasured, handled_by, running, settle, timed, warm_up
from gateway.tools.bench.targets import edit_yaml, launch_gateway, log_entries
from gateway.tools.samples import bundles_directory

RATE_RPS = 200
LATENCY_ROUNDS = 3
WARM_UP_S = 2.0
ADMITTED_RPS = 50
REPLAYED_IN_FLIGHT = 32
DECISIONS = ("identity", "right", "limits", "route", "screens", "decision")
OUTPUTS = ("scores", "output")


def measure_latency(directory: Path, seconds: float) -> dict[str, Any]:
    """The p99 of calls to a gateway with its log and without, medians of rounds. Raises NotMeasured."""
    rounds: dict[bool, list[float]] = {True: [], False: []}
    for number in range(LATENCY_ROUNDS):
        for kept, found in rounds.items():
            found.append(_p99_ms(directory / f"{number}{'kept' if kept else 'none'}", seconds, kept=kept))
    with_log, without = median(rounds[True]), median(rounds[False])
    return {
        "gateway_p99_ms": round(with_log, 2),
        "gateway_no_log_p99_ms": round(without, 2),
        "gateway_p99_added_ms": round(with_log - without, 2),
    }


def _p99_ms(directory: Path, seconds: float, *, kept: bool) -> float:
    request = first_request()
    launch = launch_gateway(directory, bundles_directory())
    with nullcontext() if kept else _without_log(directory / "gateway"), running(launch, request) as server:
        calls = load_of(server.endpoint, request, directory)
        warm_up(calls, WARM_UP_S)
        return timed(server, calls, h2load.paced(calls, SHAPES[1], RATE_RPS, seconds), 4 * seconds).latency.p99_ms


@contextmanager
def _without_log(home: Path) -> Iterator[None]:
    """Have the gateway find a recorder that keeps nothing."""
    file = home / "stockade.yaml"
    edit_yaml(file, lambda document: document["audit"].update(recorder="external"))
    config = load_config(file)
    place = place_of(config)
    place.make_shared()
    with listening(place.socket, "gateway.tools.bench.audit_load", str(place.socket), config.audit.origin):
        yield


def measure_overload(directory: Path, seconds: float) -> dict[str, Any]:
    """Flood a gateway. Raises NotMeasured, H2loadFailed."""
    request = first_request()
    launch = launch_gateway(directory, bundles_directory(), change=_limit)
    with running(launch, request) as server:
        calls = load_of(server.endpoint, request, directory)
        warm_up(calls, WARM_UP_S)
        settle(server)
        rest_bytes = sum(server.tree.pss_bytes().values())
        with peak_memory(server.tree) as peak:
            flood = h2load.run(h2load.closed(calls, SHAPES[-1], seconds), seconds)
        settle(server)
        counted = handled_by(server.endpoint)
    served, hung_up = counted["OK"], counted["CANCELLED"]  # by h2load, when the time is up
    refused = sum(counted.values()) - served - hung_up
    recorded: Counter[str] = Counter()
    for entry in log_entries(directory / "gateway"):
        recorded[entry["kind"]] += entry.get("count", 1)  # a sum counts as many as it says
    pairs = ((served, recorded["served"]), (hung_up, recorded["failed"]), (refused, recorded["refused"]))
    return {
        "overload_factor": round(flood.requests_per_s / ADMITTED_RPS, 1),
        "overload_memory_mib": round((peak()["all"] - rest_bytes) / MIB, 1),
        "overload_refused": refused,
        "overload_unrecorded": sum(abs(calls - entries) for calls, entries in pairs),
    }


def _limit(policy: dict[str, Any]) -> None:
    policy["limits"]["default"] |= {"requests": f"{ADMITTED_RPS}/s", "request_burst": ADMITTED_RPS}


def measure_replay(directory: Path, requests: int) -> dict[str, Any]:
    """Record so many requests, then replay them. Raises NotMeasured."""
    images = sample_floats()
    bodies = [image_request(images[number % len(images)]) for number in range(requests)]
    launch = launch_gateway(directory, bundles_directory(), change=_capture)
    with running(launch, bodies[0]):
        outcomes = asyncio.run(ask(launch.endpoint, bodies, REPLAYED_IN_FLIGHT)).outcomes
    if outcomes["OK"] < requests:
        raise NotMeasured(f"not every request was answered: {dict(outcomes)}")
    home = directory / "gateway"
    command = [sys.executable, "-m", "gateway", "audit", "replay", str(home), "--json"]
    replayed = subprocess.run(command, capture_output=True, text=True, check=False)
    if not replayed.stdout:
        raise NotMeasured(f"the log was not replayed: {replayed.stderr.strip()[-500:]}")
    found = json.loads(replayed.stdout)
    return {
        "replay_r1": _equal_percent(found["steps"], DECISIONS),
        "replay_r2": _equal_percent(found["steps"], OUTPUTS),
        "replay_requests": found["requests"],
        "replay_s": round(sum(found["seconds"].values()), 1),
    }


def _capture(policy: dict[str, Any]) -> None:
    for each in (policy["models"][MODEL], *policy["tenants"].values()):
        each["capture"] = "all"


def _equal_percent(steps: Mapping[str, Mapping[str, int]], names: tuple[str, ...]) -> float:
    """The share of comparisons that came out equal. Raises NotMeasured when nothing was compared."""
    equal = sum(steps[name]["equal"] for name in names)
    compared = equal + sum(steps[name]["within"] + steps[name]["differs"] for name in names)
    if not compared:
        raise NotMeasured(f"nothing was compared of {', '.join(names)}")
    return round(100 * equal / compared, 3)
