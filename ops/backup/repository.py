"""Where backups are kept: a directory that only gains files, but for what must not be kept and what is pruned.

```
format                       which format, and the mark of the key
objects/<2>/<64 hex>         chunks, each sealed under its own name (`sealing`)
keys/<backup id>/<64 hex>    the chunks of that backup's key database, apart because they are removed after seven days
backups/<time>-<id>          sealed manifests; a backup exists when its manifest does
incoming                     the file that is being written
```

Rules: a file is written beside its place, synced, and renamed into it; a manifest comes last, when all that it names is
durable. So an interrupted run leaves the backups before as they were, and the next run finds its chunks and goes on.
One writer at a time (flock); readers need nothing. Nothing in the repository is trusted by readers: names are checked,
and every byte is authenticated.
"""

import json
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from ops.backup.errors import BackupDamaged, BackupKeyRefused, RepositoryBusy, RepositoryRefused
from ops.backup.manifest import FORMAT, Manifest, StoredFile, parse_index, parse_manifest
from ops.backup.sealing import CHUNK_BYTES_MAX, BackupKey
from ops.process.durable import exclusive, make_directories, replace_file, sync_directory, write_file

KEYS_LIVE_NS = 7 * 24 * 3600 * 1_000_000_000
"""How long a copy of the key database is kept: erasure becomes final when the last one is gone."""
SECRET_MODE_FORBIDDEN = 0o077
SEALED_BYTES_MAX = CHUNK_BYTES_MAX + 1024
MANIFEST_BYTES_MAX = 64 * CHUNK_BYTES_MAX
_MANIFEST = re.compile(r"\d{8}T\d{6}\.\d{6}Z-([0-9a-f]{32})", re.ASCII)


def stamp(time_ns: int) -> str:
    """A time in the name of a backup, UTC, to the microsecond: names stand in the order of making."""
    seconds, rest_ns = divmod(time_ns, 1_000_000_000)
    return f"{datetime.fromtimestamp(seconds, UTC):%Y%m%dT%H%M%S}.{rest_ns // 1000:06}Z"


def read_key(file: Path) -> BackupKey:
    """The key in a file. Raises BackupKeyRefused: none, or one that others can read; OSError: it cannot be read."""
    if file.stat().st_mode & SECRET_MODE_FORBIDDEN:
        raise BackupKeyRefused(f"{file} can be read by others than its owner; chmod 600")
    return BackupKey(file.read_bytes())


@dataclass(frozen=True, slots=True)
class Pruned:
    """The names of the backups that were removed, and how many chunks and bytes went with them."""

    backups: list[str]
    chunks: int
    bytes: int


