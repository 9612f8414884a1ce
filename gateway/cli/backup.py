"""`stockade backup`, and what `stockade restore` shares with it."""

from __future__ import annotations

from pathlib import Path

from gateway.cli.arguments import FILE, JSON, group, option, tool, whole

app = group("encrypted backups of a gateway: made, verified, tried out")
HERE = "gateway.tools.backup.backup"
KEEP_MAX = 1_000_000
EXITS = "Exit codes: 0 done; 1 the answer is no; 2 it cannot be used."
REPOSITORY = option("--repository DIR", "where backups are kept")
BACKUP_KEY = option("--key FILE", "of `stockade backup key`")
CHOSEN = option("--backup NAME", "its name, or how it begins (default: the newest)", "")


@tool(app, "key", f"{HERE}:make_key")
def key(out: Path = option("--out FILE", "mode 0600; keep it off the machine too"), json: bool = JSON) -> None:
    """Make the key that backups are encrypted with."""


@tool(app, "create", f"{HERE}:create", epilog=EXITS)
def create(
    file: Path = FILE,
    repository: Path = REPOSITORY,
    key: Path = BACKUP_KEY,
    whole: bool = option("--whole", "read all of the log again, and mend damaged chunks", False),
    with_keys: bool = option("--with-keys", "private keys too: then this repository is one", False),
    json: bool = JSON,
) -> None:
    """Back up a gateway, which may be running."""


@tool(app, "list", f"{HERE}:listed", epilog=EXITS)
def show(repository: Path = REPOSITORY, key: Path = BACKUP_KEY, json: bool = JSON) -> None:
    """Show the backups in a repository."""


@tool(app, "verify", f"{HERE}:verify", epilog=EXITS)
def verify(
    repository: Path = REPOSITORY,
    key: Path = BACKUP_KEY,
    all: bool = option("--all", "every backup (default: the newest)", False),
    backup: str = CHOSEN,
    json: bool = JSON,
) -> None:
    """Read backups back, every byte of them."""


@tool(app, "drill", f"{HERE}:drill_one", epilog=EXITS)
def drill(
    repository: Path = REPOSITORY,
    key: Path = BACKUP_KEY,
    beside: Path = option("--beside DIR", "where it is restored, and removed again; must be new"),
    backup: str = CHOSEN,
    json: bool = JSON,
) -> None:
    """Restore beside the running gateway and prove equality."""


@tool(app, "prune", f"{HERE}:prune", epilog=EXITS)
def prune(
    repository: Path = REPOSITORY,
    key: Path = BACKUP_KEY,
    keep: int = option("--keep N", "the newest, that stay", read=whole(1, KEEP_MAX)),
    json: bool = JSON,
) -> None:
    """Remove old backups, and the chunks that no other has."""
