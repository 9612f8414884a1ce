"""`stockade init|check|serve|recorder|client|demo|restore`: verbs without a group of their own."""

from __future__ import annotations

import json
import os
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from gateway.cli.arguments import (
    A_REPLICA,
    CREDENTIALS,
    ENDPOINT,
    FILE,
    JSON,
    REGION,
    SEEN,
    argument,
    command,
    first_port,
    group,
    log_place,
    option,
    tool,
    whole,
)
from gateway.cli.backup import BACKUP_KEY, CHOSEN, EXITS, REPOSITORY

app = group("")
IMAGES_MAX = 1_000_000
PROFILE = option("--profile NAME", "other defaults: standard, edge (default: as the file says)", None)


@command(app, "init")
def init(
    directory: Path = argument("DIR"),
    host: list[str] = option("--host NAME", "another name that clients use", []),
    listen: str = option("--listen HOST", "where clients connect (default: 127.0.0.1)", "127.0.0.1"),
    port: int | None = option(
        "--port N",
        "first of four ports: data N, metrics N+1, admin N+2, data_mtls N+3 (default: 8001; 0: any free ones)",
        None,
        first_port,
    ),
    bundles: Path | None = option(
        "--bundles DIR", "signed models to copy (default: those that come with the project)", None
    ),
    upstream: str | None = option(
        "--upstream ADDRESS", "a server that runs the model: Triton, MLServer, KServe; needs --model", None
    ),
    model: str | None = option("--model NAME[/VERSION]", "what that model is called here (version: 1)", None),
    json: bool = JSON,
) -> int:
    """Make a working, secure directory: certificates, keys, both files."""
    from gateway.tools.init.files import Ports, Upstream
    from gateway.tools.init.init import InitRefused, init_directory
    from gateway.tools.init.report import render
    from gateway.tools.samples import bundles_directory
    from gateway.tools.terminal import fail, out, print_json

    if (upstream is None) != (model is None):
        return fail("--upstream and --model belong together")
    name, _, number = (model or "").partition("/")
    try:
        report = init_directory(
            directory,
            now=datetime.now(UTC),
            random_bytes=os.urandom,
            hosts=host,
            listen_host=listen,
            ports=Ports() if port is None else Ports.from_first(port),
            bundles=bundles or bundles_directory(),
            upstream=Upstream(upstream, name, number or "1") if upstream else None,
        )
    except (InitRefused, OSError) as problem:
        return fail(problem)
    if json:
        print_json(report.as_json())
    else:
        render(report, out)
    return 0


@command(app, "check")
def check(file: Path = FILE, profile: str | None = PROFILE, json: bool = JSON) -> int:
    """Check a configuration without starting it."""
    from gateway.tools.check.check import check, render
    from gateway.tools.terminal import EX_NO, out, print_json

    report = check(file, datetime.now(UTC), profile)
    if json:
        print_json(report.as_json())
    else:
        render(report, out)
    return 0 if report.ok else EX_NO


@command(app, "serve", epilog="Exit codes: 0 told to stop; 1 it ran and could not go on; 2 it could not start.")
def serve(file: Path = FILE, profile: str | None = PROFILE) -> int:
    """Run a gateway: recorder, workers, admin port, metrics."""
    import uvloop

    from gateway.config.document import FileRejected
    from gateway.edge.server import ListenFailed
    from gateway.host.occupancy import DirectoryInUse
    from gateway.host.serve import WentDown, serve
    from gateway.host.supervisor import StartFailed
    from gateway.tools.terminal import EX_NO, fail
    from ops.audit.errors import AuditError
    from serving.errors import ServingError

    def announce(facts: dict[str, Any]) -> None:
        sys.stdout.write(json.dumps(facts) + "\n")
        sys.stdout.flush()

    try:
        return uvloop.run(serve(file.absolute(), announce, profile))
    except WentDown as problem:
        return fail(problem, EX_NO)
    except (FileRejected, ServingError, AuditError, DirectoryInUse, StartFailed, ListenFailed, OSError) as problem:
        return fail(problem)


@command(
    app,
    "recorder",
    epilog="Exit codes: 0 told to stop; 2 the file cannot be used; 65 to 76 as in docs/how-to/operations.md.",
)
def recorder(file: Path = FILE, profile: str | None = PROFILE) -> int:
    """Run the recorder alone, where audit.recorder is external."""
    from gateway.config.document import FileRejected
    from gateway.host.recorder import RecorderManaged, run_alone
    from gateway.tools.terminal import fail

    try:
        return run_alone(file.absolute(), profile)
    except (FileRejected, RecorderManaged) as problem:
        return fail(problem)


@tool(app, "client", "gateway.tools.client")
def client(
    directory: Path = argument("DIR", "a directory of `stockade init`"),
    address: str | None = option("--address ADDRESS", "host:port (default: the data port of DIR/stockade.yaml)", None),
    key: Path | None = option("--key FILE", "API key file (default: DIR/clients/kiosk-7.key)", None),
    images: Path | None = option(
        "--images FILE", "safetensors with images and labels (default: the committed 1,000)", None
    ),
    count: int = option("--count N", "how many to send (default: 10)", 10, whole(1, IMAGES_MAX)),
    json: bool = option("--json", "print answers as JSON lines", False),
) -> None:
    """Send images to a gateway and show its answers."""


@tool(app, "demo", "gateway.tools.demo")
def demo(
    report: Path | None = option("--report FILE", "write the results as JSON", None),
    page: Path = option("--page FILE", "page with plots (default: out/demo.html)", Path("out/demo.html")),
    keep: Path | None = option("--keep DIR", "keep the gateway's directory here", None),
    client_python: Path | None = option(
        "--client-python FILE", "Python with tritonclient (default: .venv-client)", None
    ),
    json: bool = option("--json", "print the report as JSON instead of tables", False),
) -> None:
    """Show the whole job: serve, attack, measure, verify, tamper."""


@tool(
    app,
    "restore",
    "gateway.tools.backup.backup:restore",
    epilog=f"{EXITS} 1 also: the log may not go on, because more of it is known than there is.",
)
def restore(
    repository: Path = REPOSITORY,
    key: Path = BACKUP_KEY,
    out: Path = option("--out DIR", "a directory that does not exist yet"),
    backup: str = CHOSEN,
    log_from: list[Any] = option("--log-from DIR", f"another copy of the log: a mirror, or {A_REPLICA}", [], log_place),
    endpoint: str | None = ENDPOINT,
    region: str | None = REGION,
    credentials: Path | None = CREDENTIALS,
    seen: list[Path] = SEEN,
    go_on: bool = option("--go-on", "nothing came after what the copies hold: the log's origin may go on", False),
    json: bool = JSON,
) -> None:
    """Put a backup into a new directory."""
