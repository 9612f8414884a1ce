"""`stockade audit`: what works on a log's files. What asks a running gateway is in `gateway.cli.operations`."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import typer

from gateway.cli.arguments import (
    A_LOG,
    A_POLICY,
    A_REPLICA,
    CREDENTIALS,
    ENDPOINT,
    EPOCH,
    FILE,
    INDEX_MAX,
    JSON,
    LOG,
    LOG_KEY,
    REGION,
    SEEN,
    WHERE,
    Match,
    Moment,
    ago,
    argument,
    epoch,
    group,
    log_place,
    option,
    seconds,
    tool,
    whole,
)
from gateway.cli.operations import add_to

app = group("the tamper-evident log")
LINES_MAX = 1_000_000
ROWS_MAX = 10_000_000
MEMORY_MIB_MAX = 1 << 20


class Pin(NamedTuple):
    """A model, and the version that is to answer for it."""

    name: str
    version: str


def pin(text: str) -> Pin:
    """Read NAME=VERSION."""
    name, _, number = text.partition("=")
    if not (name and number):
        raise typer.BadParameter(f"{text!r} is not NAME=VERSION, such as kiosk=3")
    return Pin(name, number)


@tool(
    app,
    "verify",
    "gateway.tools.audit.verify_url",
    epilog="Exit codes: 0 verified; 1 tampered with; 2 incomplete; 3 stale; 4 not verified: wrong usage, another key,"
    " or files that cannot be read.",
)
def verify(
    directory: Path = argument("DIR", f"{A_LOG}; or a .tlog-proof file; or {A_REPLICA}", read=log_place),
    endpoint: str | None = ENDPOINT,
    region: str | None = REGION,
    credentials: Path | None = CREDENTIALS,
    vkey: list[str] = option("--vkey KEY", "the log's key, or a file that holds it", []),
    policy: Path | None = option("--policy FILE", A_POLICY, None),
    remembered: Path | None = option(
        "--remembered FILE", "a checkpoint seen earlier, or cosigned: the log must extend it", None
    ),
    stale_after: float | None = option("--stale-after SECONDS", "exit 3 when the newest entry is older", None, seconds),
    query: Path | None = option("--query INDEX", "an index of `audit query`: make it anew and compare", None),
    json: bool = JSON,
) -> None:
    """Verify a log, or a receipt, with nothing but its public key."""


@tool(
    app,
    "query",
    "gateway.tools.audit.query",
    epilog="Exit codes: 0 answered; 1 what lies there does not lead to a signed root; 4 usage, or a question refused.",
)
def query(
    log: Path = LOG,
    sql: str = argument("SQL", '"SELECT reason, count(*) FROM entries GROUP BY ALL"; "DESCRIBE entries"'),
    vkey: str | None = LOG_KEY,
    index: Path | None = option("--index DIR", "where the Parquet files are kept (default: LOG.index)", None),
    epoch: int | None = EPOCH,
    csv: bool = option("--csv", "print CSV", False),
    rows: int = option("--rows N", "at most (default: 10,000)", 10000, whole(1, ROWS_MAX)),
    timeout: float = option("--timeout SECONDS", "for the answer (default: 60)", 60.0, seconds),
    memory_mib: int = option("--memory-mib N", "for the answer (default: 1024)", 1024, whole(64, MEMORY_MIB_MAX)),
    json: bool = JSON,
) -> None:
    """Ask the log in SQL: one SELECT over the table `entries`."""


@tool(
    app,
    "replay",
    "gateway.tools.replay.verbs",
    epilog="Exit codes: 0 all that was compared is equal; 1 something differs, or the log was tampered with; 2 it is"
    " incomplete, or nothing could be compared; 4 usage, or something that cannot be used. What would be otherwise is"
    " no failure.",
)
def replay(
    log: Path = LOG,
    vkey: str | None = LOG_KEY,
    epoch: int | None = EPOCH,
    config: Path | None = option("--config FILE", "stockade.yaml (default: LOG/stockade.yaml)", None),
    policy: Path | None = option("--policy FILE", "what if this had been the policy? needs no signature", None),
    model: list[Pin] = option("--model NAME=VERSION", "what if it had answered?", [], pin),
    since: Moment | None = option("--from TIME", "2027-11-24T08:00:00Z, or 2h: ago", None, ago),
    until: Moment | None = option("--to TIME", "likewise (default: the end)", None, ago),
    where: list[Match] = WHERE,
    decisions_only: bool = option("--decisions-only", "leave out level R2, which runs models", False),
    page: Path | None = option("--page FILE", "write the report as an HTML page", None),
    record: bool = option("--record", "have the running gateway write the result into its log", False),
    identity: Path | None = option(
        "--identity PREFIX", "for --record: PREFIX.crt and PREFIX.key (clients/operator.tls)", None
    ),
    ca: Path | None = option("--ca FILE", "for --record: who signed the server's certificate, PEM", None),
    json: bool = JSON,
) -> None:
    """Do again what was recorded, and say what would be otherwise."""


@tool(
    app,
    "tail",
    "gateway.tools.audit.tail",
    epilog="Exit codes: 0 fine; 1 what lies there does not lead to a signed root; 4 usage.",
)
def tail(
    log: Path = LOG,
    vkey: str | None = LOG_KEY,
    lines: int = option(
        "-n, --lines N", "the newest to begin with, of which --where chooses (default: 10)", 10, whole(0, LINES_MAX)
    ),
    follow: bool = option("-f, --follow", "go on with what comes, until interrupted", False),
    where: list[Match] = WHERE,
    json: bool = JSON,
) -> None:
    """Print the newest entries, and those that come; each is proved."""


@tool(
    app,
    "mirror",
    "gateway.tools.audit.mirror",
    epilog="Exit codes: 0 up to date; 1 refused: a fork, an older copy, or tampered with; 2 incomplete; 4 usage.",
)
def mirror(
    log: Path = LOG,
    mirror: Path = argument("MIRROR", "the copy; made when it is not there"),
    vkey: str | None = LOG_KEY,
    json: bool = JSON,
) -> None:
    """Bring a copy of a log up to date, checked, and only ever forward."""


@tool(app, "epochs", "gateway.tools.audit.epochs:run_list")
def epochs(
    log: Path = LOG,
    vkey: str | None = LOG_KEY,
    config: Path | None = option(
        "--config FILE", "stockade.yaml: also say where entries are, and which holds keep them", None
    ),
    json: bool = JSON,
) -> None:
    """List the epochs of a log, and what is here of each."""


@tool(
    app,
    "retain",
    "gateway.tools.audit.epochs:run_retain",
    epilog="Exit codes: 0 nothing more is due; 2 something keeps an epoch that is due; 4 usage.",
)
def retain(
    file: Path = FILE, dry_run: bool = option("--dry-run", "only say what is due", False), json: bool = JSON
) -> None:
    """Drop the entries of epochs that are old enough."""


@tool(
    app,
    "prove",
    "gateway.tools.audit.witness:prove",
    epilog="Exit codes: 0 written; 2 the checkpoint has no such entry; 4 usage.",
)
def prove(
    log: Path = LOG,
    index: int = argument("INDEX", "the entry's number, from 0", read=whole(0, INDEX_MAX)),
    vkey: str | None = LOG_KEY,
    epoch: int | None = EPOCH,
    checkpoint: Path | None = option("--checkpoint FILE", "a cosigned one (default: the log's newest)", None),
    out: Path | None = option("--out FILE", "where it goes (default: INDEX.tlog-proof)", None),
    json: bool = JSON,
) -> None:
    """Write the receipt of an entry (.tlog-proof)."""


@tool(
    app,
    "cosign",
    "gateway.tools.audit.witness:cosign",
    epilog="Exit codes: 0 cosigned by the quorum; 1 a witness has seen another log; 2 no quorum; 4 usage.",
)
def cosign(
    log: Path = LOG,
    policy: Path = option("--policy FILE", f"{A_POLICY}, with their URLs"),
    out: Path = option("--out FILE", "where the cosigned checkpoint goes"),
    timeout: float = option("--timeout SECONDS", "for all witnesses together (default: 10)", 10.0, seconds),
    json: bool = JSON,
) -> None:
    """Have witnesses cosign the newest checkpoint."""


@tool(
    app,
    "restore",
    "gateway.tools.audit.restore",
    epilog="Exit codes: 0 restored, nothing newer is known; 1 a fork, or tampered with; 2 incomplete: call again with"
    " another copy; 3 restored, and a larger tree is known: the origin is sealed; 4 usage.",
)
def restore(
    sources: list[Any] = option("--from DIR", f"what is left: a copy, or {A_REPLICA}", read=log_place),
    out: Path = option("--out DIR", "where it goes; not a running log's"),
    endpoint: str | None = ENDPOINT,
    region: str | None = REGION,
    credentials: Path | None = CREDENTIALS,
    epoch: int | None = epoch("all of them"),
    vkey: str | None = LOG_KEY,
    policy: Path | None = option("--policy FILE", f"{A_POLICY}; its witnesses are asked", None),
    seen: list[Path] = SEEN,
    target: str = option("--target WHAT", "newest, an index, a time, or a file with a checkpoint", "newest"),
    go_on: bool = option("--go-on", "nothing came after what is here: the origin may go on", False),
    next: Path | None = option("--next KEY", "of `keys log`: begin the log that follows under it", None),
    timeout: float = option("--timeout SECONDS", "for each witness (default: 10)", 10.0, seconds),
    json: bool = JSON,
) -> None:
    """Bring a log back from what is left of it, by hash."""
    if go_on and next is not None:
        raise typer.BadParameter("--go-on is not allowed with --next")


@tool(app, "witness", "gateway.tools.audit.witness:witness")
def witness(
    key: list[Path] = option("--key FILE", "of `keys witness`"),
    policy: Path = option("--policy FILE", "the logs to watch: its `log` lines"),
    store: Path = option("--store FILE", "database; never lose it"),
    listen: str = option("--listen HOST:PORT", "plain HTTP (default: 127.0.0.1:8008)", "127.0.0.1:8008"),
) -> None:
    """Watch other people's logs, and cosign them."""


add_to(app, "audit")
