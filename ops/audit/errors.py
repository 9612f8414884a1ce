"""Everything the audit log raises, in one tree. Errors carry data; the gateway words them for callers.

```
AuditError
├── AuditUnavailable         no durable record can be promised now (client side)
├── EntryError               bytes that are not an entry
├── NoteError                bytes that are not a signed note
│   ├── CheckpointError      a note whose text is not a checkpoint
│   ├── VerifierKeyError     a string that is not a verifier or signer key
│   ├── SignatureInvalid     a known key, a signature that is not its own
│   ├── SignatureMissing     no signature by any known key
│   └── QuorumMissing        fewer witnesses have cosigned than the policy asks for
├── TrustPolicyError         a file that is not a policy of logs and witnesses
├── ProofError               an inclusion or consistency proof that proves nothing
├── TileError                a path, tile, bundle or pack that breaks its format
├── ProtocolError            a peer on the recorder's socket that breaks the framing
├── SettingsError            recorder settings out of their limits
├── ReadError                an index, size or blob that the published log does not hold
├── MirrorError
│   ├── MirrorRefused        the source does not extend what the mirror holds
│   ├── MirrorBusy           somebody else is copying into the same mirror
│   └── CopyRejected         the source is not what its checkpoint says
├── WitnessError
│   ├── WitnessSilent        a witness that cannot be reached, or answers too late
│   ├── WitnessRefused       a witness that will not cosign
│   └── WitnessAhead         a witness that has seen a larger tree of this log
├── RingError                an in-flight ring of another format
├── KeyStoreError
│   ├── KeyMissing           the key was erased, or never existed
│   └── SealBroken           a ciphertext that does not open, or opens to something else
└── RecorderError            the recorder refuses to start or to go on
    ├── AppenderRunning      another appender holds this log
    ├── LogCorrupted         durable data contradicts itself
    ├── LogFull              no room for another segment
    ├── ForkRefused          the signer was asked for a checkpoint that does not extend its last one
    └── Poisoned             an I/O error left it unknown what is durable
```
"""

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


class Poisoned(RecorderError):
    """A sync failed, so what is durable is unknown. Never retried (the kernel drops the pages it failed to write)."""

    exit_code = 74
