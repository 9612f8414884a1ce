"""What `bench audit` asks of whole gateways: what the log adds to a call, a flood, and a log that is replayed.

- `gateway_p99_*`: calls at a fixed rate that leaves the machine room, by turns to a gateway with its log and to one
  whose records are made, sent and acknowledged, and kept by nobody (gateway/tools/bench/no_log.py); all else is the
  same.
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

import numpy as np
import yaml
from safetensors.numpy import load_file

from gateway.config.load import load_config
from gateway.config.place import place_of
from gateway.tools.bench import h2load
from gateway.tools.bench.audit_load import listening
from gateway.tools.bench.frame import framed, image_request
from gateway.tools.bench.gateway_launch import launch_gateway
from gateway.tools.bench.h2load import SHAPES, Load
from gateway.tools.bench.measure import NotServed, run_checked, settle, warm_up
from gateway.tools.bench.procfs import peak_memory
from gateway.tools.bench.running import running
from gateway.tools.bench.screens import load
from gateway.tools.bench.targets import MODEL
from gateway.tools.bench.workspace import first_image
from gateway.tools.samples import bundles_directory, sample_images
from ops.audit.log.checkpoint import parse_vkey
from ops.audit.reader.read import LogReader

RATE_RPS = 200
LATENCY_ROUNDS = 3
WARM_UP_S = 2.0
ADMITTED_RPS = 50
REPLAYED_IN_FLIGHT = 32
READ_RECORDS = 4096
DECISIONS = ("identity", "right", "limits", "route", "screens", "decision")
OUTPUTS = ("scores", "output")
MIB = 1 << 20


def measure_latency(directory: Path, seconds: float) -> dict[str, Any]:
    """The p99 of calls to a gateway with its log and without, medians of rounds. Raises StartFailed, NotServed."""
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
    request = image_request(MODEL, first_image())
    launch = launch_gateway(directory, bundles_directory(), tls=False, protected=True)
    with nullcontext() if kept else _without_log(directory / "gateway"), running(launch, request) as server:
        calls = _calls(directory, launch.endpoint.url, request, launch.endpoint.headers)
        warm_up(calls, WARM_UP_S, directory)
        settle(server)
        log = directory / "paced.log"
        run_checked(server, h2load.paced(calls, SHAPES[1], RATE_RPS, seconds, log), 4 * seconds)
        with log.open() as lines:
            return h2load.parse_log(lines).p99_ms


@contextmanager
def _without_log(home: Path) -> Iterator[None]:
    """Have the gateway find a recorder that keeps nothing."""
    file = home / "stockade.yaml"
    document = yaml.safe_load(file.read_text())
    document["audit"]["recorder"] = "external"
    file.write_text(yaml.safe_dump(document, sort_keys=False))
    config = load_config(file)
    place = place_of(config)
    place.make_shared()
    with listening(place.socket, "gateway.tools.bench.no_log", str(place.socket), config.audit.origin):
        yield


def _calls(directory: Path, url: str, request: bytes, headers: tuple[tuple[str, str], ...]) -> Load:
    body = directory / "body"
    body.write_bytes(framed(request))
    return Load(url, body, headers)


def measure_overload(directory: Path, seconds: float) -> dict[str, Any]:
    """Flood a gateway. Raises StartFailed, H2loadFailed."""
    request = image_request(MODEL, first_image())
    launch = launch_gateway(directory, bundles_directory(), tls=False, protected=True, change=_limit)
    count = launch.endpoint.answered
    assert count is not None  # our own gateway counts
    with running(launch, request) as server:
        calls = _calls(directory, launch.endpoint.url, request, launch.endpoint.headers)
        warm_up(calls, WARM_UP_S, directory)
        settle(server)
        rest_bytes = sum(server.tree.pss_bytes().values())
        with peak_memory(server.tree) as peak_bytes:
            flood = h2load.run(h2load.closed(calls, SHAPES[-1], seconds, directory / "flood.log"), seconds)
        settle(server)
        counted = count()
    served, hung_up = counted["OK"], counted["CANCELLED"]  # by h2load, when the time is up
    refused = sum(counted.values()) - served - hung_up
    recorded = _outcomes(directory / "gateway" / "stockade.yaml")
    pairs = ((served, recorded["served"]), (hung_up, recorded["failed"]), (refused, recorded["refused"]))
    return {
        "overload_factor": round(flood.requests_per_s / ADMITTED_RPS, 1),
        "overload_memory_mib": round((peak_bytes() - rest_bytes) / MIB, 1),
        "overload_refused": refused,
        "overload_unrecorded": sum(abs(calls - entries) for calls, entries in pairs),
    }


def _limit(policy: dict[str, Any]) -> None:
    policy["limits"]["default"] |= {"requests": f"{ADMITTED_RPS}/s", "request_burst": ADMITTED_RPS}


def _outcomes(file: Path) -> Counter[str]:
    """Requests by kind of entry, in the log of a gateway that has stopped. A sum counts as many as it says."""
    config = load_config(file)
    reader = LogReader.open(config.audit.directory, parse_vkey(config.audit.vkey.read_text().strip()))
    kinds: Counter[str] = Counter()
    for first in range(0, reader.checkpoint.size, READ_RECORDS):
        for data in reader.entries(first, min(READ_RECORDS, reader.checkpoint.size - first)):
            entry = json.loads(data)
            kinds[entry["kind"]] += entry.get("count", 1)
    return kinds


def measure_replay(directory: Path, requests: int) -> dict[str, Any]:
    """Record so many requests, then replay them. Raises StartFailed, NotServed, RpcError."""
    images = load_file(sample_images())["images"].astype(np.float32) / 255
    bodies = [image_request(MODEL, images[number % len(images)]) for number in range(requests)]
    launch = launch_gateway(directory, bundles_directory(), tls=False, protected=True, change=_capture)
    with running(launch, bodies[0]):
        address = f"127.0.0.1:{launch.endpoint.port}"
        asyncio.run(load(address, launch.endpoint.headers, bodies, REPLAYED_IN_FLIGHT))
    home = directory / "gateway"
    command = [sys.executable, "-m", "gateway", "audit", "replay", str(home), "--json"]
    replayed = subprocess.run(command, capture_output=True, text=True, check=False)
    if not replayed.stdout:
        raise NotServed(f"the log was not replayed: {replayed.stderr.strip()[-500:]}")
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
    """The share of comparisons that came out equal. Raises NotServed when nothing was compared."""
    equal = sum(steps[name]["equal"] for name in names)
    compared = equal + sum(steps[name]["within"] + steps[name]["differs"] for name in names)
    if not compared:
        raise NotServed(f"nothing was compared of {', '.join(names)}")
    return round(100 * equal / compared, 3)
