"""What a log is restored, or fetched, from: directories and object stores, each asked for files by their paths.

A directory is a copy, a mirror, a mounted bucket, or what is left on a failing disk; a store is what a log was
replicated to. Nothing that they hold is believed (`restore`).

Rules:
1. What a source cannot read is missing there, no more: another one may have it.
2. A store that has not answered yet, or does not any more, ends the restoration: its silence must not look like loss.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Protocol, TypeVar

from ops.audit.copies.object_store import Below, Inspected, Listed
from ops.audit.errors import NoteError, ReadError, StoreUnavailable, TileError
from ops.audit.log.checkpoint import parse_checkpoint
from ops.audit.log.epochs import EPOCHS, NUMBER_MAX, place_of
from ops.audit.log.tiles import BLOBS, ENTRIES, TILE_WIDTH, Tile, hash_levels, level_size, parse_path

UNANSWERED_MAX = 16  # questions one after the other, about files that one by one may be unreadable
CHECKPOINT = "checkpoint"
READERS = 8
GROUP_FILES = 64

Progress = Callable[[int, int], None]

Answer = TypeVar("Answer")


class Source(Protocol):
    """A copy of a log, or what is left of one. Thread-safe."""

    @property
    def where(self) -> str:
        """What people call it."""

    def read(self, path: str) -> bytes | None:
        """A file, None where it is not there or cannot be read. Raises StoreError."""

    def names(self, directory: str) -> list[str]:
        """The names in a directory, in any order; none where it is not there or cannot be read. Raises StoreError."""


@dataclass(frozen=True, slots=True)
class DirectorySource:
    """A log below a directory."""

    path: Path

    @property
    def where(self) -> str:
        return str(self.path)

    def read(self, path: str) -> bytes | None:
        return read_or_none(self.path / path)

    def names(self, directory: str) -> list[str]:
        try:
            return [each.name for each in (self.path / directory).iterdir()]
        except OSError:
            return []


@dataclass(slots=True)
class StoreSource:
    """A log below the prefix of an object store."""

    store: Listed
    where: str
    _answered: bool = field(default=False, init=False)
    _unanswered: int = field(default=0, init=False)

    def read(self, path: str) -> bytes | None:
        return self._ask(lambda: self.store.get(path), None)

    def names(self, directory: str) -> list[str]:
        return self._ask(lambda: [key.rpartition("/")[2] for key in self.store.keys(f"{directory}/")], [])

    def _ask(self, question: Callable[[], Answer], nothing: Answer) -> Answer:
        """The store's answer; `nothing` where it fails in this one question."""
        try:
            answer = question()
        except StoreUnavailable:
            self._unanswered += 1
            if not self._answered or self._unanswered > UNANSWERED_MAX:
                raise
            return nothing
        self._answered, self._unanswered = True, 0
        return answer


def versions(source: Source, tile: Tile) -> Iterator[bytes]:
    """What a source has at the place of a tile: of its width, or wider, which begins with it. Raises StoreError."""
    if (data := source.read(tile.full_path)) is not None:
        yield data
    if not tile.partial:
        return
    for width in numbers(source, tile.partial_directory):
        if width >= tile.width and (data := source.read(f"{tile.partial_directory}/{width}")) is not None:
            yield data


def numbers(source: Source, directory: str) -> list[int]:
    """The names in a directory that are numbers, in their order. Raises StoreError."""
    return sorted(int(name) for name in source.names(directory) if name.isascii() and name.isdigit())


def read_or_none(path: Path) -> bytes | None:
    """A file, or None: a disk that fails is a source that does not have it."""
    try:
        return path.read_bytes()
    except OSError:
        return None


def fetch_epochs(store: Inspected, target: Path, progress: Progress | None = None) -> None:
    """Write every epoch of the log in `store` into `target`. Arguments and errors as for `fetch_log`."""
    for number in range(1, NUMBER_MAX + 1):
        part = store if number == 1 else Below(store, f"{EPOCHS}/{number:04d}/")
        if number > 1 and part.get(CHECKPOINT) is None:
            return
        place = place_of(target, number)
        place.mkdir(parents=True, exist_ok=True)
        fetch_log(part, place, progress)


def fetch_log(store: Listed, target: Path, progress: Progress | None = None) -> int:
    """Write the log in `store` into `target`, an empty directory. Returns the size that its checkpoint says.

    Nothing of it is trusted, not even its signature: keys are those this project would write, or they are left where
    they are, and `verify` judges what has come. What is missing in the store is missing in the directory. Files are
    written without a sync.

    Args:
        store: what a log was replicated to.
        target: where it goes.
        progress: called with (files fetched, files in all) now and then.

    Raises:
        ReadError: there is no checkpoint.
        StoreUnavailable, StoreRefused, OSError: it cannot be read, or not written.
    """
    note = store.get(CHECKPOINT)
    if note is None:
        raise ReadError("the store holds no checkpoint")
    size = _claimed(note)
    wanted = [key for prefix in ("tile/", "blobs/") for key in store.keys(prefix) if _is_named(key, size)]
    (target / CHECKPOINT).write_bytes(note)

    def fetch(key: str) -> None:
        data = store.get(key)
        if data is not None:
            (target / key).parent.mkdir(parents=True, exist_ok=True)
            (target / key).write_bytes(data)

    done = 0
    left = iter(wanted)
    with ThreadPoolExecutor(READERS, thread_name_prefix="fetch") as pool:
        while group := list(islice(left, GROUP_FILES)):
            list(pool.map(fetch, group))
            done += len(group)
            if progress is not None:
                progress(done, len(wanted))
    return size


def _claimed(note: bytes) -> int:
    """The size in a checkpoint, whoever signed it; 0 for what is none."""
    try:
        return parse_checkpoint(note.partition(b"\n\n")[0].decode("utf-8", "replace") + "\n").size
    except NoteError:
        return 0


def _is_named(key: str, size: int) -> bool:
    """Say whether a checkpoint of this size names the tile, bundle or pack of this key."""
    try:
        tile = parse_path(key)
    except TileError:
        return False
    if tile.level not in {ENTRIES, BLOBS} and tile.level not in hash_levels(size):
        return False
    full, width = divmod(level_size(tile.level, size), TILE_WIDTH)
    if not tile.partial:
        return tile.index < full
    narrow = tile.width <= width if tile.level == BLOBS else tile.width == width
    return tile == Tile(tile.level, full, tile.width) and narrow
