"""`stockade backup`, and what `stockade restore` shares with it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from gateway.cli.arguments import File, Json, group, option, tool, whole

app = group("encrypted backups of a gateway: made, verified, tried out")
HERE = "gateway.tools.backup.backup"
KEEP_MAX = 1_000_000
EXITS = "Exit codes: 0 done; 1 the answer is no; 2 it cannot be used."
Repository = Annotated[Path, option("--repository", metavar="DIR", help="where backups are kept")]
BackupKey = Annotated[Path, option("--key", metavar="FILE", help="of `stockade backup key`")]
Chosen = Annotated[str, option("--backup", metavar="NAME", help="its name, or how it begins (default: the newest)")]


@tool(app, "key", f"{HERE}:make_key")
def key(
    out: Annotated[Path, option("--out", metavar="FILE", help="mode 0600; keep it off the machine too")],
    json: Json = False,
) -> None:
    """Make the key that backups are encrypted with."""


@tool(app, "create", f"{HERE}:create", epilog=EXITS)
def create(
    file: File,
    *,
    repository: Repository,
    key: BackupKey,
    whole: Annotated[bool, option("--whole", help="read all of the log again, and mend damaged chunks")] = False,
    with_keys: Annotated[bool, option("--with-keys", help="private keys too: then this repository is one")] = False,
    json: Json = False,
) -> None:
    """Back up a gateway, which may be running."""


@tool(app, "list", f"{HERE}:listed", epilog=EXITS)
def show(repository: Repository, key: BackupKey, json: Json = False) -> None:
    """Show the backups in a repository."""


@tool(app, "verify", f"{HERE}:verify", epilog=EXITS)
def verify(
    repository: Repository,
    key: BackupKey,
    all: Annotated[bool, option("--all", help="every backup (default: the newest)")] = False,
    backup: Chosen = "",
    json: Json = False,
) -> None:
    """Read backups back, every byte of them."""


@tool(app, "drill", f"{HERE}:drill_one", epilog=EXITS)
def drill(
    repository: Repository,
    key: BackupKey,
    beside: Annotated[
        Path, option("--beside", metavar="DIR", help="where it is restored, and removed again; must be new")
    ],
    backup: Chosen = "",
    json: Json = False,
) -> None:
    """Restore beside the running gateway and prove equality."""


@tool(app, "prune", f"{HERE}:prune", epilog=EXITS)
def prune(
    repository: Repository,
    key: BackupKey,
    keep: Annotated[int, option("--keep", read=whole(1, KEEP_MAX), metavar="N", help="the newest, that stay")],
    json: Json = False,
) -> None:
    """Remove old backups, and the chunks that no other has."""
