"""The arguments of `stockade backup` and `stockade restore`. Importing this loads neither cryptography nor the log."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from gateway.cli.verbs import lazy, verb
from gateway.tools.arguments import whole
from gateway.tools.log_arguments import A_REPLICA, log_place, reaching_stores

if TYPE_CHECKING:
    import argparse

KEEP_MAX = 1_000_000
EXITS = "Exit codes: 0 done; 1 the answer is no; 2 it cannot be used."


def add_backup_verbs(backup: Any) -> None:
    """Add the verbs to `stockade backup`."""
    key = verb(
        backup, "key", lazy("gateway.tools.backup.backup", "make_key"), "make the key that backups are encrypted with"
    )
    key.add_argument("--out", type=Path, required=True, metavar="FILE", help="mode 0600; keep it off the machine too")
    create = verb(
        backup, "create", lazy("gateway.tools.backup.backup", "create"), "back up a gateway, which may be running"
    )
    create.add_argument("file", type=Path, metavar="FILE", help="stockade.yaml")
    listed = verb(backup, "list", lazy("gateway.tools.backup.backup", "listed"), "show the backups in a repository")
    verify = verb(
        backup, "verify", lazy("gateway.tools.backup.backup", "verify"), "read backups back, every byte of them"
    )
    verify.add_argument("--all", action="store_true", help="every backup (default: the newest)")
    drill = verb(
        backup,
        "drill",
        lazy("gateway.tools.backup.backup", "drill_one"),
        "restore beside the running gateway and prove equality",
    )
    drill.add_argument(
        "--beside", type=Path, required=True, metavar="DIR", help="where it is restored, and removed again; must be new"
    )
    prune = verb(
        backup,
        "prune",
        lazy("gateway.tools.backup.backup", "prune"),
        "remove old backups, and the chunks that no other has",
    )
    prune.add_argument("--keep", type=whole(1, KEEP_MAX), required=True, metavar="N", help="the newest, that stay")
    for each in (create, listed, verify, drill, prune):
        reaching(each)
        each.epilog = EXITS
    create.add_argument("--whole", action="store_true", help="read all of the log again, and mend damaged chunks")
    create.add_argument("--with-keys", action="store_true", help="private keys too: then this repository is one")
    for each in (verify, drill):
        choosing(each)
    for each in (key, create, listed, verify, drill, prune):
        each.add_argument("--json", action="store_true", help="print the result as JSON")


def add_restore(verbs: Any) -> None:
    """Add `stockade restore`."""
    restore = verb(
        verbs, "restore", lazy("gateway.tools.backup.backup", "restore"), "put a backup into a new directory"
    )
    restore.epilog = f"{EXITS} 1 also: the log may not go on, because more of it is known than there is."
    reaching(restore)
    choosing(restore)
    restore.add_argument("--out", type=Path, required=True, metavar="DIR", help="a directory that does not exist yet")
    restore.add_argument(
        "--log-from",
        type=log_place,
        action="append",
        default=[],
        metavar="DIR",
        help=f"another copy of the log: a mirror, or {A_REPLICA}",
    )
    reaching_stores(restore)
    restore.add_argument(
        "--seen", type=Path, action="append", default=[], metavar="FILE", help="a checkpoint that is known: cosigned"
    )
    restore.add_argument(
        "--go-on", action="store_true", help="nothing came after what the copies hold: the log's origin may go on"
    )
    restore.add_argument("--json", action="store_true", help="print the result as JSON")


def reaching(verb: argparse.ArgumentParser) -> None:
    """Add the repository and its key."""
    verb.add_argument("--repository", type=Path, required=True, metavar="DIR", help="where backups are kept")
    verb.add_argument("--key", type=Path, required=True, metavar="FILE", help="of `stockade backup key`")


def choosing(verb: argparse.ArgumentParser) -> None:
    """Add which backup."""
    verb.add_argument("--backup", default="", metavar="NAME", help="its name, or how it begins (default: the newest)")
