"""Whether a log may be trusted after a sync has failed: it has to extend what is known of it elsewhere.

What the disk holds then is not known. `recovery` reads the segments from the device, and holds them against the
checkpoints and memories on the same disk; this holds the log against its replica, which is on another, and against what
witnesses have cosigned: they are asked. Files that are public had their syncs before: the tree over them is what is
compared.

It writes nothing. A checkpoint that is signed here, in the lock database, and not public yet counts: the recorder
completes it when it starts, and proves that it is the one.
"""

import time
from contextlib import closing
from pathlib import Path
from threading import Thread

from ops.audit.copies.object_store import ObjectStore
from ops.audit.copies.replicator import CHECKPOINT, demand_extension
from ops.audit.errors import (
    NoteError,
    QuorumMissing,
    ReadError,
    ReplicaAhead,
    ReplicaDiffers,
    WitnessRefused,
    WitnessSilent,
)
from ops.audit.log.checkpoint import Checkpoint, VerifierKey, open_checkpoint
from ops.audit.log.epochs import EPOCHS, Epoch, epoch_at, keys_for, newest_epoch, number_of
from ops.audit.log.trust_policy import NONE, TrustedWitness, TrustPolicy
from ops.audit.reader.read import LogReader
from ops.audit.store.lock import LockDatabase
from ops.audit.witnesses.client import TIMEOUT_S, newest_cosigned

Held = tuple[str, Checkpoint]  # by whom, for people


def compare(
    directory: Path,
    vkey: VerifierKey,
    lock: Path,
    *,
    store: ObjectStore | None,
    cosigned: Path,
    witnesses: TrustPolicy,
) -> None:
    """See that the newest epoch of a log extends what is known of it, and that nobody knows of a later one.

    Args:
        directory: the log.
        vkey: its key.
        lock: the recorder's lock database.
        store: what it is replicated to, if anything.
        cosigned: the file with the checkpoint that the quorum cosigned last, which may be missing.
        witnesses: those that have a URL are asked. One that has lost its database says nothing against the log.

    Raises:
        ReplicaAhead: it does not: an older state of it came back, or it is a fork.
        ReplicaDiffers: the store's checkpoint is not one of this log.
        StoreError, QuorumMissing, ReadError, OSError: it cannot be compared now.
    """
    for held in _in_file(cosigned, vkey):
        number = number_of(vkey.name, held.origin) or 1
        _demand(epoch_at(directory, vkey, number), lock, held, "the quorum")
    newest = newest_epoch(directory, vkey)
    for epoch in (newest, epoch_at(directory, vkey, newest.number + 1)):  # nobody should have any of the second yet
        for where, held in (*_in_store(store, epoch), *_at_witnesses(witnesses, epoch)):
            _demand(epoch, lock, held, where)


def _in_store(store: ObjectStore | None, epoch: Epoch) -> list[Held]:
    key = CHECKPOINT if epoch.number == 1 else f"{EPOCHS}/{epoch.number:04d}/{CHECKPOINT}"
    note = None if store is None else store.get(key)
    try:
        return [] if note is None else [("the store", open_checkpoint(note, [epoch.vkey]))]
    except NoteError as error:
        raise ReplicaDiffers(f"the checkpoint in the store is not one of this log: {error}") from error


def _in_file(cosigned: Path, vkey: VerifierKey) -> list[Checkpoint]:
    """What the quorum cosigned last, of whichever epoch.

    Raises:
        ReadError: it is damaged. It stands on the disk that failed, and may know more than the log there.
    """
    try:
        note = cosigned.read_bytes()
        return [open_checkpoint(note, keys_for(note, [vkey]))]
    except FileNotFoundError:
        return []
    except NoteError as error:
        raise ReadError(
            f"{cosigned} is no checkpoint of this log ({error}): bring it back from a backup, or remove it to go by "
            "the store and the witnesses alone"
        ) from error


def _at_witnesses(policy: TrustPolicy, epoch: Epoch) -> list[Held]:
    """What each witness has cosigned last, all asked at once; one that answers a byte at a time is not waited for.

    Raises:
        QuorumMissing: those that say nothing, or nothing that the log has signed, make the quorum by themselves: they
            alone may know of a checkpoint that answers have waited for.
    """
    asked = [witness for witness in policy.witnesses.values() if witness.url]
    answers: dict[str, list[Held]] = {}
    problems = {each.name: str(WitnessSilent(each.name, f"no answer within {TIMEOUT_S:g} s")) for each in asked}

    def ask(witness: TrustedWitness) -> None:
        try:
            note = newest_cosigned(witness, epoch.vkey.name, timeout_s=TIMEOUT_S)
            answers[witness.name] = [(f"the witness {witness.name}", open_checkpoint(note, [epoch.vkey]))]
        except WitnessRefused:
            answers[witness.name] = []
        except (WitnessSilent, NoteError) as problem:
            problems[witness.name] = str(problem)

    threads = [Thread(target=ask, args=(each,), daemon=True) for each in asked]
    for thread in threads:
        thread.start()
    until = time.monotonic() + TIMEOUT_S
    for thread in threads:
        thread.join(max(0.0, until - time.monotonic()))
    given = dict(answers)
    silent = {name: problem for name, problem in problems.items() if name not in given}
    if silent and policy.quorum != NONE and policy.enough(silent):
        raise QuorumMissing("; ".join(silent.values()))
    return [each for held in given.values() for each in held]


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
