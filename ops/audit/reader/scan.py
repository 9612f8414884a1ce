"""Reads a whole published log, or what it gains, and says whether it is the one that is signed.

For readers that count rather than keep: memory does not grow with the log.
"""

from collections.abc import Callable, Iterator
from pathlib import Path

from ops.audit.errors import ProofError
from ops.audit.log.checkpoint import Checkpoint, VerifierKey
from ops.audit.log.epochs import epoch_at, epochs_of, newest_epoch, numbered
from ops.audit.log.merkle import Frontier, leaf_hashes
from ops.audit.reader.read import ENTRIES_MAX, LogReader

PART = 16_384


def scan(
    directory: Path,
    vkey: VerifierKey,
    take: Callable[[int, bytes], None],
    *,
    progress: Callable[[int, int], None] = lambda _done, _all: None,
) -> Checkpoint:
    """Hand every entry of a log, with its index, to `take`; returns the checkpoint that they lead to.

    What `take` has gathered is worth nothing until this returns: only then is it known that the entries are those that
    were signed. `progress` is called with (entries done, entries in all).

    Raises:
        ReadError: there is no log, or files of it are missing.
        NoteError: its checkpoint is not signed by `vkey`.
        ProofError: the entries do not lead to the root that is signed.
    """
    reader = LogReader.open(directory, vkey)
    head, tree = reader.checkpoint, Frontier()
    while tree.size < head.size:
        first = tree.size
        entries = reader.entries(first, min(PART, head.size - first))
        tree.extend(leaf_hashes(entries))
        for index, entry in enumerate(entries, first):
            take(index, entry)
        progress(tree.size, head.size)
    if tree.root() != head.root:
        raise ProofError(f"the entries do not lead to the root that is signed for {head.size}")
    return head


def scan_epochs(
    directory: Path,
    vkey: VerifierKey,
    take: Callable[[int, bytes], None],
    *,
    progress: Callable[[int, int], None] = lambda _done, _all: None,
) -> Checkpoint:
    """`scan` every epoch whose entries are here, oldest first; returns the checkpoint of the newest.

    `take` is given numbers that count over all epochs (`epochs.numbered`). Raises as `scan`.
    """
    epochs = epochs_of(directory, vkey)
    for epoch in epochs[:-1]:
        if not epoch.dropped:
            scan(epoch.directory, epoch.vkey, _numbering(epoch.number, take), progress=progress)
    if not epochs:
        return scan(directory, vkey, take, progress=progress)
    newest = epochs[-1]
    return scan(newest.directory, newest.vkey, _numbering(newest.number, take), progress=progress)


def _numbering(epoch: int, take: Callable[[int, bytes], None]) -> Callable[[int, bytes], None]:
    return lambda index, entry: take(numbered(epoch, index), entry)


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
        self._tree = reader.frontier(0 if last is None else max(0, reader.checkpoint.size - last))

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
