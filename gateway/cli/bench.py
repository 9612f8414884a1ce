"""`stockade bench`."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

from gateway.cli.arguments import (
    CREDENTIALS,
    ENDPOINT,
    JSON,
    REGION,
    Loose,
    command,
    decimal,
    group,
    option,
    seconds,
    whole,
)
from gateway.tools.bench.peers import PEERS, default_root

app = group("measure, beside the named peers")
COUNT_MAX = 1_000_000_000
ROOT = "~/.cache/stockade/peers"


def names(text: str) -> tuple[str, ...]:
    """Read A,B."""
    return tuple(name for name in text.split(",") if name)


def count(name: str, text: str, default: int) -> Any:
    """Declare an option that takes a number of things."""
    return option(f"{name} N", f"{text} (default: {default})", default, whole(1, COUNT_MAX))


def lasting(name: str, text: str, default: float) -> Any:
    """Declare an option that takes a number of seconds."""
    text = f"{text} (default: {default:g})"
    return option(f"{name} SECONDS", text, default, lambda value: seconds(value, 0.1, 3600.0))


def disk(text: str) -> Any:
    """Declare `--workspace`."""
    return option("--workspace DIR", f"{text} (default: /var/tmp)", None)


def measure(name: str, **more: Any) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Add a signature as a verb of the bench: the measure of that name gets its values."""

    def add(signature: Callable[..., None]) -> Any:
        @wraps(signature)
        def run(**values: Any) -> int:
            from gateway.tools.bench.measures import MEASURES

            return MEASURES[name].run(SimpleNamespace(**values))

        return command(app, name, **more)(run)

    return add


REPORT = option("--report FILE", "write everything measured as JSON", None)
ROUNDS = count("--rounds", "rounds of each measurement", 3)
LENGTH = lasting("--seconds", "length of each measurement", 5.0)
BUNDLES = option("--bundles DIR", "signed models (default: those of the project)", None)
WORKSPACE = disk("a real disk for the audit log")


@measure("serve")
def serve(
    report: Path | None = REPORT,
    targets: Any = option("--targets A,B", "only these (default: all that are installed)", None, names),
    rounds: int = count("--rounds", "rounds; each starts every target afresh", 3),
    seconds: float = LENGTH,
    quick: bool = option("--quick", "one round of two seconds: a look, not a figure to quote", False),
    peers: Path | None = option("--peers DIR", f"where peers are installed (default: {ROOT})", None),
    json: bool = JSON,
    bundles: Path | None = BUNDLES,
    workspace: Path | None = WORKSPACE,
) -> None:
    """Compare servers: throughput, latency and CPU time of one prediction."""


@measure("units")
def units(
    report: Path | None = REPORT,
    rounds: int = ROUNDS,
    seconds: float = LENGTH,
    quick: bool = option("--quick", "one round, less of everything: a look, not figures to quote", False),
    tls: bool = option("--tls", "over TLS (default: plaintext, on loopback)", False),
    json: bool = JSON,
    bundles: Path | None = BUNDLES,
    workspace: Path | None = WORKSPACE,
) -> None:
    """What a request, a second and a tenant cost, by process and by stage."""


@measure("memory")
def memory(
    requests: int = count("--requests", "how many", 500000),
    report: Path | None = option("--report FILE", "write every sample as JSON", None),
    json: bool = JSON,
    bundles: Path | None = BUNDLES,
    workspace: Path | None = WORKSPACE,
) -> None:
    """Watch a protected gateway's memory over many requests."""


@measure("edge")
def edge(
    requests: int = count("--requests", "how many", 10000),
    repeat: float = option(
        "--repeat SHARE", "of them asked before (default: 0.5)", 0.5, decimal(0, 1, "a share from 0 to 1")
    ),
    report: Path | None = REPORT,
    json: bool = JSON,
    bundles: Path | None = BUNDLES,
    workspace: Path | None = WORKSPACE,
) -> None:
    """Measure `--profile edge` on one core and within 300 MiB, with its cache."""


@measure("screens")
def screens(
    version: str = option("--version N", "of the kiosk's model, with its calibrations (default: 3)", "3"),
    rounds: int = count("--rounds", "rounds of each setting", 3),
    report: Path | None = REPORT,
    json: bool = JSON,
    bundles: Path | None = BUNDLES,
    workspace: Path | None = WORKSPACE,
) -> None:
    """What all screens together cost a request, and the throughput."""


@measure("models")
def models(
    report: Path | None = REPORT,
    keep: Path | None = option("--keep DIR", "keep figures by part and seed: go on where it stopped", None),
    only: Any = option("--only A,B", "of sparsity, clicks, credit, bundles", None, names),
    seeds: Literal[2, 3, 4, 5, 10] = option("--seeds", "of each part (default: 5)", 5),
    units: Literal[16384, 24576, 32768] = option(
        "--units", "of the dense one of `sparsity`; an expert has 1,024 (default: 16384)", 16384
    ),
    quick: bool = option("--quick", "little data, one epoch: a look, not figures to quote", False),
    places: Path | None = option("--places FILE", "cities1000.json (default: found or downloaded)", None),
    clicks: Path | None = option("--clicks FILE", "ecom.csv.gz (default: found or downloaded)", None),
    modeldata: Path | None = option("--modeldata PATH", "as of `stockade train payments --data`", None),
    bundles: Path | None = BUNDLES,
    trusted: list[Path] | None = option("--trusted FILE", "whose signatures count (default: DIR/*.pub)", None),
    json: bool = JSON,
) -> None:
    """What the models are worth, beside what is simpler; it trains, which takes long."""


@measure("audit")
def audit(
    report: Path | None = REPORT,
    seconds: float = lasting("--seconds", "of appending without payloads", 10.0),
    payloads: int = count("--payloads", "appends with 2 KiB each", 50000),
    tail_mib: int = option("--tail-mib MIB", "of log at the crash (default: 64)", 64, whole(1, 64)),
    records: int = count("--records", "to verify and restore", 1000000),
    requests: int = count("--requests", "to replay", 10000),
    overload: float = lasting("--overload", "of a flood", 60.0),
    store: str | None = option("--store URL", "s3://bucket/prefix: copy a log there, and restore it from there", None),
    endpoint: str | None = ENDPOINT,
    region: str | None = REGION,
    credentials: Path | None = CREDENTIALS,
    json: bool = JSON,
    workspace: Path | None = disk("a real disk for the logs, some GiB"),
) -> None:
    """The audit log on a real disk: append, verify, start after a crash, restore."""


@measure("verify")
def verify(
    records: int = count("--records", "size of the log", 1000000),
    report: Path | None = option("--report FILE", "write the result as JSON", None),
    json: bool = JSON,
    workspace: Path | None = disk("a disk with room for the log"),
) -> None:
    """Time the audit log's verifier on a large log."""


@measure("peers", cls=Loose)
def peers(
    install: Path | None = option(
        "--install [DIR]", f"install (default: {ROOT})", None, lambda text: Path(text) if text else default_root()
    ),
    only: Any = option("--only A,B", f"of {', '.join(PEERS)}", None, names),
) -> None:
    """Say which peers are installed, or install them."""
