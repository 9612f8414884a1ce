"""Reads a published log as it grows, and gives only entries that lead to the root of a signed checkpoint."""

from collections.abc import Iterator
from pathlib import Path

from ops.audit.errors import ProofError
from ops.audit.log.checkpoint import VerifierKey
from ops.audit.log.epochs import epoch_at, newest_epoch
from ops.audit.log.merkle import Frontier, leaf_hashes
from ops.audit.log.tiles import node_from
from ops.audit.reader.read import ENTRIES_MAX, LogReader


class Follower:
    """The newest epoch of the log in a directory, from its beginning or only its `last` entries, and what comes.

    When the epoch is closed, it goes on with the next one; indexes then begin again.

    Raises:
        ReadError: there is no log, or files of it are missing.
        NoteError: its checkpoint is not signed by `vkey`.
        ProofError: what lies there does not lead to the root that is signed.
    """

    def __init__(self, directory: Path, vkey: VerifierKey, *, last: int | None = None) -> None:
        self._log = directory, vkey
        self._epoch = newest_epoch(directory, vkey)
        reader = LogReader.open(self._epoch.directory, self._epoch.vkey)
        self._tree = frontier_at(reader, 0 if last is None else max(0, reader.checkpoint.size - last))

    def new(self) -> Iterator[tuple[int, int, bytes]]:
        """Number of the epoch, index and bytes of each entry that came since the last time. Raises as the class."""
        newest = newest_epoch(*self._log)
        yield from self._more()
        while self._epoch.number < newest.number:
            self._epoch, self._tree = epoch_at(*self._log, self._epoch.number + 1), Frontier()
            yield from self._more()

    def _more(self) -> Iterator[tuple[int, int, bytes]]:
        reader = LogReader.open(self._epoch.directory, self._epoch.vkey)
        head = reader.checkpoint
        if head.size < self._tree.size:
            raise ProofError(f"the log has {head.size} entries, and had {self._tree.size}: an older copy was put back")
        tree, first = self._tree.copy(), self._tree.size
        entries: list[bytes] = []
        while tree.size < head.size:
            entries += reader.entries(tree.size, min(ENTRIES_MAX, head.size - tree.size))
            tree.extend(leaf_hashes(entries[tree.size - first :]))
        if tree.root() != head.root:
            raise ProofError(f"the entries from {first} on do not lead to the root that is signed for {head.size}")
        self._tree = tree
        for index, data in enumerate(entries, first):
            yield self._epoch.number, index, data


def frontier_at(reader: LogReader, size: int) -> Frontier:
    """Return the tree of the first `size` entries, from the log's own hashes: wrong ones lead to a wrong root."""
    node = node_from(reader.hashes)
    heights = [height for height in range(size.bit_length()) if size >> height & 1]
    return Frontier.restore(size, [node(height, (size >> height) - 1) for height in heights])
