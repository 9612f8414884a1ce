"""The right edge of the tree: what is durable in segments and not wholly published yet.

The committer adds to it, the publisher takes from it; one lock, held for list operations only. For each tile level it
keeps the hashes from the start of the newest unfinished tile, and likewise the framed entries and the payloads.
"""

import threading
from collections.abc import Sequence

from ops.audit.errors import ReadError
from ops.audit.log.merkle import EMPTY_ROOT
from ops.audit.log.tiles import TILE_HEIGHT, TILE_WIDTH, level_size


class Edge:
    """Memory is bounded by the records that are committed but unpublished, plus 256 items a level."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._rows: list[list[bytes]] = []
        self._starts: list[int] = []
        self._entries: list[bytes] = []
        self._entries_start = 0
        self._blobs: list[tuple[int, bytes]] = []  # (index of the entry that names it, ciphertext)
        self._size = 0
        self._root = EMPTY_ROOT
        self._published = 0

    @classmethod
    def published(cls, size: int, root: bytes, rows: Sequence[Sequence[bytes]], entries: Sequence[bytes]) -> "Edge":
        """The edge of a wholly published log: of each level the hashes of the unfinished tile, and framed entries."""
        edge = cls()
        edge._size, edge._root, edge._published = size, root, size
        edge._rows = [list(row) for row in rows]
        edge._starts = [level_size(level, size) // TILE_WIDTH * TILE_WIDTH for level in range(len(rows))]
        edge._entries = list(entries)
        edge._entries_start = size - len(entries)
        return edge

    @property
    def published_size(self) -> int:
        return self._published

    @property
    def backlog(self) -> int:
        """Entries that are durable and not published."""
        return self._size - self._published

    def head(self) -> tuple[int, bytes]:
        """(size, root) of what is durable."""
        with self._lock:
            return self._size, self._root

    def add(
        self,
        grown: Sequence[Sequence[bytes]],
        entries: Sequence[bytes],
        blobs: Sequence[tuple[int, bytes]],
        size: int,
        root: bytes,
    ) -> None:
        """Take in a durable group: new nodes by height, framed entries, payloads with their entry's index."""
        with self._lock:
            for level, row in enumerate(grown[::TILE_HEIGHT]):
                if level == len(self._rows):
                    self._rows.append([])
                    self._starts.append(0)
                self._rows[level].extend(row)
            self._entries.extend(entries)
            self._blobs.extend(blobs)
            self._size, self._root = size, root

    def hashes(self, level: int, first: int, count: int) -> list[bytes]:
        """Hashes of one level.

        Raises:
            ReadError: when they are not at the edge.
        """
        with self._lock:
            start = first - self._starts[level] if level < len(self._rows) else -1
            if start < 0 or start + count > len(self._rows[level]):
                raise ReadError(f"level {level} does not hold {first}..{first + count} at the edge")
            return self._rows[level][start : start + count]

    def entries(self, first: int, count: int) -> list[bytes]:
        """Framed entries."""
        with self._lock:
            start = first - self._entries_start
            return self._entries[start : start + count]

    def blobs(self, first: int, end: int) -> list[bytes]:
        """Payloads of the entries [first, end) that are not published."""
        with self._lock:
            return [blob for index, blob in self._blobs if first <= index < end]

    def publish(self, size: int) -> None:
        """Everything below `size` is public: forget all but the unfinished tiles."""
        with self._lock:
            for level, row in enumerate(self._rows):
                start = level_size(level, size) // TILE_WIDTH * TILE_WIDTH
                del row[: start - self._starts[level]]
                self._starts[level] = start
            start = size // TILE_WIDTH * TILE_WIDTH
            del self._entries[: start - self._entries_start]
            self._entries_start = start
            self._blobs = [(index, blob) for index, blob in self._blobs if index >= size]
            self._published = size
