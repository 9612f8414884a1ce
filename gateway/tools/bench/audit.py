"""`stockade bench audit`: what the audit log does on a real disk: append, verify, start after a crash, restore.

Each part uses the real thing: a recorder process with its defaults, appends over its socket, fdatasync before each
acknowledgement; `stockade audit verify` in a process of its own, whose memory and that of its helpers is sampled.

- `append_*`: records without payloads, 64 in flight one by one, as the reply of each waits for its own.
- `append_payload_per_s`: the same with 2 KiB sealed beforehand (what sealing costs a worker is `seal_us`).
- `crash_start_s`: a recorder is killed with 64 MiB of log that no checkpoint covers; from start to accepting.
- `verify_*`, `restore_1m_s`: a log written beforehand, as large as asked for, its pages still in memory. Restoring is
  what `stockade audit restore` does from a directory, by hash and to the disk, and then verifying what came of it.

- `restore_store_1m_s`: likewise from an object store, `--store`, to which the log is copied before; what it adds there
  stays there, below a name of its own.
- `proof_check_ms`: CPU time of the receipt of one entry of that log, parsed and verified.
- `gateway_*`, `overload_*`, `replay_*`: whole gateways (gateway/tools/bench/audit_gateway.py), where h2load is
  installed.

On a machine with other work the CPU times beside them say more.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Any

import grpc
import uvloop
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from gateway.tools.audit.log_store import opened
from gateway.tools.bench import h2load
from gateway.tools.bench.audit_gateway import measure_latency, measure_overload, measure_replay
from gateway.tools.bench.audit_load import (
    Appended,
    RecorderFailed,
    append_for,
    new_signer,
    recorder,
    records,
    sealed_records,
    settings_in,
)
from gateway.tools.bench.h2load import H2loadFailed
from gateway.tools.bench.hand_over import hand_over
from gateway.tools.bench.machine import machine_facts
from gateway.tools.bench.measure import NotServed
from gateway.tools.bench.procfs import ProcessTree, parse_stat, peak_memory
from gateway.tools.bench.running import StartFailed
from gateway.tools.bench.synthetic_log import write_log
from gateway.tools.bench.workspace import workspace
from ops.audit.copies.replicator import Replicator
from ops.audit.copies.restore import restore_log
from ops.audit.copies.sources import DirectorySource, Source, StoreSource
from ops.audit.errors import AuditError
from ops.audit.log.checkpoint import SignerKey
from ops.audit.log.tlog_proof import parse_proof
from ops.audit.log.trust_policy import TrustedLog, TrustPolicy
from ops.audit.payloads.keys import KeyStore
from ops.audit.reader.read import LogReader

IN_FLIGHT = 64
PAYLOAD_BYTES = 2048
PROOFS = 100
MIB = 1 << 20

UNMEASURED = (
    AuditError,
    H2loadFailed,
    NotServed,
    RecorderFailed,
    StartFailed,
    grpc.RpcError,
    subprocess.SubprocessError,
    OSError,
)

AIMS: Mapping[str, tuple[str, float]] = {
    "append_per_s": (">=", 20_000),
    "append_p99_ms": ("<=", 5),
    "append_payload_per_s": (">=", 10_000),
    "verify_per_s": (">=", 400_000),
    "verify_rss_mib": ("<=", 256),
    "restore_1m_s": ("<=", 30),
    "restore_store_1m_s": ("<=", 60),
    "proof_check_ms": ("<=", 1),
    "crash_start_s": ("<=", 1),
    "gateway_p99_added_ms": ("<=", 3),
    "overload_memory_mib": ("<=", 64),
    "overload_unrecorded": ("<=", 0),
    "replay_r1": (">=", 100),
    "replay_r2": (">=", 100),
}


def run(options: argparse.Namespace) -> int:
    """The verb. Returns 0, or 2 when it could not be measured. Whether an aim was reached stands in the table."""
    err = Console(stderr=True, highlight=False)
    report: dict[str, Any] = {"measured_at": datetime.now(UTC).isoformat(timespec="seconds")}
    with workspace(options.workspace) as directory:
        report["machine"] = machine_facts(directory)
        try:
            for name, figures in _parts(options, directory):
                err.print(f"measured {name}")
                report |= figures
        except UNMEASURED as problem:
            err.print(f"[red]stockade:[/red] {escape(str(problem))}")
            return 2
    hand_over(report, options, lambda out: _show(report, out))
    return 0


def _parts(options: argparse.Namespace, directory: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    signer = new_signer()
    yield "append", _append(directory / "append", signer, options.seconds)
    yield "append with payloads", _append_sealed(directory / "payload", signer, options.payloads)
    yield "start after a crash", _crash_start(directory / "crash", signer, options.tail_mib * MIB)
    log = directory / "log"
    write_log(log, options.records, signer, time.time_ns(), lambda _done: None)
    yield "verify", _verify(log, signer, options.records)
    yield "a proof", _prove(log, signer, options.records)
    yield "restore", _restore("restore", DirectorySource(log), directory / "restored", signer, options.records)
    if options.store is not None:
        source, replicated_s = _replicated(log, signer, options)
        found = _restore("restore_store", source, directory / "fetched", signer, options.records)
        yield "restore from the store", found | {"replicate_s": round(replicated_s, 1)}
    if h2load.missing() is None:
        yield "replay", measure_replay(directory / "r", options.requests)
        yield "latency", measure_latency(directory / "l", options.seconds)
        yield "overload", measure_overload(directory / "o", options.overload)


def _append(home: Path, signer: SignerKey, seconds: float) -> dict[str, Any]:
    settings = settings_in(home, signer)
    with recorder(settings) as process:
        _timed(settings.socket, signer, seconds / 5)  # the first segment, and every code path once
        before_s = _cpu_s(process.pid)
        found = _timed(settings.socket, signer, seconds)
        spent_s = _cpu_s(process.pid) - before_s
    return {
        "append_per_s": round(found.per_s),
        "append_p50_ms": round(found.quantile_ms(0.5), 2),
        "append_p99_ms": round(found.quantile_ms(0.99), 2),
        "append_recorder_cpu_us": round(spent_s * 1e6 / found.count, 1),
    }


def _timed(path: Path, signer: SignerKey, seconds: float) -> Appended:
    end_s = time.monotonic() + seconds
    return uvloop.run(append_for(path, records(signer), IN_FLIGHT, lambda _done: time.monotonic() < end_s))


def _append_sealed(home: Path, signer: SignerKey, count: int) -> dict[str, Any]:
    settings = settings_in(home, signer)
    store = KeyStore(home / "keys.sqlite", os.urandom(32), origin=signer.name)
    began_s = time.perf_counter()
    appends = [*sealed_records(signer, store, os.urandom(PAYLOAD_BYTES), count)]
    sealing_s = time.perf_counter() - began_s
    store.close()
    with recorder(settings):
        found = uvloop.run(append_for(settings.socket, iter(appends), IN_FLIGHT, lambda _done: True))
    return {
        "append_payload_per_s": round(found.per_s),
        "append_payload_p99_ms": round(found.quantile_ms(0.99), 2),
        "seal_us": round(sealing_s * 1e6 / count, 1),
    }


def _crash_start(home: Path, signer: SignerKey, tail_bytes: int) -> dict[str, Any]:
    """Kill a recorder before it has published, and start another one on what it left."""
    settings = replace(settings_in(home, signer), publish_every_ms=60_000, publish_records=65_536)
    entry, _ = next(records(signer))
    count = min(tail_bytes // len(entry), settings.publish_records - IN_FLIGHT)
    with recorder(settings) as process:
        appends = islice(records(signer), count)
        uvloop.run(append_for(settings.socket, appends, IN_FLIGHT, lambda _done: True))
        process.kill()
        process.wait()
    began_s = time.perf_counter()
    with recorder(settings):
        took_s = time.perf_counter() - began_s
    return {
        "crash_start_s": round(took_s, 2),
        "crash_start_records": count,
        "crash_start_mib": count * len(entry) // MIB,
    }


def _verify(log: Path, signer: SignerKey, count: int) -> dict[str, Any]:
    vkey = log.with_name("log.vkey")
    vkey.write_text(f"{signer.verifier}\n")
    command = [sys.executable, "-m", "gateway", "audit", "verify", str(log), "--vkey", str(vkey), "--json"]
    began_s, before_s = time.perf_counter(), _children_s()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    with peak_memory(ProcessTree(process.pid)) as peak:
        said, _ = process.communicate()
    took_s = time.perf_counter() - began_s
    if process.returncode != 0:
        raise RecorderFailed(f"a clean log does not verify: {said.strip()[:500]}")
    return {
        "verify_per_s": round(count / took_s),
        "verify_rss_mib": round(peak() / MIB),
        "verify_cpu_us": round((_children_s() - before_s) * 1e6 / count, 1),
        "verify_records": count,
        "verify_s": round(took_s, 2),
    }


def _prove(log: Path, signer: SignerKey, count: int) -> dict[str, Any]:
    reader, policy = LogReader.open(log, signer.verifier), TrustPolicy([TrustedLog(signer.verifier)])
    checkpoint = (log / "checkpoint").read_bytes()
    indexes = range(0, count, -(-count // PROOFS))
    receipts = [reader.receipt(index, checkpoint).text() for index in indexes]
    began_s = time.process_time()
    for receipt in receipts:
        parse_proof(receipt).verify(policy)
    return {"proof_check_ms": round((time.process_time() - began_s) * 1e3 / len(receipts), 3)}


def _restore(name: str, source: Source, target: Path, signer: SignerKey, count: int) -> dict[str, Any]:
    began_s, before_s = time.perf_counter(), time.process_time()
    restored = restore_log([source], target, signer.verifier)
    copied_s, spent_s = time.perf_counter() - began_s, time.process_time() - before_s
    verified = _verify(target, signer, count)
    took_s = copied_s + verified["verify_s"]
    return {
        f"{name}_1m_s": round(took_s * 1e6 / count, 1),
        f"{name}_s": round(took_s, 1),
        f"{name}_copy_s": round(copied_s, 1),
        f"{name}_copy_cpu_us": round(spent_s * 1e6 / count, 1),
        f"{name}_files": restored.files,
    }


def _replicated(log: Path, signer: SignerKey, options: argparse.Namespace) -> tuple[StoreSource, float]:
    """The log in the store, in a place where nothing was, and how many seconds that took."""
    url = f"{options.store.rstrip('/')}/bench-{os.urandom(4).hex()}"
    store = opened(url, options)
    began_s = time.perf_counter()
    Replicator(log, store, signer.verifier, lambda: datetime.now(UTC)).replicate()
    return StoreSource(store, url), time.perf_counter() - began_s


def _children_s() -> float:
    """CPU seconds of all that this process started and that has ended."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def _cpu_s(pid: int) -> float:
    return parse_stat(Path(f"/proc/{pid}/stat").read_text()).cpu_us / 1e6


def _show(report: Mapping[str, Any], out: Console) -> None:
    table = Table("figure", "measured", "aim", "")
    for name, (sign, aim) in AIMS.items():
        value = report.get(name)
        if value is None:
            missing = "no --store" if name.startswith("restore_store") else "h2load is not installed"
            table.add_row(name, "not measured", f"{sign} {aim:,}", missing)
            continue
        reached = value >= aim if sign == ">=" else value <= aim
        table.add_row(name, f"{value:,}", f"{sign} {aim:,}", "" if reached else "[yellow]missed[/yellow]")
    out.print(table)
    others = {name: value for name, value in report.items() if name not in {*AIMS, "machine", "measured_at"}}
    for name, value in others.items():
        out.print(f"{name}: {value:,}")
    machine = report["machine"]
    load = machine["load_average_before"]
    out.print(f"{machine['cores']} cores, {machine['processor']}, {machine['filesystem']}, load average {load}")
