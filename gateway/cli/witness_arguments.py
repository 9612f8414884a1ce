"""The arguments of what receipts and witnesses take: `stockade audit prove|cosign|witness`, `stockade keys witness`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from gateway.cli.verbs import lazy, verb
from gateway.tools.arguments import seconds, whole
from gateway.tools.log_arguments import A_LOG, A_POLICY, log_and_key, which_epoch

if TYPE_CHECKING:
    import argparse

INDEX_MAX = 2**63 - 2


def add_prove(audit: Any) -> argparse.ArgumentParser:
    """Add `stockade audit prove`."""
    prove = verb(
        audit, "prove", lazy("gateway.tools.audit.witness", "prove"), "write the receipt of an entry (.tlog-proof)"
    )
    prove.epilog = "Exit codes: 0 written; 2 the checkpoint has no such entry; 4 usage."
    log_and_key(prove)
    prove.add_argument("index", type=whole(0, INDEX_MAX), metavar="INDEX", help="the entry's number, from 0")
    which_epoch(prove)
    prove.add_argument("--checkpoint", type=Path, metavar="FILE", help="a cosigned one (default: the log's newest)")
    prove.add_argument("--out", type=Path, metavar="FILE", help="where it goes (default: INDEX.tlog-proof)")
    return prove


def add_cosign(audit: Any) -> argparse.ArgumentParser:
    """Add `stockade audit cosign`."""
    cosign = verb(
        audit, "cosign", lazy("gateway.tools.audit.witness", "cosign"), "have witnesses cosign the newest checkpoint"
    )
    cosign.epilog = "Exit codes: 0 cosigned by the quorum; 1 a witness has seen another log; 2 no quorum; 4 usage."
    cosign.add_argument("log", type=Path, metavar="LOG", help=A_LOG)
    cosign.add_argument("--policy", type=Path, required=True, metavar="FILE", help=f"{A_POLICY}, with their URLs")
    cosign.add_argument("--out", type=Path, required=True, metavar="FILE", help="where the cosigned checkpoint goes")
    cosign.add_argument(
        "--timeout", type=seconds, default=10.0, metavar="SECONDS", help="for all witnesses together (default: 10)"
    )
    return cosign


def add_witness(audit: Any) -> None:
    """Add `stockade audit witness`."""
    witness = verb(
        audit, "witness", lazy("gateway.tools.audit.witness", "witness"), "watch other people's logs, and cosign them"
    )
    witness.add_argument("--key", type=Path, action="append", required=True, metavar="FILE", help="of `keys witness`")
    witness.add_argument(
        "--policy", type=Path, required=True, metavar="FILE", help="the logs to watch: its `log` lines"
    )
    witness.add_argument("--store", type=Path, required=True, metavar="FILE", help="database; never lose it")
    witness.add_argument(
        "--listen", default="127.0.0.1:8008", metavar="HOST:PORT", help="plain HTTP (default: 127.0.0.1:8008)"
    )


def add_key_verb(keys: Any) -> argparse.ArgumentParser:
    """Add `stockade keys witness`; returns it."""
    made = verb(
        keys, "witness", lazy("gateway.tools.audit.witness", "make_key"), "make a witness's key; prints its public half"
    )
    made.add_argument("name", metavar="NAME", help="the witness's name, such as example.org/witness")
    made.add_argument("--out", type=Path, required=True, help="file for the key, mode 0600; a .vkey is put beside it")
    made.add_argument("--ed25519", action="store_true", help="not ML-DSA-44, for logs whose verifiers know no other")
    return made
