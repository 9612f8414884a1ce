"""Making a backup: everything of a plan into a repository, and only what is new of it.

Order: the stores first and the log last, so that no store has read further than the log in the backup goes. Each file
is whole: those that change are replaced by renaming, databases are read through SQLite. Files are cut into chunks of 1
MiB; a chunk that is there already is not written again, and the full tiles of the log, which never change, are not even
read again. A private key gets in only where that is asked for: whatever looks like one is left out and said so.
"""

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Literal

from ops.audit.errors import NoteError, ProofError, ReadError, TileError
from ops.audit.log.checkpoint import Checkpoint, VerifierKey, open_checkpoint
from ops.audit.log.epochs import epoch_at, newest_epoch, place_of
from ops.audit.reader.read import LogReader
from ops.backup.errors import BackupDamaged, LogMoved, SourceRefused
from ops.backup.log_files import edge_files, full_tiles, read_full
from ops.backup.manifest import FORMAT, BackedLog, Kind, Manifest, StoredFile, check_path, encode_index
from ops.backup.repository import KEYS_LIVE_NS, Repository
from ops.backup.sealing import CHUNK_BYTES_MAX, ID_BYTES
from ops.backup.verify import problem_of


@dataclass(frozen=True, slots=True)
class Source:
    """One thing to be kept under `name`.

    `file` has to be there. `state` is a file that comes and goes. `tree` is every file below a directory; a missing one
    is empty. `keys` is the key database, a copy of which lives for seven days.
    """

    name: str
    path: Path
    kind: Literal["file", "state", "tree", "keys"] = "file"

    def files(self) -> Iterator[tuple[str, Path]]:
        """Each file with its path in the backup. Raises SourceRefused: what has to be there is not."""
        if self.kind == "tree":
            for path in sorted(self.path.rglob("*")) if self.path.is_dir() else ():
                if path.is_file():
                    yield f"{self.name}/{path.relative_to(self.path).as_posix()}", path
        elif self.path.is_file():
            yield self.name, self.path
        elif self.kind == "file":
            raise SourceRefused(f"{self.path} is not there, and no gateway starts without it")


@dataclass(frozen=True, slots=True)
class LogSource:
    """A published log, or one of its epochs: where it is, whose it is, and what its parts are called in the backup
    (`BackedLog`). `dropped`: its entries are not here any more.
    """

    path: Path
    vkey: VerifierKey
    directory: str
    state_directory: str
    memory: str
    dropped: bool = False


@dataclass(frozen=True, slots=True)
class Plan:
    """Sources in the order in which they are read; the log comes last, so that nothing is ahead of it."""

    sources: tuple[Source, ...]
    log: LogSource | None = None
    with_keys: bool = False


FILE_BYTES_MAX = 8 << 30
LOG_MODE = 0o644
ATTEMPTS = 5
PRIVATE = (b"PRIVATE+KEY+", b"PRIVATE KEY-----")
LOOKED_AT_BYTES = 64 * 1024

MAGIC = b"SQLite format 3\x00"
SNAPSHOT_BYTES_MAX = 1 << 30
BUSY_TIMEOUT_S = 10.0

Progress = Callable[[str, int], None]


@dataclass(slots=True)
class Created:
    """What was made: its name, how much is in it, how much was written for it, what was left out and why."""

    name: str = ""
    files: int = 0
    bytes: int = 0
    chunks_written: int = 0
    bytes_written: int = 0
    log_size: int = 0
    left_out: list[str] = field(default_factory=list)
    keys_expired: list[str] = field(default_factory=list)