@dataclass(slots=True)
class Repository:
    """A repository and its key. `create` and `open` make one."""

    path: Path
    key: BackupKey
    _touched: set[Path] = field(default_factory=set)

    @classmethod
    def create(cls, path: Path, key: BackupKey) -> "Repository":
        """Open the repository, made where there is nothing yet.

        Raises:
            RepositoryRefused: the directory holds something else.
            BackupKeyRefused: it is that of another key.
        """
        if not (path / "format").exists():
            if path.exists() and (not path.is_dir() or any(path.iterdir())):
                raise RepositoryRefused(f"{path} holds something that is no repository; name a new directory")
            for changed in make_directories(path):
                sync_directory(changed)
            path.chmod(0o700)
            for name in ("objects", "keys", "backups"):
                (path / name).mkdir(exist_ok=True)
            replace_file(path / "format", json.dumps({"format": FORMAT, "key": key.mark}).encode() + b"\n", 0o600)
        return cls.open(path, key)

    @classmethod
    def open(cls, path: Path, key: BackupKey) -> "Repository":
        """Open the repository. Raises as `create`."""
        try:
            found = json.loads((path / "format").read_bytes())
            form, mark = found["format"], found["key"]
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise RepositoryRefused(f"{path} is not a repository of backups") from error
        if form != FORMAT:
            raise RepositoryRefused(f"{path} has format {form!r}, which is not known here")
        if mark != key.mark:
            raise BackupKeyRefused(f"{path} was made with another key")
        return cls(path, key)

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Hold the repository while something is written. RepositoryBusy: somebody else does."""
        with exclusive(self.path, RepositoryBusy(f"somebody else writes into {self.path}")):
            yield

    def _place(self, name: str, salt: bytes) -> Path:
        return self.path / "keys" / salt.hex() / name if salt else self.path / "objects" / name[:2] / name

    def holds(self, name: str, salt: bytes = b"") -> bool:
        """Whether there is a file for this chunk; what is in it is seen when it is read."""
        return self._place(name, salt).is_file()

    def put(self, plaintext: bytes, salt: bytes = b"") -> tuple[str, int]:
        """Keep a chunk; returns its name and how many bytes were written. `sync` makes its name durable."""
        name = self.key.name(plaintext, salt)
        place = self._place(name, salt)
        sealed = self.key.seal(name, plaintext)
        if place.is_file() and place.read_bytes() == sealed:  # one that was damaged is written again
            return name, 0
        self._touched |= make_directories(place.parent)
        self._touched.add(place.parent)
        incoming = self.path / "incoming"
        write_file(incoming, sealed, 0o600)
        incoming.rename(place)
        return name, len(sealed)

    def get(self, name: str, salt: bytes = b"") -> bytes:
        """Read a chunk. Raises BackupDamaged: it is missing, unreadable, or not what was stored."""
        try:
            with self._place(name, salt).open("rb") as file:
                sealed = file.read(SEALED_BYTES_MAX + 1)
        except OSError as error:
            raise BackupDamaged([f"chunk {name} cannot be read ({error.strerror})"]) from error
        return self.key.open(name, sealed, salt)

    def sync(self) -> None:
        """Make the names durable of what was put."""
        for directory in self._touched:
            sync_directory(directory)
        self._touched.clear()

    def commit(self, manifest: Manifest) -> str:
        """Make a backup of what was put: its manifest is its existence. Returns the backup's name."""
        self.sync()
        name = f"{stamp(manifest.created_ns)}-{manifest.id}"
        incoming = self.path / "incoming"
        write_file(incoming, self.key.seal_manifest(bytes.fromhex(manifest.id), manifest.to_json()), 0o600)
        incoming.rename(self.path / "backups" / name)
        sync_directory(self.path / "backups")
        # Durable: the backup is there, and all that it names.
        return name

    def names(self) -> list[str]:
        """The names of the backups, oldest first."""
        return sorted(each.name for each in (self.path / "backups").iterdir() if _MANIFEST.fullmatch(each.name))

    def manifest(self, name: str) -> Manifest:
        """Read a manifest. Raises RepositoryRefused: there is no such backup; BackupDamaged: it is not what it was."""
        found = _MANIFEST.fullmatch(name)
        if found is None or not (self.path / "backups" / name).is_file():
            raise RepositoryRefused(f"{self.path} holds no backup {name!r}; `stockade backup list` shows those it has")
        with (self.path / "backups" / name).open("rb") as file:
            sealed = file.read(MANIFEST_BYTES_MAX + 1)
        identity = bytes.fromhex(found[1])
        manifest = parse_manifest(self.key.open_manifest(identity, sealed))
        if f"{stamp(manifest.created_ns)}-{manifest.id}" != name:
            raise BackupDamaged([f"{name} is the manifest of another backup"])
        return manifest

    def files(self, manifest: Manifest) -> list[StoredFile]:
        """The files of a backup. Raises BackupDamaged, RestoreRefused."""
        files = parse_index(b"".join(self.get(name) for name in manifest.index))
        if len(files) != manifest.files or sum(each.bytes for each in files) != manifest.bytes_in_all:
            raise BackupDamaged([f"the index of {manifest.id} is not that of its manifest"])
        return files

    def expire_keys(self, now_ns: int) -> list[str]:
        """Remove what is left of key databases that are older than seven days; returns the ids of their backups.

        A directory that no backup names any more is of an interrupted run; it goes when it is that old as well.
        """
        born = {name.partition("-")[2]: self._created_ns(name) for name in self.names()}
        removed: list[str] = []
        for directory in sorted((self.path / "keys").iterdir()):
            if born.get(directory.name, directory.stat().st_mtime_ns) + KEYS_LIVE_NS <= now_ns:
                shutil.rmtree(directory)
                removed.append(directory.name)
        if removed:
            sync_directory(self.path / "keys")
        return removed

    def prune(self, keep: int) -> Pruned:
        """Remove all backups but the newest `keep`, and the chunks that none of those has.

        Manifests go first: a run that is interrupted leaves chunks that nobody names, and the next one removes them.

        Raises:
            BackupDamaged, RestoreRefused: a backup that stays cannot be read, so what it needs is not known. Nothing
                was removed.
            RepositoryBusy: somebody writes.
        """
        with self.writing():
            names = self.names()
            gone = names[:-keep]
            needed: set[str] = set()
            for name in names[-keep:]:
                manifest = self.manifest(name)
                needed.update(manifest.index)
                needed.update(chunk for each in self.files(manifest) for chunk in each.chunks if each.kind != "keys")
            for name in gone:
                (self.path / "backups" / name).unlink()
            sync_directory(self.path / "backups")
            for name in gone:
                shutil.rmtree(self.path / "keys" / name.partition("-")[2], ignore_errors=True)
            chunks = freed = 0
            for path in (self.path / "objects").glob("*/*"):
                if path.name not in needed:
                    freed += path.stat().st_size
                    path.unlink()
                    chunks += 1
        return Pruned(gone, chunks, freed)

    @staticmethod
    def _created_ns(name: str) -> int:
        """By its name; 0 where that is no time, so that nothing is kept for it."""
        try:
            made = datetime.strptime(name.partition("-")[0], "%Y%m%dT%H%M%S.%fZ").replace(tzinfo=UTC)
        except ValueError:
            return 0
        return int(made.timestamp()) * 1_000_000_000
