"""Reading a backup back, every byte of it, without putting it anywhere.

Checked: the manifest and the index open under the key; every chunk opens and is the one that its name says; every file
has its size and digest; every database is whole (SQLite's integrity_check); the entries of the log give the leaf hashes
and the root of its signed checkpoint. What has been removed on purpose, a key database after seven days, is told and no
damage.
"""

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from hashlib import sha256

from ops.audit.errors import NoteError, TileError
from ops.audit.log.checkpoint import Checkpoint, open_checkpoint, parse_vkey
from ops.audit.log.merkle import Frontier, leaf_hashes
from ops.audit.log.tiles import ENTRIES, split_bundle, tiles_between
from ops.backup.errors import BackupDamaged
from ops.backup.manifest import BackedLog, Manifest, StoredFile
from ops.backup.repository import Repository

PROBLEMS_MAX = 1000
MENTIONED_MAX = 3
ROLLBACK_JOURNAL = b"\x01\x01"  # at byte 18 of the header (sqlite.org/fileformat2.html, section 1.3.3)

Progress = Callable[[int, int], None]


@dataclass(slots=True)
class Verified:
    """What was read back. No problems: what was stored is what there is."""

    name: str
    files: int = 0
    bytes: int = 0
    log_size: int = 0
    keys_expired: bool = False
    problems: list[str] = field(default_factory=list)

    def add(self, problem: str) -> None:
        if len(self.problems) < PROBLEMS_MAX:
            self.problems.append(problem)


def content(repository: Repository, stored: StoredFile, manifest: Manifest) -> Iterator[bytes]:
    """The bytes of a file, a chunk at a time. Raises BackupDamaged at the first that is wrong, or at the end."""
    salt = bytes.fromhex(manifest.id) if stored.kind == "keys" else b""
    digest, size = sha256(), 0
    for name in stored.chunks:
        try:
            chunk = repository.get(name, salt)
        except BackupDamaged as error:
            raise BackupDamaged([f"{stored.path}: {error}"]) from error
        digest.update(chunk)
        size += len(chunk)
        yield chunk
    if size != stored.bytes or digest.hexdigest() != stored.sha256:
        raise BackupDamaged([f"{stored.path}: its chunks are not the file that was stored"])


def keys_expired(repository: Repository, stored: StoredFile, manifest: Manifest, now_ns: int) -> bool:
    """Whether this is a key database whose time is over, whether it was removed by now or not."""
    over = now_ns >= manifest.keys_until_ns or not (repository.path / "keys" / manifest.id).exists()
    return stored.kind == "keys" and over


def verify_backup(repository: Repository, name: str, *, now_ns: int, progress: Progress | None = None) -> Verified:
    """Read one backup back. `progress` is called with (files done, files in all).

    Raises:
        RepositoryRefused: there is no such backup.
        BackupDamaged, RestoreRefused: its manifest or its index cannot be used, so nothing more can be said.
    """
    manifest = repository.manifest(name)
    files = repository.files(manifest)
    found = Verified(name)
    for number, stored in enumerate(files, 1):
        if keys_expired(repository, stored, manifest, now_ns):
            found.keys_expired = True
        else:
            _check_file(repository, stored, manifest, found)
        if progress is not None:
            progress(number, len(files))
    if manifest.log is not None:
        try:
            found.log_size = _check_log(repository, files, manifest, manifest.log).size
        except BackupDamaged as error:
            for problem in error.problems:
                found.add(problem)
    return found


def _check_file(repository: Repository, stored: StoredFile, manifest: Manifest, found: Verified) -> None:
    try:
        if stored.kind in {"sqlite", "keys"}:
            data = b"".join(content(repository, stored, manifest))
            if problem := problem_of(data):
                found.add(f"{stored.path}: {problem}")
        else:
            for _ in content(repository, stored, manifest):
                pass
    except BackupDamaged as error:
        found.add(str(error))
        return
    found.files += 1
    found.bytes += stored.bytes


def _check_log(repository: Repository, files: list[StoredFile], manifest: Manifest, log: BackedLog) -> Checkpoint:
    """The checkpoint of the log, when the entries lead to it. Raises BackupDamaged."""
    try:
        checkpoint = open_checkpoint(log.note.encode(), [parse_vkey(log.vkey)])
    except NoteError as error:
        raise BackupDamaged([f"{log.directory}: {error}"]) from error
    stored = {each.path: each for each in files}
    frontier = Frontier()
    for tile in tiles_between(ENTRIES, 0, checkpoint.size):
        path = f"{log.directory}/{tile.path}"
        if path not in stored:
            raise BackupDamaged([f"{path} is not in the backup"])
        try:
            frontier.extend(leaf_hashes(split_bundle(b"".join(content(repository, stored[path], manifest)))))
        except TileError as error:
            raise BackupDamaged([f"{path}: {error}"]) from error
    if (frontier.size, frontier.root()) != (checkpoint.size, checkpoint.root):
        raise BackupDamaged([f"{log.directory}: the entries do not give the root of the checkpoint"])
    return checkpoint


def problem_of(data: bytes) -> str:
    """What SQLite finds wrong with a database, in a few words; nothing where it is whole."""
    try:
        with closing(sqlite3.connect(":memory:")) as db:
            db.deserialize(data[:18] + ROLLBACK_JOURNAL + data[20:])  # memory has no write-ahead log
            found = [row[0] for row in db.execute("PRAGMA integrity_check")]
    except sqlite3.Error as error:
        return str(error)
    return "" if found == ["ok"] else "; ".join(found[:MENTIONED_MAX])