@dataclass(slots=True)
class _Writer:
    """Puts files into the repository and remembers what they are made of."""

    repository: Repository
    identity: bytes
    done: Created
    with_keys: bool
    progress: Progress | None
    files: dict[str, StoredFile] = field(default_factory=dict)

    def put(self, path: str, data: bytes, mode: int, kind: Kind) -> None:
        salt = self.identity if kind == "keys" else b""
        names = [self._chunk(data[at : at + CHUNK_BYTES_MAX], salt) for at in range(0, len(data), CHUNK_BYTES_MAX)]
        self.keep(StoredFile(path, kind, mode, len(data), sha256(data).hexdigest(), tuple(names)))

    def put_file(self, path: str, file: Path) -> None:
        """One file as it is now. SourceRefused: it cannot be kept; OSError: it cannot be read."""
        if not path.isprintable():
            raise SourceRefused(f"{file} has a name that cannot be kept")
        if file.stat().st_size > FILE_BYTES_MAX:
            raise SourceRefused(f"{file} is larger than {FILE_BYTES_MAX} bytes")
        if is_sqlite(file):
            self.put(path, snapshot(file), file.stat().st_mode & 0o777, "sqlite")
            return
        digest, names, size = sha256(), [], 0
        with file.open("rb") as opened:
            start = opened.read(CHUNK_BYTES_MAX)
            if not self.with_keys and any(mark in start[:LOOKED_AT_BYTES] for mark in PRIVATE):
                self.done.left_out.append(f"{file}: a private key; --with-keys takes it along")
                return
            for chunk in _chunks(start, opened.read):
                digest.update(chunk)
                names.append(self._chunk(chunk, b""))
                size += len(chunk)
        self.keep(StoredFile(path, "file", file.stat().st_mode & 0o777, size, digest.hexdigest(), tuple(names)))

    def keep(self, stored: StoredFile) -> None:
        self.files[check_path(stored.path)] = stored
        if self.progress is not None:
            self.progress(stored.path, stored.bytes)

    def _chunk(self, data: bytes, salt: bytes) -> str:
        name, written = self.repository.put(data, salt)
        if written:
            self.done.chunks_written += 1
            self.done.bytes_written += written
        return name


def _chunks(start: bytes, read: Callable[[int], bytes]) -> Iterator[bytes]:
    while start:
        yield start
        start = read(CHUNK_BYTES_MAX)


def create_backup(
    repository: Repository,
    plan: Plan,
    *,
    now_ns: int,
    random_bytes: Callable[[int], bytes],
    build: str,
    whole: bool = False,
    progress: Progress | None = None,
) -> Created:
    """Back up everything of a plan. The gateway may be running.

    Args:
        repository: where to; held while this runs.
        plan: what.
        now_ns: Unix time; also decides which key databases of the past have to go.
        random_bytes: source of the backup's id.
        build: of this program.
        whole: take no full tile over from an earlier backup; every chunk is compared, and written anew where it is
            damaged.
        progress: called with (path, bytes) after each file.

    Raises:
        SourceRefused: something of the gateway cannot be backed up as it is; there is no new backup.
        RepositoryBusy: somebody else writes into the repository.
        OSError: something cannot be read or written; there is no new backup.
    """
    done = Created()
    with repository.writing():
        done.keys_expired = repository.expire_keys(now_ns)
        writer = _Writer(repository, random_bytes(ID_BYTES), done, plan.with_keys, progress)
        for source in plan.sources:
            _put_source(writer, source)
        log = None
        for epoch in _epochs(plan.log) if plan.log is not None else ():
            log = _put_log(writer, epoch, whole=whole)
        index = encode_index(writer.files.values())
        chunks = [repository.put(index[at : at + CHUNK_BYTES_MAX])[0] for at in range(0, len(index), CHUNK_BYTES_MAX)]
        done.files, done.bytes = len(writer.files), sum(each.bytes for each in writer.files.values())
        manifest = Manifest(
            format=FORMAT,
            id=writer.identity.hex(),
            created_ns=now_ns,
            build=build,
            with_keys=plan.with_keys,
            log=log,
            files=done.files,
            bytes_in_all=done.bytes,
            keys_until_ns=now_ns + KEYS_LIVE_NS,
            index=tuple(chunks),
        )
        done.name = repository.commit(manifest)
    return done


def _put_source(writer: _Writer, source: Source) -> None:
    """The files of a source. One that goes while they are read is left out, unless it has to be there."""
    for path, file in source.files():
        if source.kind == "keys":
            writer.put(path, snapshot(file), 0o600, "keys")
            continue
        try:
            writer.put_file(path, file)
        except FileNotFoundError:
            if source.kind == "file":
                raise


def _epochs(log: LogSource) -> Iterator[LogSource]:
    """The log's epochs, the newest last: it is the one that a restored gateway goes on with."""
    newest = newest_epoch(log.path, log.vkey).number
    for number in range(1, newest + 1):
        epoch = epoch_at(log.path, log.vkey, number)
        directory, state = (str(place_of(Path(each), number)) for each in (log.directory, log.state_directory))
        dropped = number < newest and epoch.dropped
        yield LogSource(epoch.directory, epoch.vkey, directory, state, log.memory, dropped)


