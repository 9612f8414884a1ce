"""What comes after a restored log: its origin goes on, or it is sealed and another one begins.

Rules:
1. An origin goes on only when nothing of it is known beyond what was restored. The recorder then starts on it as on any
   log: what is written here is a segment that begins where the log ends, and the lock database.
2. Otherwise it is sealed. The recorder refuses a sealed state directory, the signer's memory holds the largest tree
   that is known, and there is no segment to go on from: each of the three alone keeps it from growing.
3. A new origin begins with a genesis entry that holds the last checkpoint of the old one, and a `recover` entry that
   names the range that was lost. Both are written by the recorder's own parts.
4. The signer's memory is never set back.
"""

from collections.abc import Sequence
from contextlib import ExitStack
from hashlib import sha256
from pathlib import Path

from ops.audit.errors import CheckpointError, RestoreRefused, SuccessionRefused
from ops.audit.log.checkpoint import (
    Checkpoint,
    SignerKey,
    VerifierKey,
    open_checkpoint,
    parse_checkpoint,
)
from ops.audit.log.epochs import home_of, is_first, split_origin
from ops.audit.log.merkle import EMPTY_ROOT
from ops.audit.reader.read import LogReader
from ops.audit.store.appender import Appender, own_append
from ops.audit.store.lock import LockDatabase
from ops.audit.store.own_entries import OwnEntries, previous_of
from ops.audit.store.publisher import Publisher
from ops.audit.store.recovery import recover
from ops.audit.store.segment_store import SegmentStore
from ops.audit.store.segments import FIRST_TRAILER, Header
from ops.audit.store.settings import MIB
from ops.audit.store.signer import SEALED, Signer
from ops.process.durable import keep_file, make_directories, sync_directory

SEGMENT_BYTES = 64 * MIB


def remember(memory: Path, checkpoint: Checkpoint) -> Checkpoint:
    """Have the signer's memory hold a tree that is at least this large, of this epoch or a later one; returns it.

    Raises:
        SuccessionRefused: what it holds cannot be read, or is of another log: it may be more.
    """
    if memory.exists():
        try:
            held = parse_checkpoint(memory.read_text())
        except (CheckpointError, UnicodeDecodeError) as error:
            raise SuccessionRefused(f"{memory} is damaged, and may know of more than is here ({error})") from error
        (log, number), (ours, epoch) = split_origin(held.origin), split_origin(checkpoint.origin)
        if log != ours:
            raise SuccessionRefused(f"{memory} is of another log, {held.origin}")
        if (number, held.size) >= (epoch, checkpoint.size):
            return held
    keep_file(memory, checkpoint.text().encode(), 0o600)
    return checkpoint


def seal(state_directory: Path, memory: Path, largest: Checkpoint) -> None:
    """Keep an origin from growing: nothing may be appended to less than `largest`, which was signed."""
    held = remember(memory, largest)
    keep_file(home_of(state_directory) / SEALED, held.text().encode(), 0o600)


def go_on(directory: Path, state_directory: Path, memory: Path, vkey: VerifierKey, *, heartbeats: int) -> int:
    """Let the recorder go on with a log that was restored and verified. Returns the log's size.

    Args:
        directory: the log.
        state_directory: of the recorder, or of an epoch below it; must hold no segments.
        memory: of the signer, beside its key.
        vkey: the log's key.
        heartbeats: in the log, as `verify` counts them.

    Raises:
        SuccessionRefused: more was signed than there is, the origin is sealed, there is something to go on from, or
            the memory cannot be relied on.
        LogCorrupted: the log's tiles do not give its root.
    """
    segments = state_directory / "segments"
    sealed = home_of(state_directory) / SEALED
    if (sealed.exists() and not _is_before(sealed, vkey)) or any(segments.glob("*.seg")):
        raise SuccessionRefused(f"{state_directory} is sealed, or in use: its origin does not go on from a copy")
    note = (directory / "checkpoint").read_bytes()
    checkpoint = open_checkpoint(note, [vkey])
    held = remember(memory, checkpoint)
    if held != checkpoint:
        signed = f"{held.size} entries" if held.origin == vkey.name else f"{held.size} entries of {held.origin}"
        raise SuccessionRefused(f"the key of {vkey.name} has signed {signed}, {checkpoint.size} are left")
    for changed in make_directories(segments) | make_directories(state_directory / "staging"):
        sync_directory(changed)
    frontier = LogReader(directory, checkpoint).frontier(checkpoint.size)
    header = Header(1, heartbeats, FIRST_TRAILER, sha256(vkey.name.encode()).digest(), frontier)
    store = SegmentStore(segments, SEGMENT_BYTES)
    store.begin(header).close()
    with LockDatabase(home_of(state_directory) / "lock.sqlite", vkey.name) as lock:
        lock.swap(lock.read(), note)
    recover(directory, store.paths(), vkey.name, public=checkpoint, signed=checkpoint)
    if sealed.exists():
        sealed.unlink()
        sync_directory(sealed.parent)
    return checkpoint.size


