"""Arguments that the verbs on logs share, and how their values are read."""

from __future__ import annotations

import argparse
from pathlib import Path

from gateway.tools.arguments import whole

Match = tuple[tuple[str, ...], str]

EPOCHS_MAX = 9999
A_LOG = "the log, or a directory of `stockade init` or its stockade.yaml"
A_REPLICA = "a replica's URL: s3://, gs://, az://, file://"
A_POLICY = "trusted logs and witnesses, and the quorum (c2sp.org/tlog-policy)"


def match(text: str) -> Match:
    """Read PATH=VALUE from the command line."""
    path, equals, value = text.partition("=")
    if not equals or not path:
        raise argparse.ArgumentTypeError(f"{text!r} is not PATH=VALUE, such as kind=refused or auth.tenant=store-7")
    return tuple(path.split(".")), value


def log_place(text: str) -> Path | str:
    """Read where a log lies: a URL as it is, anything else as a path."""
    return text if "://" in text else Path(text)


def log_and_key(parser: argparse.ArgumentParser) -> None:
    """Add which log, and its key."""
    parser.add_argument("log", type=Path, metavar="LOG", help=A_LOG)
    parser.add_argument("--vkey", metavar="KEY", help="the log's key, or a file that holds it")


def which_epoch(parser: argparse.ArgumentParser, otherwise: str = "the newest") -> None:
    """Add the argument that names an epoch of a log."""
    parser.add_argument("--epoch", type=whole(1, EPOCHS_MAX), metavar="N", help=f"of the log (default: {otherwise})")


def reaching_stores(verb: argparse.ArgumentParser) -> None:
    """Add how object stores are reached."""
    verb.add_argument("--endpoint", metavar="URL", help="of an S3 of your own: http://127.0.0.1:8333")
    verb.add_argument("--region", help="of an S3 bucket (default: us-east-1)")
    verb.add_argument("--credentials", type=Path, metavar="FILE", help="JSON object, as for `audit.replication`")
