"""Whether a log may be trusted after a sync has failed: it has to extend what is known of it elsewhere.

What the disk holds then is not known. `recovery` reads the segments from the device, and holds them against the
checkpoints and memories on the same disk; this holds the log against its replica, which is on another, and against what
witnesses have cosigned. Files that are public had their syncs before: the tree over them is what is compared.

It writes nothing. A checkpoint that is signed here, in the lock database, and not public yet counts: the recorder
completes it when it starts, and proves that it is the one.
"""

from contextlib import closing
from pathlib import Path

from ops.audit.checkpoint import Checkpoint, VerifierKey, open_checkpoint
from ops.audit.epochs import EPOCHS, Epoch, epoch_at, newest_epoch
from ops.audit.errors import NoteError, ReadError, ReplicaAhead, ReplicaDiffers
from ops.audit.lock import LockDatabase
from ops.audit.object_store import ObjectStore
from ops.audit.read import LogReader
from ops.audit.replicator import CHECKPOINT, demand_extension

__all__ = ["compare"]


def compare(directory: Path, vkey: VerifierKey, lock: Path, store: ObjectStore | None, cosigned: Path) -> None:
    """See that the newest epoch of a log extends what is known of it.

    Args:
        directory: the log.
        vkey: its key.
        lock: the recorder's lock database.
        store: what it is replicated to, if anything.
        cosigned: the file with the checkpoint that the quorum cosigned last, which may be missing.

    Raises:
        ReplicaAhead: it does not: an older state of it came back, or it is a fork.
        ReplicaDiffers: the store's checkpoint is not one of this log.
        StoreError, ReadError, OSError: it cannot be compared now.
    """
    epoch = newest_epoch(directory, vkey)
    if store is not None:
        for each in (epoch, epoch_at(directory, vkey, epoch.number + 1)):  # of which the store should have nothing yet
            note = store.get(CHECKPOINT if each.number == 1 else f"{EPOCHS}/{each.number:04d}/{CHECKPOINT}")
            if note is not None:
                try:
                    _demand(each, lock, open_checkpoint(note, [each.vkey]), "the store")
                except NoteError as error:
                    raise ReplicaDiffers(f"the checkpoint in the store is not one of this log: {error}") from error
    if cosigned.exists():
        try:
            held = open_checkpoint(cosigned.read_bytes(), [epoch.vkey])
        except NoteError:  # of an epoch before
            return
        _demand(epoch, lock, held, "the quorum")


def _demand(epoch: Epoch, lock: Path, held: Checkpoint, where: str) -> None:
    try:
        reader = LogReader.open(epoch.directory, epoch.vkey)
    except ReadError:
        reader = None
    if reader is not None and reader.checkpoint.size >= held.size:
        demand_extension(reader, held, where)
    elif _signed_size(epoch, lock) < held.size:
        public = 0 if reader is None else reader.checkpoint.size
        raise ReplicaAhead(f"{where} has {held.size} records, the log {public}: an older state of it came back")


def _signed_size(epoch: Epoch, lock: Path) -> int:
    if not lock.exists():
        return 0
    with closing(LockDatabase(lock, epoch.vkey.name)) as database:
        note = database.read()
    return 0 if note is None else open_checkpoint(note, [epoch.vkey]).size