def _put_log(writer: _Writer, log: LogSource, *, whole: bool) -> BackedLog | None:
    """The log at its newest checkpoint; None when it has none yet."""
    for _ in range(ATTEMPTS):
        try:
            note = (log.path / "checkpoint").read_bytes()
            checkpoint = open_checkpoint(note, [log.vkey])
        except FileNotFoundError:
            writer.done.left_out.append(f"{log.path}: no checkpoint yet")
            return None
        except NoteError as error:
            raise SourceRefused(f"the checkpoint of {log.path} is not this log's: {error}") from error
        before = _stored_before(writer.repository, log, checkpoint, note)
        try:
            edge = list(edge_files(log.path, checkpoint, dropped=log.dropped))
            _put_full_tiles(writer, log, checkpoint, {} if whole else before)
        except LogMoved:
            continue
        for path, data in (*edge, ("checkpoint", note)):
            writer.put(f"{log.directory}/{path}", data, LOG_MODE, "log")
        writer.done.log_size = checkpoint.size
        return BackedLog(note.decode(), str(log.vkey), log.directory, log.state_directory, log.memory)
    raise SourceRefused(f"{log.path} changes faster than it can be read")


def _put_full_tiles(writer: _Writer, log: LogSource, checkpoint: Checkpoint, before: dict[str, StoredFile]) -> None:
    for tile in full_tiles(checkpoint, dropped=log.dropped):
        path = f"{log.directory}/{tile.path}"
        known = before.get(path) or writer.files.get(path)
        if known is not None and all(writer.repository.holds(name) for name in known.chunks):
            writer.keep(known)
            continue
        data = read_full(log.path, tile)
        if data is not None:
            writer.put(path, data, LOG_MODE, "log")


def _stored_before(repository: Repository, log: LogSource, now: Checkpoint, note: bytes) -> dict[str, StoredFile]:
    """The log's files in the newest backup that has it. None are taken over from one that cannot be read.

    One that has not grown since is known by its checkpoint, which is this `note`: a closed epoch, for one.

    Raises:
        SourceRefused: the log does not extend what was backed up.
    """
    for name in reversed(repository.names()):
        try:
            manifest = repository.manifest(name)
            if manifest.log is None:
                continue
            files = {each.path: each for each in repository.files(manifest) if each.kind == "log"}
            held = files.get(f"{log.directory}/checkpoint")
            if held is not None and held.sha256 == sha256(note).hexdigest():
                return files
            if (manifest.log.vkey, manifest.log.directory) != (str(log.vkey), log.directory):
                continue
            old = open_checkpoint(manifest.log.note.encode(), [log.vkey])
            LogReader(log.path, now).demand_extension(old)
        except (BackupDamaged, NoteError):
            continue
        except (ProofError, ReadError, TileError) as error:
            problem = f"{log.path} does not extend the log in the backup {name}: an older copy was put back, or a fork"
            raise SourceRefused(f"{problem} ({error})") from error
        else:
            return files
    return {}


def is_sqlite(path: Path) -> bool:
    """Whether a file is a SQLite database. OSError: it cannot be read."""
    with path.open("rb") as file:
        return file.read(len(MAGIC)) == MAGIC


def snapshot(path: Path) -> bytes:
    """The database as one transaction left it. A live file must never be copied, so it is read through SQLite.

    The backup API (sqlite.org/backup.html) copies it into memory, so that nothing of it lies on a disk unsealed.

    Raises:
        SourceRefused: it is too large, locked, or damaged.
    """
    if path.stat().st_size > SNAPSHOT_BYTES_MAX:
        raise SourceRefused(f"{path} is larger than {SNAPSHOT_BYTES_MAX} bytes")
    try:
        with (
            closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=BUSY_TIMEOUT_S)) as source,
            closing(sqlite3.connect(":memory:")) as copy,
        ):
            source.backup(copy)
            data = copy.serialize()
    except sqlite3.Error as error:
        raise SourceRefused(f"{path}: {error}") from error
    if problem := problem_of(data):
        raise SourceRefused(f"{path}: {problem}")
    return data
