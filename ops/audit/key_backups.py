"""Backups of the key database, none of which lives longer than seven days: that is what makes an erasure final.

A backup holds what was erased after it was made. So it must not be put where nothing expires: in WORM storage, in a
bucket with versions, on a tape. Its age is in its name; what a copy program does to a file's times changes nothing.
A database that is restored from one loses the erased keys again when the gateway starts, because the log names them
(`erasure.erased_keys`).

    payload-keys.20261126T093000Z.sqlite
"""

import os
import re
import sqlite3
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

from ops.audit.durable import make_directories, remove_files, sync_directory
from ops.audit.errors import KeyStoreError
from ops.audit.key_database import BUSY_TIMEOUT_S

__all__ = ["DAYS_MAX", "backup_keys", "expire_backups", "made_at", "restore_keys"]

DAYS_MAX = 7
_STAMP = "%Y%m%dT%H%M%SZ"
_NAME = re.compile(r"payload-keys\.([0-9]{8}T[0-9]{6}Z)\.sqlite(\.new)?")


def made_at(path: Path) -> datetime | None:
    """Return when a backup was made, by its name; None where it is none of ours."""
    found = _NAME.fullmatch(path.name)
    try:
        return datetime.strptime(found[1], _STAMP).replace(tzinfo=UTC) if found is not None else None
    except ValueError:
        return None


def backup_keys(database: Path, directory: Path, *, now: datetime) -> Path:
    """Copy the key database, which may be in use, into a directory; returns the backup. Those too old are removed.

    The copy holds what the database holds and nothing else: it is written anew, without what was deleted. It is whole
    and on the disk when it has its name.

    Raises:
        KeyStoreError: the database cannot be read, or there is a backup of this second.
        OSError: the directory cannot be written.
    """
    if not database.is_file():
        raise KeyStoreError(f"there is no key database {database}")
    target = directory / f"payload-keys.{now.astimezone(UTC).strftime(_STAMP)}.sqlite"
    for changed in make_directories(directory):
        sync_directory(changed)
    _copy(database, target)
    expire_backups(directory, now=now)
    return target


def expire_backups(directory: Path, *, now: datetime) -> list[Path]:
    """Remove backups that are more than DAYS_MAX days old, and what an interrupted one has left; returns them.

    Call it at least daily, also where no backup is made any more.
    """
    oldest = now - timedelta(days=DAYS_MAX)
    made = {path: made_at(path) for path in directory.iterdir()}
    over = sorted(path for path, at in made.items() if at is not None and (at < oldest or path.suffix == ".new"))
    remove_files(over)
    if over:
        sync_directory(directory)
    return over


def restore_keys(backup: Path, database: Path, *, now: datetime) -> None:
    """Put a backup in the place of a key database that is gone. Start the gateway next: it destroys what was erased.

    Raises:
        KeyStoreError: there is a database, this is no backup, or it is more than DAYS_MAX days old.
        OSError: it cannot be written.
    """
    made = made_at(backup)
    if made is None or not backup.is_file():
        raise KeyStoreError(f"{backup} is no backup of a key database")
    if made < now - timedelta(days=DAYS_MAX):
        raise KeyStoreError(f"{backup} is more than {DAYS_MAX} days old: what was erased since may be in it")
    if database.exists():
        raise KeyStoreError(f"{database} is there; move it away first")
    _copy(backup, database)


def _copy(source: Path, target: Path) -> None:
    if target.exists():
        raise KeyStoreError(f"{target} is there already")
    draft = target.with_name(target.name + ".new")
    draft.unlink(missing_ok=True)
    try:
        with closing(sqlite3.connect(f"{source.resolve().as_uri()}?mode=rw", uri=True, timeout=BUSY_TIMEOUT_S)) as db:
            db.execute("VACUUM INTO ?", (os.fspath(draft),))
    except sqlite3.Error as error:
        draft.unlink(missing_ok=True)
        raise KeyStoreError(f"{source}: {error}") from error
    draft.chmod(0o600)
    descriptor = os.open(draft, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    draft.rename(target)
    sync_directory(target.parent)
