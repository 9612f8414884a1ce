"""`stockade init|check|serve|recorder`: a directory is made, looked at, and run."""

from __future__ import annotations

import json
import os
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gateway.cli.verbs import verb
from gateway.tools.arguments import first_port
from gateway.tools.terminal import EX_NO, fail, out, print_json

if TYPE_CHECKING:
    import argparse


def add_init(verbs: Any) -> None:
    init = verb(verbs, "init", run_init, "make a working, secure directory: certificates, keys, both files")
    init.add_argument("directory", type=Path, metavar="DIR")
    init.add_argument("--host", action="append", default=[], metavar="NAME", help="another name that clients use")
    init.add_argument(
        "--listen", default="127.0.0.1", metavar="HOST", help="where clients connect (default: 127.0.0.1)"
    )
    init.add_argument(
        "--port",
        type=first_port,
        metavar="N",
        help="first of four ports: data N, metrics N+1, admin N+2, data_mtls N+3 (default: 8001; 0: any free ones)",
    )
    init.add_argument("--bundles", type=Path, help="signed models to copy (default: those that come with the project)")
    init.add_argument(
        "--upstream", metavar="ADDRESS", help="a server that runs the model: Triton, MLServer, KServe; needs --model"
    )
    init.add_argument("--model", metavar="NAME[/VERSION]", help="what that model is called here (version: 1)")
    init.add_argument("--json", action="store_true", help="print the result as JSON")


def run_init(options: argparse.Namespace) -> int:
    from gateway.tools.init.init import InitRefused, Ports, Upstream, init_directory
    from gateway.tools.init.report import render
    from gateway.tools.samples import bundles_directory

    if (options.upstream is None) != (options.model is None):
        return fail("--upstream and --model belong together")
    name, _, number = (options.model or "").partition("/")
    try:
        report = init_directory(
            options.directory,
            now=datetime.now(UTC),
            random_bytes=os.urandom,
            hosts=options.host,
            listen_host=options.listen,
            ports=Ports() if options.port is None else Ports.from_first(options.port),
            bundles=options.bundles or bundles_directory(),
            upstream=Upstream(options.upstream, name, number or "1") if options.upstream else None,
        )
    except (InitRefused, OSError) as problem:
        return fail(problem)
    if options.json:
        print_json(report.as_json())
    else:
        render(report, out)
    return 0


def add_check(verbs: Any) -> None:
    check = verb(verbs, "check", run_check, "check a configuration without starting it")
    check.add_argument("file", type=Path, metavar="FILE", help="stockade.yaml")
    add_profile(check)
    check.add_argument("--json", action="store_true", help="print findings and the effective configuration as JSON")


def add_profile(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--profile", metavar="NAME", help="other defaults: standard, edge (default: as the file says)")


def run_check(options: argparse.Namespace) -> int:
    from gateway.tools.check.check import check, render

    report = check(options.file, datetime.now(UTC), options.profile)
    if options.json:
        print_json(report.as_json())
    else:
        render(report, out)
    return 0 if report.ok else EX_NO


def add_serve(verbs: Any) -> None:
    serve = verb(verbs, "serve", run_serve, "run a gateway: recorder, workers, admin port, metrics")
    serve.epilog = "Exit codes: 0 told to stop; 1 it ran and could not go on; 2 it could not start."
    serve.add_argument("file", type=Path, metavar="FILE", help="stockade.yaml")
    add_profile(serve)


def run_serve(options: argparse.Namespace) -> int:
    import uvloop

    from gateway.config.document import FileRejected
    from gateway.edge.server import ListenFailed
    from gateway.host.occupancy import DirectoryInUse
    from gateway.host.serve import WentDown, serve
    from gateway.host.supervisor import StartFailed
    from ops.audit.errors import AuditError
    from serving.errors import ServingError

    def announce(facts: dict[str, Any]) -> None:
        sys.stdout.write(json.dumps(facts) + "\n")
        sys.stdout.flush()

    try:
        return uvloop.run(serve(options.file.absolute(), announce, options.profile))
    except WentDown as problem:
        return fail(problem, EX_NO)
    except (FileRejected, ServingError, AuditError, DirectoryInUse, StartFailed, ListenFailed, OSError) as problem:
        return fail(problem)


def add_recorder(verbs: Any) -> None:
    recorder = verb(verbs, "recorder", run_recorder, "run the recorder alone, where audit.recorder is external")
    recorder.epilog = "Exit codes: 0 told to stop; 2 the file cannot be used; 65 to 76 as in docs/how-to/operations.md."
    recorder.add_argument("file", type=Path, metavar="FILE", help="stockade.yaml")
    add_profile(recorder)


def run_recorder(options: argparse.Namespace) -> int:
    from gateway.config.document import FileRejected
    from gateway.host.recorder import RecorderManaged, run_alone

    try:
        return run_alone(options.file.absolute(), options.profile)
    except (FileRejected, RecorderManaged) as problem:
        return fail(problem)
