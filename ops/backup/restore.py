"""Putting a backup somewhere: whole or not at all, and never over something.

The files go to `<target>.restoring`, each checked as it is written, and the directory gets its name when all of them
are there and durable. A run that was interrupted is gone on with: what is there and right is kept. Paths were checked
when the index was read; every directory is made here, so nothing in it leads elsewhere.

What is put back of a log is what was published. Whether its origin may go on is not decided here: `reopen`.
"""

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from hashlib import file_digest
from pathlib import Path

from ops.audit.errors import AuditError
from ops.audit.log.checkpoint import open_checkpoint, parse_vkey
from ops.audit.store.succession import go_on
from ops.audit.verify.report import OK
from ops.audit.verify.verify import verify_log
from ops.backup.errors import BackupDamaged, RestoreRefused
from ops.backup.manifest import BackedLog, Manifest, StoredFile
from ops.backup.repository import Repository
from ops.backup.verify import content, keys_expired, problem_of
from ops.process.durable import make_directories, sync_directory

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
    path.chmod(stored.mode)
    return _digest(path) == stored.sha256


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return file_digest(file, "sha256").hexdigest()


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


@dataclass(slots=True)
class Drilled:
    """What the drill found. No problems: this backup brings the gateway back."""

    name: str
    files: int = 0
    bytes: int = 0
    databases: int = 0
    log_size: int = 0
    log_root: str = ""
    keys_expired: bool = False
    restore_s: float = 0.0
    check_s: float = 0.0
    problems: list[str] = field(default_factory=list)


def drill(
    repository: Repository,
    name: str,
    place: Path,
    *,
    now_ns: int,
    clock: Callable[[], float],
    progress: Progress | None = None,
) -> Drilled:
    """Restore a backup into `place`, which must not exist, prove that it is equal, and remove it.

    It starts nothing and calls nobody. What it proves of the copy on the disk: every file has the digest that the
    manifest has, every database is whole, the log verifies as an auditor would verify it and has the root of its
    checkpoint, and a recorder would go on from it: its own recovery reads what was put there.

    Args:
        repository: of the backup.
        name: of the backup.
        place: a directory beside the running gateway, on the disk that would be used.
        now_ns: Unix time; decides whether the key database may still be put back.
        clock: monotonic seconds, for how long it takes.
        progress: called with (files restored, files in all).

    Raises:
        BackupError, OSError: as `restore_backup`.
    """
    found = Drilled(name)
    started = clock()
    try:
        restored = restore_backup(repository, name, place, now_ns=now_ns, progress=progress)
        found.restore_s = clock() - started
        found.keys_expired = bool(restored.keys_expired)
        for stored in restored.files:
            if stored.path not in restored.keys_expired:
                _compare(place / stored.path, stored, found)
        if restored.manifest.log is not None:
            _check_restored_log(place, restored.manifest.log, found)
        found.check_s = clock() - started - found.restore_s
    finally:
        for each in (place, place.with_name(f"{place.name}.restoring")):
            shutil.rmtree(each, ignore_errors=True)
    return found


def _compare(path: Path, stored: StoredFile, found: Drilled) -> None:
    if _digest(path) != stored.sha256 or path.stat().st_mode & 0o777 != stored.mode:
        found.problems.append(f"{stored.path} is not what was backed up")
    elif stored.kind in {"sqlite", "keys"}:
        found.databases += 1
        if problem := problem_of(path.read_bytes()):
            found.problems.append(f"{stored.path}: {problem}")
    found.files += 1
    found.bytes += path.stat().st_size


def _check_restored_log(place: Path, log: BackedLog, found: Drilled) -> None:
    directory = place / log.directory
    try:
        checkpoint = open_checkpoint(log.note.encode(), [parse_vkey(log.vkey)])
        report = verify_log(directory, [log.vkey])
        found.log_size, found.log_root = report.size, report.root
        if report.exit_code != OK:
            found.problems += [f"{log.directory}: {each.where}: {each.what}" for each in report.findings]
        if (report.size, report.root) != (checkpoint.size, checkpoint.root.hex()):
            found.problems.append(f"{log.directory}: not the tree of the backup's checkpoint")
        state, memory = place / log.state_directory, place / log.memory
        memory.unlink(missing_ok=True)  # of a signer that may have been a publication ahead
        go_on(directory, state, memory, parse_vkey(log.vkey), heartbeats=report.heartbeats)
    except (AuditError, BackupDamaged) as error:
        found.problems.append(f"{log.directory}: {error}")
