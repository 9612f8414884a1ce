"""`stockade audit`: what works on a log's files. What asks a running gateway is in `gateway.cli.operations`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, NamedTuple

import typer

from gateway.cli.arguments import (
    A_LOG,
    A_POLICY,
    A_REPLICA,
    INDEX_MAX,
    Credentials,
    Endpoint,
    Epoch,
    File,
    Json,
    Log,
    LogKey,
    Moment,
    Region,
    Seen,
    Where,
    ago,
    argument,
    config,
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
    directory: Annotated[Path, argument("DIR", f"{A_LOG}; or a .tlog-proof file; or {A_REPLICA}", read=log_place)],
    endpoint: Endpoint = None,
    region: Region = None,
    credentials: Credentials = None,
    vkey: Annotated[list[str], option("--vkey", metavar="KEY", help="the log's key, or a file that holds it")] = [],
    policy: Annotated[Path | None, option("--policy", metavar="FILE", help=A_POLICY)] = None,
    remembered: Annotated[
        Path | None,
        option("--remembered", metavar="FILE", help="a checkpoint seen earlier, or cosigned: the log must extend it"),
    ] = None,
    stale_after: Annotated[
        float | None,
        option("--stale-after", read=seconds, metavar="SECONDS", help="exit 3 when the newest entry is older"),
    ] = None,
    query: Annotated[
        Path | None,
        option("--query", metavar="INDEX", help="an index of `audit query`: make it anew and compare"),
    ] = None,
    json: Json = False,
) -> None:
    """Verify a log, or a receipt, with nothing but its public key."""


@tool(
    app,
    "query",
    "gateway.tools.audit.query",
    epilog="Exit codes: 0 answered; 1 what lies there does not lead to a signed root; 4 usage, or a question refused.",
)
def query(
    log: Log,
    sql: Annotated[str, argument("SQL", '"SELECT reason, count(*) FROM entries GROUP BY ALL"; "DESCRIBE entries"')],
    vkey: LogKey = None,
    index: Annotated[
        Path | None, option("--index", metavar="DIR", help="where the Parquet files are kept (default: LOG.index)")
    ] = None,
    epoch: Epoch = None,
    csv: Annotated[bool, option("--csv", help="print CSV")] = False,
    rows: Annotated[
        int, option("--rows", read=whole(1, ROWS_MAX), metavar="N", help="at most (default: 10,000)")
    ] = 10_000,
    timeout: Annotated[
        float, option("--timeout", read=seconds, metavar="SECONDS", help="for the answer (default: 60)")
    ] = 60.0,
    memory_mib: Annotated[
        int, option("--memory-mib", read=whole(64, MEMORY_MIB_MAX), metavar="N", help="for the answer (default: 1024)")
    ] = 1024,
    json: Json = False,
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
    log: Log,
    vkey: LogKey = None,
    epoch: Epoch = None,
    config: Annotated[Path | None, config("stockade.yaml (default: LOG/stockade.yaml)")] = None,
    policy: Annotated[
        Path | None,
        option("--policy", metavar="FILE", help="what if this had been the policy? needs no signature"),
    ] = None,
    model: Annotated[
        list[Pin], option("--model", read=pin, metavar="NAME=VERSION", help="what if it had answered?")
    ] = [],
    since: Annotated[
        Moment | None, option("--from", read=ago, metavar="TIME", help="2027-11-24T08:00:00Z, or 2h: ago")
    ] = None,
    until: Annotated[
        Moment | None, option("--to", read=ago, metavar="TIME", help="likewise (default: the end)")
    ] = None,
    where: Where = [],
    decisions_only: Annotated[bool, option("--decisions-only", help="leave out level R2, which runs models")] = False,
    page: Annotated[Path | None, option("--page", metavar="FILE", help="write the report as an HTML page")] = None,
    record: Annotated[bool, option("--record", help="have the running gateway write the result into its log")] = False,
    identity: Annotated[
        Path | None,
        option("--identity", metavar="PREFIX", help="for --record: PREFIX.crt and PREFIX.key (clients/operator.tls)"),
    ] = None,
    ca: Annotated[
        Path | None,
        option("--ca", metavar="FILE", help="for --record: who signed the server's certificate, PEM"),
    ] = None,
    json: Json = False,
) -> None:
    """Do again what was recorded, and say what would be otherwise."""


@tool(
    app,
    "tail",
    "gateway.tools.audit.tail",
    epilog="Exit codes: 0 fine; 1 what lies there does not lead to a signed root; 4 usage.",
)
def tail(
    log: Log,
    vkey: LogKey = None,
    lines: Annotated[
        int,
        option(
            "-n",
            "--lines",
            read=whole(0, LINES_MAX),
            metavar="N",
            help="the newest to begin with, of which --where chooses (default: 10)",
        ),
    ] = 10,
    follow: Annotated[bool, option("-f", "--follow", help="go on with what comes, until interrupted")] = False,
    where: Where = [],
    json: Json = False,
) -> None:
    """Print the newest entries, and those that come; each is proved."""


@tool(
    app,
    "mirror",
    "gateway.tools.audit.mirror",
    epilog="Exit codes: 0 up to date; 1 refused: a fork, an older copy, or tampered with; 2 incomplete; 4 usage.",
)
def mirror(
    log: Log,
    mirror: Annotated[Path, argument("MIRROR", "the copy; made when it is not there")],
    vkey: LogKey = None,
    json: Json = False,
) -> None:
    """Bring a copy of a log up to date, checked, and only ever forward."""


@tool(app, "epochs", "gateway.tools.audit.epochs:run_list")
def epochs(
    log: Log,
    vkey: LogKey = None,
    config: Annotated[
        Path | None, config("stockade.yaml: also say where entries are, and which holds keep them")
    ] = None,
    json: Json = False,
) -> None:
    """List the epochs of a log, and what is here of each."""


@tool(
    app,
    "retain",
    "gateway.tools.audit.epochs:run_retain",
    epilog="Exit codes: 0 nothing more is due; 2 something keeps an epoch that is due; 4 usage.",
)
def retain(
    file: File,
    dry_run: Annotated[bool, option("--dry-run", help="only say what is due")] = False,
    json: Json = False,
) -> None:
    """Drop the entries of epochs that are old enough."""


@tool(
    app,
    "prove",
    "gateway.tools.audit.witness:prove",
    epilog="Exit codes: 0 written; 2 the checkpoint has no such entry; 4 usage.",
)
def prove(
    log: Log,
    index: Annotated[int, argument("INDEX", "the entry's number, from 0", read=whole(0, INDEX_MAX))],
    vkey: LogKey = None,
    epoch: Epoch = None,
    checkpoint: Annotated[
        Path | None, option("--checkpoint", metavar="FILE", help="a cosigned one (default: the log's newest)")
    ] = None,
    out: Annotated[
        Path | None, option("--out", metavar="FILE", help="where it goes (default: INDEX.tlog-proof)")
    ] = None,
    json: Json = False,
) -> None:
    """Write the receipt of an entry (.tlog-proof)."""


@tool(
    app,
    "cosign",
    "gateway.tools.audit.witness:cosign",
    epilog="Exit codes: 0 cosigned by the quorum; 1 a witness has seen another log; 2 no quorum; 4 usage.",
)
def cosign(
    log: Log,
    *,
    policy: Annotated[Path, option("--policy", metavar="FILE", help=f"{A_POLICY}, with their URLs")],
    out: Annotated[Path, option("--out", metavar="FILE", help="where the cosigned checkpoint goes")],
    timeout: Annotated[
        float,
        option("--timeout", read=seconds, metavar="SECONDS", help="for all witnesses together (default: 10)"),
    ] = 10.0,
    json: Json = False,
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
    sources: Annotated[
        list[Any], option("--from", read=log_place, metavar="DIR", help=f"what is left: a copy, or {A_REPLICA}")
    ],
    out: Annotated[Path, option("--out", metavar="DIR", help="where it goes; not a running log's")],
    endpoint: Endpoint = None,
    region: Region = None,
    credentials: Credentials = None,
    epoch: Annotated[int | None, epoch("all of them")] = None,
    vkey: LogKey = None,
    policy: Annotated[
        Path | None, option("--policy", metavar="FILE", help=f"{A_POLICY}; its witnesses are asked")
    ] = None,
    seen: Seen = [],
    target: Annotated[
        str, option("--target", metavar="WHAT", help="newest, an index, a time, or a file with a checkpoint")
    ] = "newest",
    go_on: Annotated[bool, option("--go-on", help="nothing came after what is here: the origin may go on")] = False,
    next: Annotated[
        Path | None, option("--next", metavar="KEY", help="of `keys log`: begin the log that follows under it")
    ] = None,
    timeout: Annotated[
        float, option("--timeout", read=seconds, metavar="SECONDS", help="for each witness (default: 10)")
    ] = 10.0,
    json: Json = False,
) -> None:
    """Bring a log back from what is left of it, by hash."""
    if go_on and next is not None:
        raise typer.BadParameter("--go-on is not allowed with --next")


@tool(app, "witness", "gateway.tools.audit.witness:witness")
def witness(
    key: Annotated[list[Path], option("--key", metavar="FILE", help="of `keys witness`")],
    policy: Annotated[Path, option("--policy", metavar="FILE", help="the logs to watch: its `log` lines")],
    store: Annotated[Path, option("--store", metavar="FILE", help="database; never lose it")],
    listen: Annotated[
        str, option("--listen", metavar="HOST:PORT", help="plain HTTP (default: 127.0.0.1:8008)")
    ] = "127.0.0.1:8008",
) -> None:
    """Watch other people's logs, and cosign them."""


add_to(app, "audit")
