"""What a log is restored from: directories and object stores, each asked for files by their paths.

A directory is a copy, a mirror, a mounted bucket, or what is left on a failing disk; a store is what a log was
replicated to. Nothing that they hold is believed (`restore`).

Rules:
1. What a source cannot read is missing there, no more: another one may have it.
2. A store that has not answered yet, or does not any more, ends the restoration: its silence must not look like loss.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, TypeVar

from ops.audit.copies.object_store import Listed
from ops.audit.errors import StoreUnavailable
from ops.audit.log.tiles import Tile

UNANSWERED_MAX = 16  # questions one after the other, about files that one by one may be unreadable

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
