"""The arguments of `stockade audit`.

Importing this loads neither cryptography nor the log: `stockade --help` stays fast.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any, NoReturn

from gateway.cli.verbs import lazy, verb
from gateway.cli.witness_arguments import add_cosign, add_prove, add_witness
from gateway.tools.arguments import seconds, whole
from gateway.tools.log_arguments import (
    A_LOG,
    A_POLICY,
    A_REPLICA,
    log_and_key,
    log_place,
    match,
    reaching_stores,
    which_epoch,
)
from gateway.tools.tenant_arguments import ago

EX_AUDIT_USAGE = 4
LINES_MAX = 1_000_000
ROWS_MAX = 10_000_000
MEMORY_MIB_MAX = 1 << 20


class AuditParser(argparse.ArgumentParser):
    """Ends with the specification's code for wrong usage: argparse's own, 2, would say that the log is incomplete."""

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        options, unknown = super().parse_known_args(args, namespace)
        if unknown:  # else the parser above would refuse them
            self.error(f"unrecognized arguments: {' '.join(unknown)}")
        return options, unknown

    def error(self, message: str) -> NoReturn:
        self.print_usage(sys.stderr)
        self.exit(EX_AUDIT_USAGE, f"{self.prog}: error: {message}\n")


def add_verbs(audit: Any) -> None:
    """Add the verbs to `stockade audit`."""
    for add in (
        add_verify,
        add_query,
        add_replay,
        add_tail,
        add_mirror,
        add_epochs,
        add_retain,
        add_prove,
        add_cosign,
        add_restore,
    ):
        add(audit).add_argument("--json", action="store_true", help="print what was found, or done, as JSON")
    add_witness(audit)


def add_verify(audit: Any) -> argparse.ArgumentParser:
    """Add `stockade audit verify`."""
    verify = verb(
        audit,
        "verify",
        lazy("gateway.tools.audit.verify_url"),
        "verify a log, or a receipt, with nothing but its public key",
    )
    place = f"or {A_REPLICA}"
    verify.add_argument("directory", type=log_place, metavar="DIR", help=f"{A_LOG}; or a .tlog-proof file; {place}")
    reaching_stores(verify)
    verify.add_argument("--vkey", action="append", default=[], help="the log's key, or a file that holds it")
    verify.add_argument("--policy", type=Path, metavar="FILE", help=A_POLICY)
    verify.add_argument(
        "--remembered", type=Path, metavar="FILE", help="a checkpoint seen earlier, or cosigned: the log must extend it"
    )
    verify.add_argument("--stale-after", type=seconds, metavar="SECONDS", help="exit 3 when the newest entry is older")
    verify.add_argument(
        "--query", type=Path, metavar="INDEX", help="an index of `audit query`: make it anew and compare"
    )
    verify.epilog = (
        "Exit codes: 0 verified; 1 tampered with; 2 incomplete; 3 stale; 4 not verified: wrong usage, another key, or "
        "files that cannot be read."
    )
    return verify


def add_tail(audit: Any) -> argparse.ArgumentParser:
    """Add `stockade audit tail`."""
    tail = verb(
        audit, "tail", lazy("gateway.tools.audit.tail"), "print the newest entries, and those that come; each is proved"
    )
    tail.epilog = "Exit codes: 0 fine; 1 what lies there does not lead to a signed root; 4 usage."
    log_and_key(tail)
    tail.add_argument(
        "-n",
        "--lines",
        type=whole(0, LINES_MAX),
        default=10,
        metavar="N",
        help="the newest to begin with, of which --where chooses (default: 10)",
    )
    tail.add_argument("-f", "--follow", action="store_true", help="go on with what comes, until interrupted")
    tail.add_argument(
        "--where", type=match, action="append", default=[], metavar="PATH=VALUE", help="only such: kind=refused"
    )
    return tail


def add_mirror(audit: Any) -> argparse.ArgumentParser:
    """Add `stockade audit mirror`."""
    mirror = verb(
        audit,
        "mirror",
        lazy("gateway.tools.audit.mirror"),
        "bring a copy of a log up to date, checked, and only ever forward",
    )
    mirror.epilog = (
        "Exit codes: 0 up to date; 1 refused: a fork, an older copy, or tampered with; 2 incomplete; 4 usage."
    )
    log_and_key(mirror)
    mirror.add_argument("mirror", type=Path, metavar="MIRROR", help="the copy; made when it is not there")
    return mirror


def add_epochs(audit: Any) -> argparse.ArgumentParser:
    """Add `stockade audit epochs`."""
    epochs = verb(
        audit,
        "epochs",
        lazy("gateway.tools.audit.epochs", "run_list"),
        "list the epochs of a log, and what is here of each",
    )
    log_and_key(epochs)
    epochs.add_argument(
        "--config",
        type=Path,
        metavar="FILE",
        help="stockade.yaml: also say where entries are, and which holds keep them",
    )
    return epochs


def add_retain(audit: Any) -> argparse.ArgumentParser:
    """Add `stockade audit retain`."""
    retain = verb(
        audit,
        "retain",
        lazy("gateway.tools.audit.epochs", "run_retain"),
        "drop the entries of epochs that are old enough",
    )
    retain.epilog = "Exit codes: 0 nothing more is due; 2 something keeps an epoch that is due; 4 usage."
    retain.add_argument("file", type=Path, metavar="FILE", help="stockade.yaml")
    retain.add_argument("--dry-run", action="store_true", help="only say what is due")
    return retain


def add_query(audit: Any) -> argparse.ArgumentParser:
    """Add `stockade audit query`."""
    query = verb(
        audit, "query", lazy("gateway.tools.audit.query"), "ask the log in SQL: one SELECT over the table `entries`"
    )
    query.epilog = (
        "Exit codes: 0 answered; 1 what lies there does not lead to a signed root; 4 usage, or a question refused."
    )
    log_and_key(query)
    query.add_argument(
        "sql", metavar="SQL", help='"SELECT reason, count(*) FROM entries GROUP BY ALL"; "DESCRIBE entries"'
    )
    query.add_argument(
        "--index", type=Path, metavar="DIR", help="where the Parquet files are kept (default: LOG.index)"
    )
    which_epoch(query)
    query.add_argument("--csv", action="store_true", help="print CSV")
    query.add_argument("--rows", type=whole(1, ROWS_MAX), default=10_000, metavar="N", help="at most (default: 10,000)")
    query.add_argument("--timeout", type=seconds, default=60.0, metavar="SECONDS", help="for the answer (default: 60)")
    query.add_argument(
        "--memory-mib", type=whole(64, MEMORY_MIB_MAX), default=1024, metavar="N", help="for the answer (default: 1024)"
    )
    return query


def add_restore(audit: Any) -> argparse.ArgumentParser:
    """Add `stockade audit restore`."""
    restore = verb(
        audit, "restore", lazy("gateway.tools.audit.restore"), "bring a log back from what is left of it, by hash"
    )
    restore.epilog = (
        "Exit codes: 0 restored, nothing newer is known; 1 a fork, or tampered with; 2 incomplete: call again with "
        "another copy; 3 restored, and a larger tree is known: the origin is sealed; 4 usage."
    )
    restore.add_argument(
        "--from",
        dest="sources",
        type=log_place,
        action="append",
        required=True,
        metavar="DIR",
        help=f"what is left: a copy, or {A_REPLICA}",
    )
    reaching_stores(restore)
    restore.add_argument("--out", type=Path, required=True, metavar="DIR", help="where it goes; not a running log's")
    which_epoch(restore, "all of them")
    restore.add_argument("--vkey", metavar="KEY", help="the log's key, or a file that holds it")
    restore.add_argument("--policy", type=Path, metavar="FILE", help=f"{A_POLICY}; its witnesses are asked")
    restore.add_argument(
        "--seen", type=Path, action="append", default=[], metavar="FILE", help="a checkpoint that is known: cosigned"
    )
    restore.add_argument(
        "--target", default="newest", metavar="WHAT", help="newest, an index, a time, or a file with a checkpoint"
    )
    after = restore.add_mutually_exclusive_group()
    after.add_argument("--go-on", action="store_true", help="nothing came after what is here: the origin may go on")
    after.add_argument("--next", type=Path, metavar="KEY", help="of `keys log`: begin the log that follows under it")
    restore.add_argument(
        "--timeout", type=seconds, default=10.0, metavar="SECONDS", help="for each witness (default: 10)"
    )
    return restore


def add_replay(audit: Any) -> argparse.ArgumentParser:
    """Add `stockade audit replay`."""
    replay = verb(
        audit,
        "replay",
        lazy("gateway.tools.replay.verbs"),
        "do again what was recorded, and say what would be otherwise",
    )
    replay.epilog = (
        "Exit codes: 0 all that was compared is equal; 1 something differs, or the log was tampered with; 2 it is"
        " incomplete, or nothing could be compared;"
        " 4 usage, or something that cannot be used. What would be otherwise is no failure."
    )
    log_and_key(replay)
    which_epoch(replay)
    replay.add_argument("--config", type=Path, metavar="FILE", help="stockade.yaml (default: LOG/stockade.yaml)")
    replay.add_argument(
        "--policy", type=Path, metavar="FILE", help="what if this had been the policy? needs no signature"
    )
    replay.add_argument(
        "--model", type=version, action="append", default=[], metavar="NAME=VERSION", help="what if it had answered?"
    )
    replay.add_argument("--from", dest="since", type=ago, metavar="TIME", help="2027-11-24T08:00:00Z, or 2h: ago")
    replay.add_argument("--to", dest="until", type=ago, metavar="TIME", help="likewise (default: the end)")
    replay.add_argument(
        "--where", type=match, action="append", default=[], metavar="PATH=VALUE", help="only such: auth.tenant=store-7"
    )
    replay.add_argument("--decisions-only", action="store_true", help="leave out level R2, which runs models")
    replay.add_argument("--page", type=Path, metavar="FILE", help="write the report as an HTML page")
    replay.add_argument("--record", action="store_true", help="have the running gateway write the result into its log")
    replay.add_argument(
        "--identity", type=Path, metavar="PREFIX", help="for --record: PREFIX.crt and PREFIX.key (clients/operator.tls)"
    )
    replay.add_argument(
        "--ca", type=Path, metavar="FILE", help="for --record: who signed the server's certificate, PEM"
    )
    return replay


def version(text: str) -> tuple[str, str]:
    """Read NAME=VERSION from the command line."""
    name, _, number = text.partition("=")
    if not (name and number):
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=VERSION, such as kiosk=3")
    return name, number
