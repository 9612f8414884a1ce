"""Everything the audit log raises: `AuditError` and below it. Errors carry data; the gateway words them for callers."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

INVALID_ENTRY = "invalid entry"
Unavailability = Literal["recorder_gone", "backlog_full", "append_timeout", "append_too_large", "log_refused", "closed"]


class AuditError(Exception):
    """The root."""


class AuditUnavailable(AuditError):
    """The record is not known to be durable. It may still turn up in the log, the answer must not leave."""

    def __init__(self, reason: Unavailability, detail: str = "") -> None:
        super().__init__(reason, detail)
        self.reason = reason
        self.detail = detail

    @property
    def invalid(self) -> bool:
        """Say whether the log refused the append because something in it is no entry: nothing of it was written."""
        return self.detail == INVALID_ENTRY


class EntryError(AuditError):
    """Bytes that are not one canonical entry of a known kind within its limits."""


class NoteError(AuditError):
    """Bytes that are not a signed note (c2sp.org/signed-note)."""


class CheckpointError(NoteError):
    """A note whose text is not a checkpoint (c2sp.org/tlog-checkpoint)."""


class VerifierKeyError(NoteError):
    """A string that is not a verifier key (or signer key) of a supported type."""


class SignatureInvalid(NoteError):
    """A signature under a known key name and id that does not verify: the whole note is rejected."""


class SignatureMissing(NoteError):
    """No signature by a known key."""


class QuorumMissing(NoteError):
    """Fewer witnesses have cosigned a checkpoint than the policy asks for."""


class TrustPolicyError(AuditError):
    """A file that is not a policy of trusted logs and witnesses (c2sp.org/tlog-policy)."""


class ProofError(AuditError):
    """A Merkle proof that does not lead to the root it should."""


class TileError(AuditError):
    """A tile path, tile, entry bundle or payload pack that breaks its format."""


class ProtocolError(AuditError):
    """A peer that breaks the framing of the recorder's socket."""


class SettingsError(AuditError):
    """A setting out of its limits."""


class ReadError(AuditError):
    """Something asked for that the published log does not hold."""


class IndexRejected(AuditError):
    """A directory that is no index of this log, or one that cannot be compared here."""

    def __init__(self, directory: Path, problem: str) -> None:
        super().__init__(f"{directory}: {problem}")
        self.directory = directory


class QueryUnavailable(AuditError):
    """Questions in SQL need a library that is not installed."""

    def __init__(self, library: str) -> None:
        super().__init__(f"{library} is not installed: pip install 'stockade[audit]'")
        self.library = library


class QueryRefused(AuditError):
    """A question that is not one SELECT, is wrong, or takes more than it may. The text is for its asker."""


class MirrorError(AuditError):
    """A mirror cannot be brought up to date; it stands where it stood."""


class MirrorRefused(MirrorError):
    """The source does not extend what the mirror holds: an older copy, a fork, or another log."""


class MirrorBusy(MirrorError):
    """Somebody else is copying into the same mirror."""


class CopyRejected(MirrorError):
    """The source is not what its checkpoint says. `problems` has one line each, at least one."""

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__(problems[0])
        self.problems = tuple(problems)


class StoreError(AuditError):
    """An object store did not do what it was asked. What it was asked may have been done all the same."""


class StoreUnavailable(StoreError):
    """It cannot be asked, answers too late, is full, or did not keep what it was given. Ask again later."""


class StoreRefused(StoreError):
    """It says no: credentials, rights, a bucket that is not there, or a place that can be no store."""


class ReplicationError(AuditError):
    """What time does not mend: store and log contradict each other. Nothing is written until somebody looked."""


class ReplicaDiffers(ReplicationError):
    """An object that is written once holds something else than the log does: a fork, or tampering."""


class ReplicaAhead(ReplicationError):
    """The log does not extend the store's checkpoint: an older copy of the log was put back, or it is a fork."""


class ReplicaUnlocked(ReplicationError):
    """An object that was just written can be changed or removed sooner than it may be."""


class LogRejected(ReplicationError):
    """The log is not what its checkpoint says, so nothing of it is written where it could never be mended.

    `problems` has one line each, at least one.
    """

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__(problems[0])
        self.problems = tuple(problems)


class RestoreError(AuditError):
    """A log is not restored. What was there is as it was."""


class NothingToRestore(RestoreError):
    """No source has a checkpoint of this log that holds what is asked for."""


class RestoreRefused(RestoreError):
    """The target holds something else, or more than would be restored; or the key of the next log is not a new one."""


class HistoriesDiffer(RestoreError):
    """Two checkpoints that one key signed and no log can both extend: a fork."""


class RestoreIncomplete(RestoreError):
    """Files that no source has as they should be. `missing` has their paths, at least one."""

    def __init__(self, missing: Sequence[str]) -> None:
        more = f", and {len(missing) - 1} more" if len(missing) > 1 else ""
        super().__init__(f"no source has {missing[0]} as it should be{more}")
        self.missing = tuple(missing)


class SuccessionRefused(RestoreError):
    """An origin may not go on, because more of it was signed than is left."""


class WitnessError(AuditError):
    """A witness gave no cosignature; `name` is the policy's for it."""

    def __init__(self, name: str, problem: str) -> None:
        super().__init__(f"witness {name}: {problem}")
        self.name = name


class WitnessSilent(WitnessError):
    """It cannot be reached, answers too late, or answers something else than the protocol has."""


class WitnessRefused(WitnessError):
    """It will not cosign: it does not know the log, or the checkpoint does not extend what it has seen."""


class WitnessAhead(WitnessError):
    """It has seen another tree of this log than ours, or a larger one: a fork, or an older copy was put back.

    `size` is that of the larger tree, 0 where it is another one.
    """

    def __init__(self, name: str, problem: str, size: int = 0) -> None:
        super().__init__(name, problem)
        self.size = size


class RingError(AuditError):
    """A file that is not an in-flight ring."""


class KeyStoreError(AuditError):
    """The key database cannot do what was asked."""


class KeyMissing(KeyStoreError):
    """The data key is gone: erased, or never made here."""


class ErasureRefused(KeyStoreError):
    """An erasure, or a hold against one, that may not be. The text is for the administrator who asks."""


class SealBroken(KeyStoreError):
    """A ciphertext that does not authenticate, or does not match its commitment."""


class RecorderError(AuditError):
    """The recorder refuses to start or to go on; `exit_code` is what its process ends with."""

    exit_code = 70


class AppenderRunning(RecorderError):
    """Another process appends to this log, or took over."""

    exit_code = 75


class LogCorrupted(RecorderError):
    """Durable data contradicts itself. Never repaired by cutting: restore the named file from a copy."""

    exit_code = 65

    def __init__(self, where: Path, problem: str) -> None:
        super().__init__(f"{where}: {problem}")
        self.where = where
        self.problem = problem


class LogFull(RecorderError):
    """The filesystem has no room for another segment. Nothing is lost; appends are refused until there is."""

    exit_code = 73


class ForkRefused(RecorderError):
    """The signer holds a checkpoint which the tree it was shown does not extend."""

    exit_code = 76


class EpochClosed(RecorderError):
    """An epoch that was closed does not grow."""


class Poisoned(RecorderError):
    """A sync failed, so what is durable is unknown. Never retried (the kernel drops the pages it failed to write)."""

    exit_code = 74
