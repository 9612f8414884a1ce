"""Reads a whole published log, a part at a time, and says at the end whether it was the one that is signed.

For readers that count rather than keep: memory does not grow with the log.
"""

from collections.abc import Callable
from pathlib import Path

from ops.audit.errors import ProofError
from ops.audit.log.checkpoint import Checkpoint, VerifierKey
from ops.audit.log.epochs import epochs_of, numbered
from ops.audit.log.merkle import Frontier, leaf_hashes
from ops.audit.reader.read import LogReader

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
