"""After a restoration: what is known of the log beyond the backup, whether its origin may go on, what it erased.

A backup ends where its checkpoint does, and the gateway went on. So the log in it is completed from whatever else there
is (mirrors, what the disk still gives), held against every checkpoint that is known, and verified. Its origin goes on
only where that was asked for *and* nothing is known to be missing; otherwise it is sealed, which the recorder respects
(`ops.audit.store.succession`).
"""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from ops.audit.copies.restore import Restoration, Seen, later_epoch, restore_log
from ops.audit.copies.sources import Source
from ops.audit.errors import CheckpointError, SuccessionRefused
from ops.audit.log.checkpoint import Checkpoint, VerifierKey, parse_checkpoint, parse_vkey
from ops.audit.log.epochs import home_of, split_origin
from ops.audit.payloads.erasure import Erasures
from ops.audit.payloads.erasure_log import follow
from ops.audit.reader.read import open_following
from ops.audit.store.succession import go_on, seal
from ops.audit.verify.report import INCOMPLETE, OK
from ops.audit.verify.verify import verify_log
from ops.backup.errors import BackupDamaged
from ops.backup.manifest import BackedLog
from ops.backup.restore import Restored


@dataclass(frozen=True, slots=True)
class Reopened:
    """The log as it stands now. `lost_end`: the size of the largest tree that is known; `goes_on`: it may grow."""

    origin: str
    size: int
    root: str
    lost_end: int
    payloads_missing: int
    goes_on: bool


def reopen(
    target: Path,
    log: BackedLog,
    *,
    sources: Sequence[Source] = (),
    following: Sequence[Source] = (),
    notes: Sequence[tuple[str, bytes]] = (),
    wanted: bool,
) -> Reopened:
    """Complete and verify the log of a restored backup; let its origin go on, or seal it.

    Args:
        target: where the backup was restored.
        log: of its manifest.
        sources: other copies of the log, or of the epoch that it is.
        following: where those would have the next epoch.
        notes: checkpoints that are known, each with where it is from.
        wanted: the operator says that nothing came after what the copies hold.

    Raises:
        BackupDamaged: the log does not verify.
        SuccessionRefused: going on was wanted, and more is known than there is. The origin is sealed.
        RestoreError, StoreError: as `restore_log`.
    """
    vkey = parse_vkey(log.vkey)
    directory, state, memory = (target / each for each in (log.directory, log.state_directory, log.memory))
    done = restore_log(sources, directory, vkey, notes=[("the backup", log.note.encode()), *notes])
    report = verify_log(directory, [log.vkey])
    if report.exit_code not in {OK, INCOMPLETE if done.payloads_missing else OK}:
        raise BackupDamaged([f"{log.directory}: {each.where}: {each.what}" for each in report.findings])
    largest = _largest(done, later_epoch(following, notes, vkey), memory)
    lost = _place(largest) > _place(done.seen.checkpoint)
    if lost or not wanted:
        seal(state, memory, largest)
        if wanted:
            of = "" if largest.origin == vkey.name else f" of {largest.origin}"
            raise SuccessionRefused(
                f"{vkey.name} is sealed: {largest.size} entries{of} were signed, {report.size} are here; bring more "
                "copies with --log-from, or begin a new origin with `stockade audit restore`"
            )
    else:
        go_on(directory, state, memory, vkey, heartbeats=report.heartbeats)
    lost_end = largest.size if largest.origin == vkey.name else done.lost_end
    return Reopened(vkey.name, report.size, report.root, lost_end, done.payloads_missing, goes_on=wanted)


def catch_up(back: Restored) -> None:
    """Let what the restored log says of erasures and holds take force in the restored key database.

    The host does so too, at each start; but not once another origin has followed, and its log is the one that is read.

    Raises:
        AuditError, OSError: the log, or the key database, cannot be used.
    """
    log = back.manifest.log
    databases = [each.path for each in back.files if each.kind == "keys" and each.path not in back.keys_expired]
    if log is None:
        return
    newest = parse_vkey(log.vkey)
    first = VerifierKey(split_origin(newest.name)[0], newest.public_key)
    reader_from = partial(open_following, home_of(back.target / log.directory), first)
    for path in databases:
        erasures = Erasures(back.target / path)
        try:
            while follow(erasures, reader_from).more:
                pass
        finally:
            erasures.close()


def _largest(done: Restoration, later: Seen | None, memory: Path) -> Checkpoint:
    """The largest tree of the newest epoch that anybody signed or the signer remembers."""
    known = [each.checkpoint for each in (done.seen, *done.newer, later) if each is not None]
    with suppress(FileNotFoundError, UnicodeDecodeError, CheckpointError):
        known.append(parse_checkpoint(memory.read_text()))
    return max(known, key=_place)


def _place(checkpoint: Checkpoint) -> tuple[int, int]:
    """How far a log is: its epoch, and how much of it."""
    return split_origin(checkpoint.origin)[1], checkpoint.size
