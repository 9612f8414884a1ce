"""The arguments of `stockade audit` and of `stockade keys witness`.

Importing this loads neither cryptography nor the log: `stockade --help` stays fast.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any, NoReturn

from gateway.cli.arguments import seconds, whole
from gateway.cli.verbs import lazy, verb
from gateway.segmentation.arguments import ago

Match = tuple[tuple[str, ...], str]

__all__ = ["A_REPLICA", "AuditParser", "add_key_verb", "add_verbs", "log_place", "reaching_stores"]

EX_AUDIT_USAGE = 4
INDEX_MAX = 2**63 - 2
EPOCHS_MAX = 9999
LINES_MAX = 1_000_000
ROWS_MAX = 10_000_000
MEMORY_MIB_MAX = 1 << 20
A_LOG = "the log, or a directory of `stockade init`"
A_REPLICA = "a replica's URL: s3://, gs://, az://, file://"
A_POLICY = "trusted logs and witnesses, and the quorum (c2sp.org/tlog-policy)"


def match(text: str) -> Match:
    """Read PATH=VALUE from the command line."""
    path, equals, value = text.partition("=")
    if not equals or not path:
        raise argparse.ArgumentTypeError(f"{text!r} is not PATH=VALUE, such as kind=refused or auth.tenant=store-7")
    return tuple(path.split(".")), value


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


def which_epoch(parser: argparse.ArgumentParser, otherwise: str = "the newest") -> None:
    """Add the argument that names an epoch of a log."""
    parser.add_argument("--epoch", type=whole(1, EPOCHS_MAX), metavar="N", help=f"of the log (default: {otherwise})")


def log_place(text: str) -> Path | str:
    """Read where a log lies: a URL as it is, anything else as a path."""
    return text if "://" in text else Path(text)


def add_verbs(audit: Any) -> None:
    """Add the verbs to `stockade audit`."""
    verify = verb(
        audit, "verify", lazy("gateway.cli.verify_url"), "verify a log, or a receipt, with nothing but its public key"
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
    query, replay = add_query(audit), add_replay(audit)
    tail = verb(
        audit, "tail", lazy("gateway.cli.tail"), "print the newest entries, and those that come; each is proved"
    )
    tail.epilog = "Exit codes: 0 fine; 1 what lies there does not lead to a signed root; 4 usage."
    tail.add_argument("log", type=Path, metavar="LOG", help=A_LOG)
    tail.add_argument("--vkey", metavar="KEY", help="the log's key, or a file that holds it")
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
    mirror = verb(
        audit, "mirror", lazy("gateway.cli.mirror"), "bring a copy of a log up to date, checked, and only ever forward"
    )
    mirror.epilog = (
        "Exit codes: 0 up to date; 1 refused: a fork, an older copy, or tampered with; 2 incomplete; 4 usage."
    )
    mirror.add_argument("log", type=Path, metavar="LOG", help=A_LOG)
    mirror.add_argument("mirror", type=Path, metavar="MIRROR", help="the copy; made when it is not there")
    mirror.add_argument("--vkey", metavar="KEY", help="the log's key, or a file that holds it")
    epochs = add_epochs(audit)
    prove = verb(audit, "prove", lazy("gateway.cli.witness", "prove"), "write the receipt of an entry (.tlog-proof)")
    prove.epilog = "Exit codes: 0 written; 2 the checkpoint has no such entry; 4 usage."
    prove.add_argument("log", type=Path, metavar="LOG", help=A_LOG)
    prove.add_argument("index", type=whole(0, INDEX_MAX), metavar="INDEX", help="the entry's number, from 0")
    which_epoch(prove)
    prove.add_argument("--vkey", metavar="KEY", help="the log's key, or a file that holds it")
    prove.add_argument("--checkpoint", type=Path, metavar="FILE", help="a cosigned one (default: the log's newest)")
    prove.add_argument("--out", type=Path, metavar="FILE", help="where it goes (default: INDEX.tlog-proof)")
    cosign = verb(audit, "cosign", lazy("gateway.cli.witness", "cosign"), "have witnesses cosign the newest checkpoint")
    cosign.epilog = "Exit codes: 0 cosigned by the quorum; 1 a witness has seen another log; 2 no quorum; 4 usage."
    cosign.add_argument("log", type=Path, metavar="LOG", help=A_LOG)
    cosign.add_argument("--policy", type=Path, required=True, metavar="FILE", help=f"{A_POLICY}, with their URLs")
    cosign.add_argument("--out", type=Path, required=True, metavar="FILE", help="where the cosigned checkpoint goes")
    cosign.add_argument(
        "--timeout", type=seconds, default=10.0, metavar="SECONDS", help="for all witnesses together (default: 10)"
    )
    witness = verb(
        audit, "witness", lazy("gateway.cli.witness", "witness"), "watch other people's logs, and cosign them"
    )
    witness.add_argument("--key", type=Path, action="append", required=True, metavar="FILE", help="of `keys witness`")
    witness.add_argument(
        "--policy", type=Path, required=True, metavar="FILE", help="the logs to watch: its `log` lines"
    )
    witness.add_argument("--store", type=Path, required=True, metavar="FILE", help="database; never lose it")
    witness.add_argument(
        "--listen", default="127.0.0.1:8008", metavar="HOST:PORT", help="plain HTTP (default: 127.0.0.1:8008)"
    )
    restore = add_restore(audit)
    for each in (verify, query, replay, tail, mirror, *epochs, prove, cosign, restore):
        each.add_argument("--json", action="store_true", help="print what was found, or done, as JSON")


def reaching_stores(verb: argparse.ArgumentParser) -> None:
    """Add how object stores are reached."""
    verb.add_argument("--endpoint", metavar="URL", help="of an S3 of your own: http://127.0.0.1:8333")
    verb.add_argument("--region", help="of an S3 bucket (default: us-east-1)")
    verb.add_argument("--credentials", type=Path, metavar="FILE", help="JSON object, as for `audit.replication`")


def add_epochs(audit: Any) -> tuple[argparse.ArgumentParser, argparse.ArgumentParser]:
    """Add `stockade audit epochs` and `stockade audit retain`."""
    epochs = verb(
        audit, "epochs", lazy("gateway.cli.epochs", "run_list"), "list the epochs of a log, and what is here of each"
    )
    epochs.add_argument("log", type=Path, metavar="LOG", help=A_LOG)
    epochs.add_argument("--vkey", metavar="KEY", help="the log's key, or a file that holds it")
    epochs.add_argument(
        "--config",
        type=Path,
        metavar="FILE",
        help="stockade.yaml: also say where entries are, and which holds keep them",
    )
    retain = verb(
        audit, "retain", lazy("gateway.cli.epochs", "run_retain"), "drop the entries of epochs that are old enough"
    )
    retain.epilog = "Exit codes: 0 nothing more is due; 2 something keeps an epoch that is due; 4 usage."
    retain.add_argument("file", type=Path, metavar="FILE", help="stockade.yaml")
    retain.add_argument("--dry-run", action="store_true", help="only say what is due")
    return epochs, retain


def add_query(audit: Any) -> argparse.ArgumentParser:
    """Add `stockade audit query`."""
    query = verb(
        audit, "query", lazy("gateway.cli.audit_query"), "ask the log in SQL: one SELECT over the table `entries`"
    )
    query.epilog = (
        "Exit codes: 0 answered; 1 what lies there does not lead to a signed root; 4 usage, or a question refused."
    )
    query.add_argument("log", type=Path, metavar="LOG", help=A_LOG)
    query.add_argument(
        "sql", metavar="SQL", help='"SELECT reason, count(*) FROM entries GROUP BY ALL"; "DESCRIBE entries"'
    )
    query.add_argument("--vkey", metavar="KEY", help="the log's key, or a file that holds it")
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
        audit, "restore", lazy("gateway.cli.audit_restore"), "bring a log back from what is left of it, by hash"
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
        audit, "replay", lazy("gateway.cli.replay"), "do again what was recorded, and say what would be otherwise"
    )
    replay.epilog = (
        "Exit codes: 0 all that was compared is equal; 1 something differs, or the log was tampered with; 2 it is"
        " incomplete, or nothing could be compared;"
        " 4 usage, or something that cannot be used. What would be otherwise is no failure."
    )
    replay.add_argument("log", type=Path, metavar="LOG", help=A_LOG)
    replay.add_argument("--vkey", metavar="KEY", help="the log's key, or a file that holds it")
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


def add_key_verb(keys: Any) -> argparse.ArgumentParser:
    """Add `stockade keys witness`; returns it."""
    made = verb(
        keys, "witness", lazy("gateway.cli.witness", "make_key"), "make a witness's key; prints its public half"
    )
    made.add_argument("name", metavar="NAME", help="the witness's name, such as example.org/witness")
    made.add_argument("--out", type=Path, required=True, help="file for the key, mode 0600; a .vkey is put beside it")
    made.add_argument("--ed25519", action="store_true", help="not ML-DSA-44, for logs whose verifiers know no other")
    return made