def _is_before(sealed: Path, vkey: VerifierKey) -> bool:
    """Whether an epoch before this one was sealed, when it was restored: that says nothing of this one."""
    try:
        log, number = split_origin(parse_checkpoint(sealed.read_text()).origin)
    except (CheckpointError, UnicodeDecodeError):
        return False
    return log == split_origin(vkey.name)[0] and number < split_origin(vkey.name)[1]


def begin_next(
    key: SignerKey,
    directory: Path,
    state_directory: Path,
    memory: Path,
    *,
    last: bytes,
    vkey: VerifierKey,
    lost_end: int,
    own: OwnEntries,
) -> Checkpoint:
    """Begin the log that follows a sealed one. Returns its first checkpoint.

    Args:
        key: of the new origin, which must have signed nothing yet.
        directory: of the new log; must be empty, as `state_directory`.
        state_directory: of its recorder.
        memory: of its signer, beside its key.
        last: the checkpoint of the old log as it was restored, a note.
        vkey: of the old log.
        lost_end: the size of the largest tree of it that is known.
        own: makes the first entries.

    Raises:
        RestoreRefused: there is something already, or the key is not that of a new log.
    """
    _demand_new(key, vkey, (directory, state_directory), memory)
    for wanted in (directory, state_directory / "segments", state_directory / "staging"):
        for changed in make_directories(wanted):
            sync_directory(changed)
    old = open_checkpoint(last, [vkey])
    _write_first(
        key,
        directory,
        state_directory,
        memory,
        [
            own.genesis(key.name, str(key.verifier), previous=previous_of(last, vkey)),
            own.lost(old.origin, old.size, old.root, lost_end=lost_end),
        ],
    )
    return open_checkpoint((directory / "checkpoint").read_bytes(), [key.verifier])


def _demand_new(key: SignerKey, old: VerifierKey, places: Sequence[Path], memory: Path) -> None:
    if split_origin(key.name)[0] == split_origin(old.name)[0]:
        raise RestoreRefused(f"{key.name} is sealed: name the key of a new origin (`stockade keys log`)")
    if not is_first(key.name):
        raise RestoreRefused(f"{key.name} is the name of an epoch: name the key of a new log (`stockade keys log`)")
    for place in places:
        if place.exists() and any(place.iterdir()):
            raise RestoreRefused(f"{place} holds something; a new log begins in a new directory")
    if memory.exists():
        raise RestoreRefused(f"{memory} says that this key has signed a log before; make another")


def _write_first(
    key: SignerKey, directory: Path, state_directory: Path, memory: Path, opening: Sequence[bytes]
) -> None:
    """Make the first entries of a log durable and public, by the recorder's own parts."""
    nothing = Checkpoint(key.name, 0, EMPTY_ROOT)
    found = recover(directory, [], key.name, public=nothing, signed=nothing)
    with ExitStack() as stack:
        publisher = Publisher(
            directory,
            state_directory / "staging",
            edge=found.edge,
            signer=Signer(key, memory),
            lock=stack.enter_context(LockDatabase(state_directory / "lock.sqlite", key.name)),
            vkey=key.verifier,
        )
        stack.callback(publisher.close)
        appender = Appender(
            SegmentStore(state_directory / "segments", SEGMENT_BYTES),
            found.edge,
            found.frontier,
            key.name,
            number=found.next_number,
            previous=found.previous,
            heartbeats=0,
        )
        stack.callback(appender.close)
        appender.commit([own_append(opening)])
        while publisher.publish():
            pass
