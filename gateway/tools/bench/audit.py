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
- `gateway_*`, `overload_*`, `replay_*`: whole gateways (audit_gateway.py), where h2load is installed.

`stockade bench verify` times the verifier alone, in this process, on a log whose pages are in memory. On a machine with
other work the CPU times beside the figures say more.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Any

import uvloop
from rich.console import Console
from rich.markup import escape

from gateway.tools.audit.log_store import opened
from gateway.tools.bench.audit_gateway import measure_latency, measure_overload, measure_replay
from gateway.tools.bench.audit_load import (
    Appended,
    append_for,
    new_signer,
    recorder,
    records,
    sealed_records,
    settings_in,
    write_log,
)
from gateway.tools.bench.machine import (
    MIB,
    ProcessTree,
    children_cpu_us,
    h2load_missing,
    peak_memory,
    process_cpu_us,
)
from gateway.tools.bench.runner import Bench, NotMeasured, Result, table
from gateway.tools.terminal import EX_NO
from ops.audit.copies.replicator import Replicator
from ops.audit.copies.restore import restore_log
from ops.audit.copies.sources import DirectorySource, Source, StoreSource
from ops.audit.log.checkpoint import SignerKey
from ops.audit.log.tlog_proof import parse_proof
from ops.audit.log.trust_policy import TrustedLog, TrustPolicy
from ops.audit.payloads.keys import KeyStore
from ops.audit.reader.read import LogReader
from ops.audit.verify.verify import verify_log

IN_FLIGHT = 64
PAYLOAD_BYTES = 2048
PROOFS = 100

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


def audit(bench: Bench) -> Result:
    """The measure `audit`. Whether an aim was reached stands in the table."""
    report: dict[str, Any] = {}
    for figures in bench.parts(_parts(bench)).values():
        report |= figures
    machine = bench.machine

    def show(out: Console) -> None:
        out.print(table(("figure", "measured", "aim", ""), [_row(name, report.get(name)) for name in AIMS]))
        for name in report.keys() - AIMS.keys():
            out.print(f"{name}: {report[name]:,}")
        load = machine["load_average_before"]
        out.print(f"{machine['cores']} cores, {machine['processor']}, {machine['filesystem']}, load average {load}")

    return Result(report, show)


def _row(name: str, value: float | None) -> tuple[str, ...]:
    """A line of the table: the figure, its aim, and what is to be said of it."""
    sign, aim = AIMS[name]
    if value is None:
        missing = "no --store" if name.startswith("restore_store") else "h2load is not installed"
        return name, "not measured", f"{sign} {aim:,}", missing
    reached = value >= aim if sign == ">=" else value <= aim
    return name, f"{value:,}", f"{sign} {aim:,}", "" if reached else "[yellow]missed[/yellow]"


def _parts(bench: Bench) -> Iterator[tuple[str, dict[str, Any]]]:
    signer, options, directory = new_signer(), bench.options, bench.directory
    yield "append", _append(directory / "append", signer, options.seconds)
    yield "append with payloads", _append_sealed(directory / "payload", signer, options.payloads)
    yield "start after a crash", _crash_start(directory / "crash", signer, options.tail_mib * MIB)
    log = directory / "log"
    write_log(log, options.records, signer, time.time_ns(), lambda _done: None)
    yield "verify", _verify(log, signer, options.records)
    yield "a proof", _prove(log, signer, options.records)
    yield "restore", _restore("restore", DirectorySource(log), directory / "restored", signer, options.records)
    if options.store is not None:
        url = f"{options.store.rstrip('/')}/bench-{os.urandom(4).hex()}"
        store = opened(url, options)
        began_s = time.perf_counter()
        Replicator(log, store, signer.verifier, lambda: datetime.now(UTC)).replicate()
        copied_s = round(time.perf_counter() - began_s, 1)
        found = _restore("restore_store", StoreSource(store, url), directory / "fetched", signer, options.records)
        yield "restore from the store", found | {"replicate_s": copied_s}
    if h2load_missing() is None:
        yield "replay", measure_replay(directory / "r", options.requests)
        yield "latency", measure_latency(directory / "l", options.seconds)
        yield "overload", measure_overload(directory / "o", options.overload)


def _append(home: Path, signer: SignerKey, seconds: float) -> dict[str, Any]:
    settings = settings_in(home, signer)
    with recorder(settings) as process:
        _timed(settings.socket, signer, seconds / 5)  # the first segment, and every code path once
        before_us = process_cpu_us(process.pid)
        found = _timed(settings.socket, signer, seconds)
        spent_us = process_cpu_us(process.pid) - before_us
    return {
        "append_per_s": round(found.per_s),
        "append_p50_ms": round(found.quantile_ms(0.5), 2),
        "append_p99_ms": round(found.quantile_ms(0.99), 2),
        "append_recorder_cpu_us": round(spent_us / found.count, 1),
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
    began_s, before_us = time.perf_counter(), children_cpu_us()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    with peak_memory(ProcessTree(process.pid)) as peak:
        said, _ = process.communicate()
    took_s = time.perf_counter() - began_s
    if process.returncode != 0:
        raise NotMeasured(f"a clean log does not verify: {said.strip()[:500]}")
    return {
        "verify_per_s": round(count / took_s),
        "verify_rss_mib": round(peak()["all"] / MIB),
        "verify_cpu_us": round((children_cpu_us() - before_us) / count, 1),
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


def verify(bench: Bench) -> Result:
    """The measure `verify`: how many records a second an auditor verifies. Its exit code is 1 when a log does not."""
    signer, count = new_signer(), bench.options.records
    bench.step("writing a log", 0, count)
    write_log(bench.directory, count, signer, time.time_ns(), lambda done: bench.step("writing a log", done))
    stored = sum(path.stat().st_size for path in bench.directory.rglob("*") if path.is_file())
    bench.step("verifying it", 0)
    began_s = time.process_time() + children_cpu_us() / 1e6
    verified = verify_log(
        bench.directory, [str(signer.verifier)], progress=lambda done, _all: bench.step("verifying it", done)
    )
    cpu_s = time.process_time() + children_cpu_us() / 1e6 - began_s
    report = {
        "verify_records_per_s": round(verified.records_per_s),
        "verify_mib_per_s": round(stored / MIB / verified.seconds, 1),
        "cpu_us_per_record": round(cpu_s * 1e6 / verified.size, 2) if verified.size else None,
        "records": verified.size,
        "bytes_per_record": round(stored / verified.size) if verified.size else 0,
        "seconds": round(verified.seconds, 3),
        "exit_code": verified.exit_code,
        "findings": [f"{finding.severity}: {finding.what} ({finding.where})" for finding in verified.findings],
        "cores": len(os.sched_getaffinity(0)),
    }

    def show(out: Console) -> None:
        out.print(
            f"{verified.size:,} records of {report['bytes_per_record']:,} bytes verified in {report['seconds']} s "
            f"on {report['cores']} cores: {report['verify_records_per_s']:,} records/s, "
            f"{report['verify_mib_per_s']} MiB/s, {report['cpu_us_per_record']} CPU us a record"
        )
        for finding in verified.findings:
            out.print(f"[red]{escape(f'{finding.severity}: {finding.what} ({finding.where})')}[/red]")

    return Result(report, show, 0 if verified.exit_code == 0 and verified.size == count else EX_NO)
