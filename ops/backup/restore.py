"""Putting a backup somewhere: whole or not at all, and never over something.

The files go to `<target>.restoring`, each checked as it is written, and the directory gets its name when all of them
are there and durable. A run that was interrupted is gone on with: what is there and right is kept. Paths were checked
when the index was read; every directory is made here, so nothing in it leads elsewhere.

What is put back of a log is what was published. Whether its origin may go on is not decided here: `reopen`.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path

from ops.backup.errors import RestoreRefused
from ops.backup.manifest import Manifest, StoredFile
from ops.backup.repository import Repository
from ops.backup.verify import content, keys_expired
from ops.process.durable import make_directories, sync_directory

BLOCK_BYTES = 1 << 20
PRIVATE_DIRECTORY = 0o700

Progress = Callable[[int, int], None]


@dataclass(slots=True)
class Restored:
    """What was put where. `kept` files were there from an interrupted run."""

    target: Path
    manifest: Manifest
    files: list[StoredFile]
    kept: int = 0
    keys_expired: list[str] = field(default_factory=list)


def restore_backup(
    repository: Repository, name: str, target: Path, *, now_ns: int, progress: Progress | None = None
) -> Restored:
    """Put a backup into `target`, a directory that does not exist yet or is empty.

    A key database whose seven days are over is not put back; what it was the key to is erased.

    Raises:
        RestoreRefused: the target holds something, or the backup names a path that leads out of it.
        BackupDamaged: something in it is not what was stored; the target does not exist.
        RepositoryRefused: there is no such backup.
        OSError: the disk said no; the target does not exist. Call again.
    """
    if target.exists() and (not target.is_dir() or target.is_symlink() or any(target.iterdir())):
        raise RestoreRefused(f"{target} holds something; name a new directory, so that nothing is overwritten")
    manifest = repository.manifest(name)
    files = repository.files(manifest)
    draft = target.with_name(f"{target.name}.restoring")
    if draft.is_symlink():
        raise RestoreRefused(f"{draft} leads elsewhere; remove it")
    touched = make_directories(draft)
    draft.chmod(PRIVATE_DIRECTORY)
    done = Restored(target, manifest, files)
    wanted = {each.path for each in files}
    for stray in draft.rglob("*"):  # of an interrupted run of another backup
        if stray.is_symlink() or (stray.is_file() and stray.relative_to(draft).as_posix() not in wanted):
            stray.unlink()
    for number, stored in enumerate(files, 1):
        if keys_expired(repository, stored, manifest, now_ns):
            done.keys_expired.append(stored.path)
        elif _is_there(draft / stored.path, stored):
            done.kept += 1
        else:
            touched |= _write(repository, stored, manifest, draft)
        if progress is not None:
            progress(number, len(files))
    for directory in touched:
        sync_directory(directory)
    # All there, checked and durable: now it gets its name.
    draft.rename(target)
    sync_directory(target.parent)
    return done


def _is_there(path: Path, stored: StoredFile) -> bool:
    """Whether a file of an interrupted run is right."""
    if not path.is_file() or path.stat().st_size != stored.bytes:
        return False
    digest = sha256()
    with path.open("rb") as file:
        while block := file.read(BLOCK_BYTES):
            digest.update(block)
    path.chmod(stored.mode)
    return digest.hexdigest() == stored.sha256


def _write(repository: Repository, stored: StoredFile, manifest: Manifest, draft: Path) -> set[Path]:
    path = draft / stored.path
    touched = make_directories(path.parent) | {path.parent}
    for directory in touched:
        if directory != draft.parent:
            directory.chmod(PRIVATE_DIRECTORY)
    path.unlink(missing_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        for chunk in content(repository, stored, manifest):
            file.write(chunk)
        file.flush()
        os.fchmod(file.fileno(), stored.mode)
        os.fsync(file.fileno())
    return touched
