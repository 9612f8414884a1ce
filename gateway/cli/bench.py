"""`stockade bench`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from gateway.cli.arguments import (
    Credentials,
    Endpoint,
    Json,
    Loose,
    Region,
    decimal,
    group,
    option,
    seconds,
    tool,
    whole,
)
from gateway.tools.bench.peers import PEERS, default_root

app = group("measure, beside the named peers")
COUNT_MAX = 1_000_000_000
ROOT = default_root()


def names(text: str) -> tuple[str, ...]:
    """Read A,B."""
    return tuple(name for name in text.split(",") if name)


def count(name: str, text: str) -> Any:
    """Declare an option that takes a number of things."""
    return option(name, read=whole(1, COUNT_MAX), metavar="N", help=text)


def lasting(name: str, text: str) -> Any:
    """Declare an option that takes a number of seconds."""
    return option(name, read=lambda value: seconds(value, 0.1, 3600.0), metavar="SECONDS", help=text)


def disk(text: str) -> Any:
    """Declare `--workspace`."""
    return option("--workspace", metavar="DIR", help=f"{text} (default: /var/tmp)")


Report = Annotated[Path | None, option("--report", metavar="FILE", help="write everything measured as JSON")]
Rounds = Annotated[int, count("--rounds", "rounds of each measurement (default: 3)")]
Length = Annotated[float, lasting("--seconds", "length of each measurement (default: 5)")]
Bundles = Annotated[
    Path | None, option("--bundles", metavar="DIR", help="signed models (default: those of the project)")
]
Workspace = Annotated[Path | None, disk("a real disk for the audit log")]


@tool(app, "serve", "gateway.tools.bench.serve")
def serve(
    report: Report = None,
    targets: Annotated[
        Any, option("--targets", read=names, metavar="A,B", help="only these (default: all that are installed)")
    ] = None,
    rounds: Annotated[int, count("--rounds", "rounds; each starts every target afresh (default: 3)")] = 3,
    seconds: Length = 5.0,
    quick: Annotated[bool, option("--quick", help="one round of two seconds: a look, not a figure to quote")] = False,
    peers: Annotated[Path, option("--peers", metavar="DIR", help="where peers are installed")] = ROOT,
    json: Json = False,
    bundles: Bundles = None,
    workspace: Workspace = None,
) -> None:
    """Compare servers: throughput, latency and CPU time of one prediction."""


@tool(app, "units", "gateway.tools.bench.units")
def units(
    report: Report = None,
    rounds: Rounds = 3,
    seconds: Length = 5.0,
    quick: Annotated[
        bool, option("--quick", help="one round, less of everything: a look, not figures to quote")
    ] = False,
    tls: Annotated[bool, option("--tls", help="over TLS (default: plaintext, on loopback)")] = False,
    json: Json = False,
    bundles: Bundles = None,
    workspace: Workspace = None,
) -> None:
    """What a request, a second and a tenant cost, by process and by stage."""


@tool(app, "memory", "gateway.tools.bench.memory")
def memory(
    requests: Annotated[int, count("--requests", "how many (default: 500000)")] = 500_000,
    report: Annotated[Path | None, option("--report", metavar="FILE", help="write every sample as JSON")] = None,
    json: Json = False,
    bundles: Bundles = None,
    workspace: Workspace = None,
) -> None:
    """Watch a protected gateway's memory over many requests."""


@tool(app, "edge", "gateway.tools.bench.edge")
def edge(
    requests: Annotated[int, count("--requests", "how many (default: 10000)")] = 10_000,
    repeat: Annotated[
        float,
        option(
            "--repeat",
            read=decimal(0, 1, "a share from 0 to 1"),
            metavar="SHARE",
            help="of them asked before (default: 0.5)",
        ),
    ] = 0.5,
    report: Report = None,
    json: Json = False,
    bundles: Bundles = None,
    workspace: Workspace = None,
) -> None:
    """Measure `--profile edge` on one core and within 300 MiB, with its cache."""


@tool(app, "screens", "gateway.tools.bench.screens")
def screens(
    version: Annotated[
        str, option("--version", metavar="N", help="of the kiosk's model, with its calibrations (default: 3)")
    ] = "3",
    rounds: Annotated[int, count("--rounds", "rounds of each setting (default: 3)")] = 3,
    report: Report = None,
    json: Json = False,
    bundles: Bundles = None,
    workspace: Workspace = None,
) -> None:
    """What all screens together cost a request, and the throughput."""


