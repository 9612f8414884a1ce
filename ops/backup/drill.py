"""The drill: a backup put back beside the running gateway, looked at from every side, and removed.

It starts nothing and calls nobody. What it proves of the copy on the disk: every file has the digest that the manifest
has, every database is whole, the log verifies as an auditor would verify it and has the root of its checkpoint, and a
recorder would go on from it: its own recovery reads what was put there.
"""

import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path

from ops.audit.errors import AuditError
from ops.audit.log.checkpoint import open_checkpoint, parse_vkey
from ops.audit.store.succession import go_on
from ops.audit.verify.report import OK
from ops.audit.verify.verify import verify_log
from ops.backup.errors import BackupDamaged
from ops.backup.manifest import BackedLog, StoredFile
from ops.backup.repository import Repository
from ops.backup.restore import restore_backup
from ops.backup.snapshots import problem_of

BLOCK_BYTES = 1 << 20

Progress = Callable[[int, int], None]


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
            _check_log(place, restored.manifest.log, found)
        found.check_s = clock() - started - found.restore_s
    finally:
        for each in (place, place.with_name(f"{place.name}.restoring")):
            shutil.rmtree(each, ignore_errors=True)
    return found


def _compare(path: Path, stored: StoredFile, found: Drilled) -> None:
    digest, size = sha256(), 0
    with path.open("rb") as file:
        while block := file.read(BLOCK_BYTES):
            digest.update(block)
            size += len(block)
    if digest.hexdigest() != stored.sha256 or path.stat().st_mode & 0o777 != stored.mode:
        found.problems.append(f"{stored.path} is not what was backed up")
    elif stored.kind in {"sqlite", "keys"}:
        found.databases += 1
        if problem := problem_of(path.read_bytes()):
            found.problems.append(f"{stored.path}: {problem}")
    found.files += 1
    found.bytes += size


def _check_log(place: Path, log: BackedLog, found: Drilled) -> None:
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
