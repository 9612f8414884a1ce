"""The verbs under `stockade bench`, and their options. Light: what a verb needs is imported when it runs."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from gateway.tools.arguments import seconds, whole
from gateway.tools.bench.peers import PEERS, default_root
from gateway.tools.log_arguments import reaching_stores

COUNT_MAX = 1_000_000_000


def add_verbs(verbs: Any) -> None:
    """Add `serve`, `units`, `memory`, `edge`, `screens`, `models`, `audit`, `verify` and `peers` to `bench`."""
    _add_serve(verbs)
    _add_units(verbs)
    _add_memory(verbs)
    _add_edge(verbs)
    _add_screens(verbs)
    _add_models(verbs)
    _add_audit(verbs)
    _add_verify(verbs)
    _add_peers(verbs)


def _add_serve(verbs: Any) -> None:
    serve = _verb(verbs, "serve", _run_serve, "compare servers: throughput, latency and CPU time of one prediction")
    serve.add_argument("--report", type=Path, metavar="FILE", help="write everything measured as JSON")
    serve.add_argument("--targets", type=_names, metavar="A,B", help="only these (default: all that are installed)")
    serve.add_argument(
        "--rounds", type=whole(1, COUNT_MAX), default=3, help="rounds; each starts every target afresh (default: 3)"
    )
    serve.add_argument("--seconds", type=_seconds, default=5.0, help="length of each measurement (default: 5)")
    serve.add_argument("--quick", action="store_true", help="one round of two seconds: a look, not a figure to quote")
    serve.add_argument("--peers", type=Path, default=default_root(), metavar="DIR", help="where peers are installed")
    serve.add_argument("--json", action="store_true", help="print the report as JSON instead of a table")
    _add_places(serve)


def _add_units(verbs: Any) -> None:
    units = _verb(verbs, "units", _run_units, "what a request, a second and a tenant cost, by process and by stage")
    units.add_argument("--report", type=Path, metavar="FILE", help="write everything measured as JSON")
    units.add_argument("--rounds", type=whole(1, COUNT_MAX), default=3, help="rounds of each measurement (default: 3)")
    units.add_argument("--seconds", type=_seconds, default=5.0, help="length of each measurement (default: 5)")
    units.add_argument(
        "--quick", action="store_true", help="one round, less of everything: a look, not figures to quote"
    )
    units.add_argument("--tls", action="store_true", help="over TLS (default: plaintext, on loopback)")
    units.add_argument("--json", action="store_true", help="print the report as JSON instead of tables")
    _add_places(units)


def _add_memory(verbs: Any) -> None:
    memory = _verb(verbs, "memory", _run_memory, "watch a protected gateway's memory over many requests")
    memory.add_argument("--requests", type=whole(1, COUNT_MAX), default=500_000, help="how many (default: 500000)")
    memory.add_argument("--report", type=Path, metavar="FILE", help="write every sample as JSON")
    memory.add_argument("--json", action="store_true", help="print the report as JSON")
    _add_places(memory)


def _add_edge(verbs: Any) -> None:
    edge = _verb(verbs, "edge", _run_edge, "measure `--profile edge` on one core and within 300 MiB, with its cache")
    edge.add_argument("--requests", type=whole(1, COUNT_MAX), default=10_000, help="how many (default: 10000)")
    edge.add_argument("--repeat", type=_share, default=0.5, metavar="SHARE", help="of them asked before (default: 0.5)")
    edge.add_argument("--report", type=Path, metavar="FILE", help="write everything measured as JSON")
    edge.add_argument("--json", action="store_true", help="print the report as JSON")
    _add_places(edge)


def _add_screens(verbs: Any) -> None:
    screens = _verb(verbs, "screens", _run_screens, "what all screens together cost a request, and the throughput")
    screens.add_argument("--version", default="3", help="of the kiosk's model, with its calibrations (default: 3)")
    screens.add_argument("--rounds", type=whole(1, COUNT_MAX), default=3, help="rounds of each setting (default: 3)")
    screens.add_argument("--report", type=Path, metavar="FILE", help="write everything measured as JSON")
    screens.add_argument("--json", action="store_true", help="print the report as JSON")
    _add_places(screens)


def _add_models(verbs: Any) -> None:
    models = _verb(
        verbs, "models", _run_models, "what the models are worth, beside what is simpler; it trains, which takes long"
    )
    models.add_argument("--report", type=Path, metavar="FILE", help="write everything measured as JSON")
    models.add_argument(
        "--keep", type=Path, metavar="DIR", help="keep figures by part and seed: go on where it stopped"
    )
    models.add_argument("--only", type=_names, metavar="A,B", help="of clicks, credit, bundles")
    models.add_argument("--seeds", type=int, choices=[2, 3, 4, 5, 10], default=5, help="of each part (default: 5)")
    models.add_argument("--quick", action="store_true", help="little data, one epoch: a look, not figures to quote")
    models.add_argument("--clicks", type=Path, metavar="FILE", help="ecom.csv.gz (default: found or downloaded)")
    models.add_argument("--modeldata", type=Path, metavar="PATH", help="as of `stockade train payments --data`")
    models.add_argument("--bundles", type=Path, metavar="DIR", help="signed models (default: those of the project)")
    models.add_argument(
        "--trusted", type=Path, action="append", metavar="FILE", help="whose signatures count (default: DIR/*.pub)"
    )
    models.add_argument("--json", action="store_true", help="print the report as JSON instead of tables")


def _add_audit(verbs: Any) -> None:
    audit = _verb(
        verbs, "audit", _run_audit, "the audit log on a real disk: append, verify, start after a crash, restore"
    )
    audit.add_argument("--report", type=Path, metavar="FILE", help="write everything measured as JSON")
    audit.add_argument("--seconds", type=_seconds, default=10.0, help="of appending without payloads (default: 10)")
    audit.add_argument(
        "--payloads", type=whole(1, COUNT_MAX), default=50_000, help="appends with 2 KiB each (default: 50000)"
    )
    audit.add_argument(
        "--tail-mib", type=whole(1, 64), default=64, metavar="MIB", help="of log at the crash (default: 64)"
    )
    audit.add_argument(
        "--records", type=whole(1, COUNT_MAX), default=1_000_000, help="to verify and restore (default: 1000000)"
    )
    audit.add_argument("--requests", type=whole(1, COUNT_MAX), default=10_000, help="to replay (default: 10000)")
    audit.add_argument("--overload", type=_seconds, default=60.0, metavar="SECONDS", help="of a flood (default: 60)")
    audit.add_argument("--store", metavar="URL", help="s3://bucket/prefix: copy a log there, and restore it from there")
    reaching_stores(audit)
    audit.add_argument("--json", action="store_true", help="print the report as JSON instead of a table")
    audit.add_argument(
        "--workspace", type=Path, metavar="DIR", help="a real disk for the logs, some GiB (default: /var/tmp)"
    )


def _add_verify(verbs: Any) -> None:
    verify = _verb(verbs, "verify", _run_verify, "time the audit log's verifier on a large log")
    verify.add_argument(
        "--records", type=whole(1, COUNT_MAX), default=1_000_000, help="size of the log (default: 1000000)"
    )
    verify.add_argument("--report", type=Path, metavar="FILE", help="write the result as JSON")
    verify.add_argument("--json", action="store_true", help="print the report as JSON")
    verify.add_argument(
        "--workspace", type=Path, metavar="DIR", help="a disk with room for the log (default: /var/tmp)"
    )


def _add_peers(verbs: Any) -> None:
    peers = _verb(verbs, "peers", _run_peers, "say which peers are installed, or install them")
    peers.add_argument(
        "--install", type=Path, nargs="?", const=default_root(), metavar="DIR", help="install (default: %(const)s)"
    )
    peers.add_argument("--only", type=_names, metavar="A,B", help=f"of {', '.join(PEERS)}")


def _add_places(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("--bundles", type=Path, metavar="DIR", help="signed models (default: those of the project)")
    verb.add_argument("--workspace", type=Path, metavar="DIR", help="a real disk for the audit log (default: /var/tmp)")


def _verb(verbs: Any, name: str, run: Callable[[argparse.Namespace], int], text: str) -> argparse.ArgumentParser:
    added: argparse.ArgumentParser = verbs.add_parser(name, help=text, description=f"{text[0].upper()}{text[1:]}.")
    added.set_defaults(run=run)
    return added


def _names(text: str) -> tuple[str, ...]:
    return tuple(name for name in text.split(",") if name)


def _seconds(text: str) -> float:
    return seconds(text, 0.1, 3600.0)


def _share(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a share from 0 to 1")
    return value


def _run_serve(options: argparse.Namespace) -> int:
    from gateway.tools.bench.serve import run

    return run(options)


def _run_units(options: argparse.Namespace) -> int:
    from gateway.tools.bench.units import run

    return run(options)


def _run_memory(options: argparse.Namespace) -> int:
    from gateway.tools.bench.memory import run

    return run(options)


def _run_edge(options: argparse.Namespace) -> int:
    from gateway.tools.bench.edge import run

    return run(options)


def _run_screens(options: argparse.Namespace) -> int:
    from gateway.tools.bench.screens import run

    return run(options)


def _run_models(options: argparse.Namespace) -> int:
    from gateway.tools.bench.models import run

    return run(options)


def _run_audit(options: argparse.Namespace) -> int:
    from gateway.tools.bench.audit import run

    return run(options)


def _run_verify(options: argparse.Namespace) -> int:
    from gateway.tools.bench.verify import run

    return run(options)


def _run_peers(options: argparse.Namespace) -> int:
    from gateway.tools.bench.install import run

    return run(options)