@tool(app, "models", "gateway.tools.bench.models")
def models(
    report: Report = None,
    keep: Annotated[
        Path | None, option("--keep", metavar="DIR", help="keep figures by part and seed: go on where it stopped")
    ] = None,
    only: Annotated[
        Any,
        option(
            "--only",
            read=names,
            metavar="A,B",
            help="of sparsity, ranking, clicks, few, hidden, credit, bundles",
        ),
    ] = None,
    seeds: Annotated[Literal[2, 3, 4, 5, 10], option("--seeds", help="of each part (default: 5)")] = 5,
    units: Annotated[
        Literal[16_384, 24_576, 32_768],
        option("--units", help="of the dense one of `sparsity`; an expert has 1,024 (default: 16384)"),
    ] = 16_384,
    quick: Annotated[bool, option("--quick", help="little data, one epoch: a look, not figures to quote")] = False,
    places: Annotated[
        Path | None, option("--places", metavar="FILE", help="cities1000.json (default: found or downloaded)")
    ] = None,
    movielens: Annotated[
        Path | None, option("--movielens", metavar="FILE", help="ml-100k.inter (default: found or downloaded)")
    ] = None,
    clicks: Annotated[
        Path | None, option("--clicks", metavar="FILE", help="ecom.csv.gz (default: found or downloaded)")
    ] = None,
    images: Annotated[
        Path | None, option("--images", metavar="DIR", help="as of `stockade train kiosk --data`")
    ] = None,
    modeldata: Annotated[
        Path | None, option("--modeldata", metavar="PATH", help="as of `stockade train payments --data`")
    ] = None,
    bundles: Bundles = None,
    trusted: Annotated[
        list[Path] | None, option("--trusted", metavar="FILE", help="whose signatures count (default: DIR/*.pub)")
    ] = None,
    json: Json = False,
) -> None:
    """What the models are worth, beside what is simpler; it trains, which takes long."""


@tool(app, "audit", "gateway.tools.bench.audit")
def audit(
    report: Report = None,
    seconds: Annotated[float, lasting("--seconds", "of appending without payloads (default: 10)")] = 10.0,
    payloads: Annotated[int, count("--payloads", "appends with 2 KiB each (default: 50000)")] = 50_000,
    tail_mib: Annotated[
        int, option("--tail-mib", read=whole(1, 64), metavar="MIB", help="of log at the crash (default: 64)")
    ] = 64,
    records: Annotated[int, count("--records", "to verify and restore (default: 1000000)")] = 1_000_000,
    requests: Annotated[int, count("--requests", "to replay (default: 10000)")] = 10_000,
    overload: Annotated[float, lasting("--overload", "of a flood (default: 60)")] = 60.0,
    store: Annotated[
        str | None,
        option("--store", metavar="URL", help="s3://bucket/prefix: copy a log there, and restore it from there"),
    ] = None,
    endpoint: Endpoint = None,
    region: Region = None,
    credentials: Credentials = None,
    json: Json = False,
    workspace: Annotated[Path | None, disk("a real disk for the logs, some GiB")] = None,
) -> None:
    """The audit log on a real disk: append, verify, start after a crash, restore."""


@tool(app, "verify", "gateway.tools.bench.verify")
def verify(
    records: Annotated[int, count("--records", "size of the log (default: 1000000)")] = 1_000_000,
    report: Annotated[Path | None, option("--report", metavar="FILE", help="write the result as JSON")] = None,
    json: Json = False,
    workspace: Annotated[Path | None, disk("a disk with room for the log")] = None,
) -> None:
    """Time the audit log's verifier on a large log."""


@tool(app, "peers", "gateway.tools.bench.install", cls=Loose)
def peers(
    install: Annotated[
        Path | None,
        option(
            "--install",
            read=lambda text: Path(text) if text else default_root(),
            metavar="[DIR]",
            help=f"install (default: {ROOT})",
        ),
    ] = None,
    only: Annotated[Any, option("--only", read=names, metavar="A,B", help=f"of {', '.join(PEERS)}")] = None,
) -> None:
    """Say which peers are installed, or install them."""
