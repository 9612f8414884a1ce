"""Plays the demo's scenes against a gateway, and collects what is true afterwards."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import tempfile
import time
from collections import Counter
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from gateway.tools.demo.page import write_page
from gateway.tools.demo.report import Evidence, Played, as_json, show
from gateway.tools.demo.scenes import Scene, scenes
from gateway.tools.init.files import Ports
from gateway.tools.init.init import init_directory
from gateway.tools.local import Local, NotServing, serving
from gateway.tools.samples import bundles_directory
from gateway.tools.terminal import print_json
from ops.audit.log.checkpoint import parse_vkey
from ops.audit.log.entry import parse
from ops.audit.reader.read import LogReader
from ops.audit.verify.verify import verify_log

if TYPE_CHECKING:
    import argparse

CLIENT = Path(__file__).with_name("triton_client.py")
CLIENT_PYTHON = Path(".venv-client/bin/python")
CLIENT_TIMEOUT_S = 120
NO_CLIENT = """there is no client at {}: run `make demo`, or make one with
  python3 -m venv .venv-client && .venv-client/bin/pip install 'tritonclient[grpc]'"""
EX_FAILED = 1
EX_UNUSABLE = 2
SEED = 7
STATUS = re.compile(rb'"status":(\d+)')
INFER = "/inference.GRPCInferenceService/ModelInfer"


def run(options: argparse.Namespace) -> int:
    """Play everything; returns 0 when every promise held."""
    console = Console(stderr=options.json, highlight=False)
    python = options.client_python or CLIENT_PYTHON
    if not python.is_file():
        console.print(f"[red]stockade:[/red] {escape(NO_CLIENT.format(python))}", soft_wrap=True)
        return EX_UNUSABLE
    began = time.monotonic()
    with ExitStack() as stack:
        directory = options.keep or Path(stack.enter_context(tempfile.TemporaryDirectory())) / "gateway"
        try:
            init_directory(
                directory,
                now=datetime.now(UTC),
                random_bytes=os.urandom,
                ports=Ports(data=0, metrics=0, admin=0, data_mtls=0),
                bundles=bundles_directory(),
            )
            played = play_all(directory, python.absolute(), console)
        except (NotServing, subprocess.SubprocessError, OSError) as problem:
            console.print(f"[red]the demo stopped:[/red] {escape(str(problem))}", soft_wrap=True)
            return EX_FAILED
        evidence = examine(directory)
        report = as_json(played, evidence, measured_accuracy(directory), time.monotonic() - began)
        write_page(options.page, played, report)
    if options.report:
        options.report.parent.mkdir(parents=True, exist_ok=True)
        options.report.write_text(json.dumps(report, indent=2) + "\n")
    if options.json:
        print_json(report)
    else:
        show(played, report, console)
        console.print(f"\nA page with plots: [bold]{options.page}[/bold]")
    return 0 if report["audit"]["verified"] and report["audit"]["tamper_detected"] else EX_FAILED


def play_all(directory: Path, python: Path, console: Console) -> list[Played]:
    """Serve, and let the client play scene after scene."""
    acts = scenes(np.random.default_rng(SEED))
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("starting the gateway", total=len(acts))
        with serving(directory) as gateway, tempfile.TemporaryDirectory() as scratch:
            played = []
            for scene in acts:
                progress.update(task, description=scene.title)
                played.append(play(scene, gateway, python, Path(scratch)))
                progress.advance(task)
            progress.update(task, description="stopping the gateway")
    return played


def play(scene: Scene, gateway: Local, python: Path, scratch: Path) -> Played:
    """Let a client process send one scene, and read what it and the gateway say of it."""
    images = scratch / f"{scene.name}.npy"
    np.save(images, scene.images)
    key = scene.secret or (gateway.key(scene.key) if scene.key else "")
    before = verdicts(gateway)
    sent = subprocess.run(
        [
            python,
            CLIENT,
            gateway.addresses["data"].replace("127.0.0.1", "localhost"),
            *("--ca", gateway.directory / "tls" / "ca.crt", "--images", images, "--key", key),
            *("--in-flight", str(scene.in_flight)),
        ],
        check=False,
        capture_output=True,
        text=True,
        timeout=CLIENT_TIMEOUT_S,
    )
    if sent.returncode != 0:
        raise NotServing(f"the client failed:\n{sent.stderr[-2000:]}")
    played = Played(scene, verdicts=verdicts(gateway) - before)
    for line in sent.stdout.splitlines():
        played.note(json.loads(line))
    return played


def verdicts(gateway: Local) -> Counter[str]:
    """Return the rows that the evidence screen passed, flagged and refused so far."""
    return Counter(
        {
            dict(labels)["verdict"]: int(value)
            for (name, labels), value in gateway.samples().items()
            if name == "stockade_screen_verdicts_total"
        }
    )


def examine(directory: Path) -> Evidence:
    """Verify the log as an auditor would; then flip one byte in a copy and verify that."""
    log, vkey = directory / "log", (directory / "keys" / "log.vkey").read_text().strip()
    whole = verify_log(log, [vkey], processes=0)
    with tempfile.TemporaryDirectory() as scratch:
        copy = Path(scratch) / "log"
        shutil.copytree(log, copy)
        flipped = flip_one_byte(copy)
        return Evidence(whole, verify_log(copy, [vkey], processes=0), flipped, count_records(log, vkey))


def flip_one_byte(log: Path) -> str:
    """Change one bit of a recorded status, so that the record still reads like one. Returns what was done.

    Only the Merkle tree can tell: the entry stays well-formed. Raises ValueError for a log without requests.
    """
    for bundle in sorted(path for path in (log / "tile" / "entries").rglob("*") if path.is_file()):
        data = bytearray(bundle.read_bytes())
        found = STATUS.search(data)
        if found:
            at = found.end() - 1
            was = chr(data[at])
            data[at] ^= 1
            bundle.write_bytes(data)
            return f"byte {at} of {bundle.relative_to(log)}, a status {was} into {chr(data[at])}"
    raise ValueError("the log holds no request")


def count_records(log: Path, vkey: str) -> dict[str, int]:
    """Count what a log's entries are of: requests with one of their own, sums of refusals, and the gateway itself."""
    reader = LogReader.open(log, parse_vkey(vkey))
    entries = [parse(entry) for entry in reader.entries(0, reader.checkpoint.size)]
    sums = [entry["count"] for entry in entries if "count" in entry]
    requests = sum(entry.get("method") == INFER for entry in entries)
    own = len(entries) - len(sums) - requests
    return {"requests": requests, "sums": len(sums), "summed": sum(sums), "own": own}


def measured_accuracy(directory: Path) -> float:
    """Return what the model was measured at on the whole test set: its signed manifest says so."""
    manifest = json.loads((directory / "bundles/kiosk/1/manifest.json").read_bytes())
    return float(manifest["metrics"]["accuracy"])
