"""In which epoch of a published log a reader goes on."""

from itertools import pairwise
from pathlib import Path

from ops.audit.log.checkpoint import VerifierKey
from ops.audit.log.epochs import epoch_at, epochs_of
from ops.audit.reader.read import LogReader


def open_following(directory: Path, vkey: VerifierKey, origin: str, index: int) -> LogReader:
    """The epoch for a reader that came to entry `index` of `origin`: that one, or the next when it is at the end of it.

    For a reader that comes from nowhere, or from another log, it is the oldest epoch whose entries are here.

    Raises:
        ReadError: there is no checkpoint.
        NoteError: it is not signed by this key.
    """
    epochs = epochs_of(directory, vkey)
    for epoch, following in pairwise(epochs):
        reader = LogReader.open(epoch.directory, epoch.vkey)
        if epoch.vkey.name == origin:
            # Read after the next one was seen, so this is the last checkpoint of the epoch.
            unread = index < reader.checkpoint.size and not epoch.dropped
            return reader if unread else LogReader.open(following.directory, following.vkey)
    here = epochs or [epoch_at(directory, vkey, 1)]
    found = next(each for each in here if each is here[-1] or not each.dropped)
    if here[-1].vkey.name == origin:
        found = here[-1]
    return LogReader.open(found.directory, found.vkey)
